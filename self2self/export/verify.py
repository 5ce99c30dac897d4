"""Proof that an exported file computes what PyTorch computes, before anyone relies on it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from self2self.errors import VerificationError, first_line
from self2self.machine.onnxruntime_import import quiet_onnxruntime_import
from self2self.model.contract import IMAGE, PREDICTION, Contract
from self2self.model.masks import MaskMaker

if TYPE_CHECKING:
    import onnx

    from self2self.model.network import Self2SelfNet

DEFAULT_TOLERANCE = 1e-4
"""Largest accepted difference in units of the image's range [0, 1]; a fortieth of a grey level."""
OTHER_SIZE, OTHER_PASSES = (96, 64), 3
"""Of a small image, neither of which is what was traced, so that a size or a batch in the graph shows."""
_ERRORS_ONLY = 3
_FEW_THREADS = 2


@dataclass(frozen=True, slots=True)
class Verification:
    """How far an exported file is from PyTorch, given the same image and masks.

    Attributes:
        max_difference: largest absolute difference of ``prediction``, in units of [0, 1].
        rms_difference: root mean square of the difference.
        seconds: time that the comparison took.
    """

    max_difference: float
    rms_difference: float
    seconds: float


def verify_file(
    network: Self2SelfNet,
    contract: Contract,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
    source: str | None = None,
) -> Verification:
    """Compare several passes of a small image and, if the file is for one size alone, one pass of that size.

    A pass of a large image takes seconds in PyTorch, and one is enough to show that the file runs at its
    size. All else, such as each pass following its own masks, several small passes show as well. For these
    the sizes that the file declares are lifted; what computes, and the axis of the batch, are the file's own.

    Args:
        network: the network that was exported; not changed.
        contract: of the exported file.
        path: the exported file.
        size: (height, width) that the file is fixed to; None if it takes any.
        tolerance: as for `verify`.
        source: how messages call the file, if not by `path`.

    Returns:
        The larger differences of the two, and the time of both.

    Raises:
        VerificationError: as for `verify`.
    """
    known: dict[str, Any] = {"tolerance": tolerance, "source": source}
    small = verify(network, contract, path, size=OTHER_SIZE, batch=OTHER_PASSES, lift_size=size is not None, **known)
    if size is None:
        return small
    own = verify(network, contract, path, size=size, batch=1, **known)
    return Verification(
        max(small.max_difference, own.max_difference),
        max(small.rms_difference, own.rms_difference),
        small.seconds + own.seconds,
    )


def verify(
    network: Self2SelfNet,
    contract: Contract,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] = (64, 96),
    batch: int = 2,
    seed: int = 0,
    tolerance: float = DEFAULT_TOLERANCE,
    lift_size: bool = False,
    source: str | None = None,
) -> Verification:
    """Run `batch` passes through PyTorch and through ONNX Runtime's CPU provider and compare.

    Args:
        network: the network that was exported; not changed.
        contract: of the exported file.
        path: the exported file.
        size: height and width of the random image that is used.
        batch: number of passes, all in one call.
        seed: of image and masks.
        tolerance: largest accepted difference, in units of [0, 1]; of the largest prediction
            where that is more than 1, as in the first steps of a fit with a high drop rate, where
            float32 itself resolves no more.
        lift_size: whether the file is for another size than `size`, which it then has to be run at all the same.
        source: how messages call the file, if not by `path`.

    Raises:
        VerificationError: the file cannot be run, the network or the file gives numbers that are
            not finite, or they differ by more than `tolerance`.
    """
    source = source or str(path)
    start = time.perf_counter()
    image = np.random.default_rng(seed).random((1, contract.channels, *size), dtype=np.float32)
    masks = MaskMaker(contract.masks, {"H": size[0], "W": size[1]}, seed).make(0, batch)
    inputs = {IMAGE: image, **masks}
    # One after the other: on few cores the two thread pools fight.
    expected = _run_torch(network, inputs)
    if not np.isfinite(expected).all():
        raise VerificationError(
            f"{source}: the fitted network itself predicts numbers that are not finite, so its weights are damaged "
            "or the fit diverged. Fit again: self2self fit IMAGE --force"
        )
    got = _run_onnx(
        path, inputs, source, as_float=contract.precision == "bf16", any_size=contract if lift_size else None
    )
    if got.shape != expected.shape:
        raise VerificationError(
            f"{source}: predicts an array of shape {got.shape}; expected {expected.shape}. "
            "Export it again: self2self export --force"
        )
    difference = np.abs(got.astype(np.float64) - expected)
    largest = float(difference.max())
    accepted = tolerance * max(1.0, float(np.abs(expected).max()))
    # Not `largest > accepted`, which is False for NaN.
    if not largest <= accepted:
        raise VerificationError(
            f"{source}: its predictions differ from PyTorch's by {largest:.2g}; expected at most {accepted:.2g}. "
            "Update torch and onnxruntime, then export it again: self2self export --force"
        )
    rms = float(np.sqrt(np.mean(np.square(difference))))
    return Verification(largest, rms, time.perf_counter() - start)


def _run_torch(network: Self2SelfNet, inputs: dict[str, Any]) -> Any:
    import torch

    from self2self.export.to_onnx import host_copy

    with torch.inference_mode():
        return host_copy(network)(*(torch.from_numpy(array) for array in inputs.values())).numpy()


def open_session(path: str | os.PathLike[str], *, as_float: bool = False, any_size: Contract | None = None) -> Any:
    """A session of ONNX Runtime's CPU provider that prints nothing.

    Args:
        path: of the model.
        as_float: compute in float32 what the file computes in bfloat16, which ONNX Runtime does not run on a CPU.
        any_size: contract of the file, to run it at other sizes than the one that it may be fixed to.
    """
    with quiet_onnxruntime_import():
        import onnxruntime as ort

    ort.set_default_logger_severity(_ERRORS_ONLY)
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = _FEW_THREADS
    options.inter_op_num_threads = 1
    model = _changed(path, as_float, any_size) if as_float or any_size else os.fspath(path)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _changed(path: str | os.PathLike[str], as_float: bool, any_size: Contract | None) -> bytes:
    import onnx

    from self2self.export.to_onnx import free_size

    model = onnx.load_model_from_string(Path(path).read_bytes())
    if as_float:
        bf16_as_float(model)
    if any_size is not None:
        free_size(model, any_size)
    data: bytes = model.SerializeToString()
    return data


def bf16_as_float(model: onnx.ModelProto) -> None:
    """Write every bfloat16 of `model` as float32: the same graph and the same rounded weights."""
    from onnx import TensorProto, numpy_helper

    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT


def _run_onnx(path: str | os.PathLike[str], inputs: dict[str, Any], source: str, **changes: Any) -> Any:
    try:
        return open_session(path, **changes).run([PREDICTION], inputs)[0]
    except Exception as error:
        # ONNX Runtime's exceptions share no base class of their own.
        raise VerificationError(
            f"{source}: ONNX Runtime cannot run it ({first_line(error)}). Export it again: self2self export --force"
        ) from error
