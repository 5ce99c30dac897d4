"""Exports the network without masks as a plain ONNX file, which any program can run, and verifies it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from self2self.errors import UsageError, typed
from self2self.export.to_onnx import check_agreement, host_copy, serialise
from self2self.export.verify import DEFAULT_TOLERANCE, Verification, compared, run_onnx
from self2self.imaging.padding import Padding
from self2self.machine.files import atomic_path
from self2self.machine.marks import Mark
from self2self.model.contract import IMAGE, Contract
from self2self.model.graph import IR_VERSION, OPSET_VERSION, element_type, note_weights
from self2self.model.plain import without_mask_channels

if TYPE_CHECKING:
    import onnx

    from self2self.model.network import Self2SelfNet

FloatArray = NDArray[np.float32]

PRECISIONS = ("fp32", "fp16")
"""Precisions of plain files."""
TOLERANCES = {"fp32": DEFAULT_TOLERANCE, "fp16": 1 / 255}
"""Largest accepted difference from PyTorch in float32, in units of [0, 1]: half precision may differ by one grey
level."""
CHECKED_SIZE, CHECKED_IMAGES = (70, 45), 2
"""Height and width of the images that a file of any size is verified with, and their number. Their padding is odd, and
wider than half the image."""


def export_plain(
    network: Self2SelfNet,
    contract: Contract,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    mark: Mark | None = None,
) -> Verification:
    """Write `network` as one plain ONNX file, and verify it against PyTorch.

    The new file replaces `path` only if everything succeeds; otherwise `path` stays unchanged.

    Args:
        network: with a decoder keep probability of 1; on any device, not changed.
        contract: of a plain model (`Contract.as_plain`) in one of `PRECISIONS`; becomes the metadata.
        path: of the `.onnx` file; an existing one is replaced.
        size: fixed (height, width), of any length; by default both are free.
        mark: says which job made the file; None for none.

    Raises:
        UsageError: the precision or the size does not work.
        VerificationError: ONNX Runtime cannot run the file, or its result differs from PyTorch's.
        ResourceError, OutputError: the file cannot be written.
    """
    data = serialise(build_plain_model(network, contract, size))
    with atomic_path(path, mark=mark) as temporary:
        temporary.write_bytes(data)
        return verify_plain(network, contract, temporary, size=size, source=os.fspath(path))


def build_plain_model(
    network: Self2SelfNet,
    contract: Contract,
    size: tuple[int, int] | None = None,
    *,
    opset: int = OPSET_VERSION,
    ends: tuple[float, float] = (0.0, 1.0),
) -> onnx.ModelProto:
    """Build the plain model in memory and check it; other arguments and errors are those of `export_plain`.

    Args:
        network: as for `export_plain`.
        contract: as for `export_plain`.
        size: as for `export_plain`.
        opset: version of ONNX's operators.
        ends: values of image and result that are 0 and 1 to the network, for programs with a range of their own.

    Raises:
        ValueError: `contract` does not describe `network`.
    """
    import onnx

    from self2self.model.plain_graph import plain_graph

    check_agreement(network, contract)
    if contract.precision not in PRECISIONS:
        raise UsageError(
            f"{typed('--precision')} is {contract.precision}; plain models have {' or '.join(PRECISIONS)}."
        )
    if size is not None and min(size) < 1:
        raise UsageError(f"{typed('--size')} is {size[0]}x{size[1]}; expected at least 1x1.")
    kind = element_type(contract.precision)
    graph = plain_graph(contract, network.layers, kind, size, ends)
    weights = {name: weight.numpy() for name, weight in host_copy(network).state_dict().items()}
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    graph.initializer.extend(
        onnx.numpy_helper.from_array(weight.astype(dtype), name)
        for name, weight in without_mask_channels(weights, contract.channels).items()
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="self2self")
    onnx.helper.set_model_props(model, contract.to_metadata())
    note_weights(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def verify_plain(
    network: Self2SelfNet,
    contract: Contract,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    source: str | None = None,
    ends: tuple[float, float] = (0.0, 1.0),
) -> Verification:
    """Compare a plain file in ONNX Runtime with `finished_by_torch`, on images of random values.

    Args:
        network: as for `export_plain`.
        contract: of the exported file.
        path: the exported file.
        size: fixed (height, width) of the file; None if it takes any size.
        source: name of the file in messages; by default `path`.
        ends: as for `build_plain_model`.

    Raises:
        VerificationError: as for `verify.verify`.
    """
    start = time.perf_counter()
    source = source or str(path)
    shape = (CHECKED_IMAGES if size is None else 1, contract.channels, *(size or CHECKED_SIZE))
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    expected = finished_by_torch(network, contract, image, ends)
    return compared(run_onnx(path, {IMAGE: image}, source), expected, source, TOLERANCES[contract.precision], start)


def finished_by_torch(
    network: Self2SelfNet, contract: Contract, image: FloatArray, ends: tuple[float, float] = (0.0, 1.0)
) -> FloatArray:
    """What a plain model computes, in PyTorch and float32.

    Args:
        network: without masks.
        contract: of the plain model.
        image: float32 (N, C, H, W) in [0, 1].
        ends: as for `build_plain_model`.

    Returns:
        float32 (N, C, H, W), between the `ends`.
    """
    import torch

    low, high = np.float32(ends[0]), np.float32(ends[1])
    image = np.clip((image - low) / (high - low), 0, 1)
    _, _, height, width = image.shape
    padding = Padding.for_size(height, width, contract.size_multiple, contract.minimum_size)
    with torch.inference_mode():
        prediction = host_copy(network)(torch.from_numpy(padding.pad(image))).numpy()
    share = np.float32(contract.noisy_share)
    blended = (1 - share) * padding.crop(prediction) + share * image
    finished: FloatArray = (low + (high - low) * np.clip(blended, 0, 1)).astype(np.float32, copy=False)
    return finished
