"""Verifies that an exported file computes what PyTorch computes, before the file is used."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from self2self.errors import VerificationError, first_line
from self2self.machine.onnxruntime_import import quiet_onnxruntime_import
from self2self.model.contract import IMAGE, Contract
from self2self.model.masks import MaskMaker

if TYPE_CHECKING:
    import onnx

    from self2self.model.network import Self2SelfNet

FloatArray = NDArray[np.float32]

DEFAULT_TOLERANCE = 1e-4
"""Largest accepted difference in units of the image's range [0, 1]; a fortieth of an 8-bit grey level."""
SMALL_SIZE, SMALL_PASSES = (96, 64), 3
"""Height and width of a small image, and the number of its passes. A size or a batch that is fixed in the graph fails
at these numbers."""
_ORT_ERROR_SEVERITY = 3
"""ONNX Runtime then logs errors alone."""
_THREADS = 2


@dataclass(frozen=True, slots=True)
class Verification:
    """Difference between the predictions of an exported file and of PyTorch, for the same image and masks.

    Attributes:
        max_difference: largest absolute difference of ``prediction``, in units of [0, 1].
        rms_difference: root mean square of the difference, in the same units.
        seconds: duration of the comparison.
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
    """Compare several passes of a small image and, if the file has a fixed size, one pass of that size.

    A pass of a large image takes seconds in PyTorch, and a single one shows that the file runs at its size. Several
    small passes show everything else, for instance that each pass uses its own masks. For the small passes, the
    declared sizes of a fixed file are made free; its nodes, weights and batch axis stay unchanged.

    Args:
        network: the exported network; not changed.
        contract: of the exported file.
        path: the exported file.
        size: fixed (height, width) of the file; None if it takes any size.
        tolerance: as for `verify`.
        source: name of the file in messages; by default `path`.

    Returns:
        The larger differences of the two comparisons, and the sum of their times.

    Raises:
        VerificationError: as for `verify`.
    """
    shared: dict[str, Any] = {"tolerance": tolerance, "source": source}
    is_fixed = size is not None
    small = verify(network, contract, path, size=SMALL_SIZE, batch=SMALL_PASSES, ignore_fixed_size=is_fixed, **shared)
    if size is None:
        return small
    at_size = verify(network, contract, path, size=size, batch=1, **shared)
    return Verification(
        max(small.max_difference, at_size.max_difference),
        max(small.rms_difference, at_size.rms_difference),
        small.seconds + at_size.seconds,
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
    ignore_fixed_size: bool = False,
    source: str | None = None,
) -> Verification:
    """Run `batch` passes in PyTorch and in ONNX Runtime's CPU provider, and compare the predictions.

    Args:
        network: the exported network; not changed.
        contract: of the exported file.
        path: the exported file.
        size: height and width of the random image.
        batch: number of passes, all in one call.
        seed: of image and masks.
        tolerance: largest accepted difference, in units of [0, 1]. It is multiplied by the largest absolute
            prediction if that is over 1, as in the first steps of a fit with a high drop rate, where float32
            itself has no finer resolution.
        ignore_fixed_size: run a file with a fixed size at `size`, which may differ from it.
        source: name of the file in messages; by default `path`.

    Raises:
        VerificationError: the file cannot be run, the network or the file predicts numbers that are
            not finite, or the predictions differ by more than `tolerance`.
    """
    source = source or str(path)
    start = time.perf_counter()
    image = np.random.default_rng(seed).random((1, contract.channels, *size), dtype=np.float32)
    masks = MaskMaker(contract.masks, {"H": size[0], "W": size[1]}, seed).make(0, batch)
    inputs = {IMAGE: image, **masks}
    # The two run one after the other, because on few cores their thread pools compete.
    expected = _run_torch(network, inputs)
    if not np.isfinite(expected).all():
        raise VerificationError(
            f"{source}: the fitted network itself predicts numbers that are not finite, so its weights are damaged "
            "or the fit diverged. Fit again: self2self fit IMAGE --force"
        )
    got = run_onnx(
        path, inputs, source, as_float=contract.precision == "bf16", any_size=contract if ignore_fixed_size else None
    )
    return compared(got, expected, source, tolerance, start)


def compared(got: FloatArray, expected: FloatArray, source: str, tolerance: float, start: float) -> Verification:
    """Compare what a file computes with what PyTorch does.

    Args:
        got: what the file computed.
        expected: what PyTorch computed.
        source: name of the file in messages.
        tolerance: as for `verify`.
        start: `time.perf_counter` at the start of the comparison.

    Raises:
        VerificationError: the shapes differ, or the values by more than `tolerance`.
    """
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
    """Open the file in a session of ONNX Runtime's CPU provider that prints nothing.

    Args:
        path: of the model.
        as_float: replace the bfloat16 of the file by float32, because ONNX Runtime has no bfloat16 on a CPU.
        any_size: the contract of the file, if the session must accept other sizes than a fixed one of the file.
    """
    with quiet_onnxruntime_import():
        import onnxruntime as ort

    ort.set_default_logger_severity(_ORT_ERROR_SEVERITY)
    options = ort.SessionOptions()
    options.log_severity_level = _ORT_ERROR_SEVERITY
    options.intra_op_num_threads = _THREADS
    options.inter_op_num_threads = 1
    model = _converted_model(path, as_float, any_size) if as_float or any_size else os.fspath(path)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _converted_model(path: str | os.PathLike[str], as_float: bool, any_size: Contract | None) -> bytes:
    """The bytes of the model with the conversions of `open_session`."""
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
    """Replace bfloat16 by float32 everywhere in `model`; the graph and the rounded weights stay the same."""
    from onnx import TensorProto, numpy_helper

    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT


def run_onnx(path: str | os.PathLike[str], inputs: dict[str, Any], source: str, **conversions: Any) -> Any:
    """Run the file on `inputs` in ONNX Runtime, and return its only output; conversions as for `open_session`.

    Raises:
        VerificationError: ONNX Runtime cannot run it.
    """
    try:
        return open_session(path, **conversions).run(None, inputs)[0]
    except Exception as error:
        # ONNX Runtime's exceptions have no common base class but Exception.
        raise VerificationError(
            f"{source}: ONNX Runtime cannot run it ({first_line(error)}). Export it again: self2self export --force"
        ) from error
