"""Export: from a fitted network to a file that needs nothing but an inference engine."""

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
    """Write `network` as one ONNX file after it was compared with PyTorch.

    `path` becomes the new file only if everything succeeds; otherwise it is what it was before.

    Args:
        network: fitted network, on any device; not changed.
        contract: what the file says about itself; it must describe `network`.
        path: of the `.onnx` file; an existing one is replaced.
        size: fixed (height, width), multiples of 32 and at least 64; by default both are free.
        tolerance: largest accepted difference of a prediction, as in `verify_file`.

    Returns:
        How far ONNX Runtime's prediction is from PyTorch's.

    Raises:
        UsageError: `size` is not one that the network accepts.
        VerificationError: ONNX Runtime's prediction is not PyTorch's.
        ResourceError, OutputError: the file cannot be written.
    """
    from self2self.export.to_onnx import build_model, serialise

    data = serialise(build_model(network, contract, size))
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
        return verify_file(network, contract, temporary, size=size, tolerance=tolerance, source=os.fspath(path))
