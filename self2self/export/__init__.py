"""Exports a fitted network as a file that needs only an inference engine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from self2self.export.verify import DEFAULT_TOLERANCE, Verification, verify_file
from self2self.machine.files import atomic_path

if TYPE_CHECKING:
    from self2self.model.contract import Contract
    from self2self.model.network import Self2SelfNet

__all__ = ["export_model"]


def export_model(
    network: Self2SelfNet,
    contract: Contract,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
) -> Verification:
    """Write `network` as one ONNX file, and verify it against PyTorch.

    The new file replaces `path` only if everything succeeds; otherwise `path` stays unchanged.

    Args:
        network: fitted network, on any device; not changed.
        contract: becomes the metadata of the file; it must describe `network`.
        path: of the `.onnx` file; an existing one is replaced.
        size: fixed (height, width), multiples of 32 and at least 64; by default both are free.
        tolerance: largest accepted difference of a prediction, as in `verify_file`.

    Returns:
        The difference of the predictions of ONNX Runtime and PyTorch.

    Raises:
        UsageError: the network does not accept `size`.
        VerificationError: ONNX Runtime cannot run the file, or its predictions differ from PyTorch's.
        ResourceError, OutputError: the file cannot be written.
    """
    from self2self.export.to_onnx import build_model, serialise

    data = serialise(build_model(network, contract, size))
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
        return verify_file(network, contract, temporary, size=size, tolerance=tolerance, source=os.fspath(path))
