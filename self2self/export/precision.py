"""Half precision: the same graph contract, computed in float16 or bfloat16 inside, and proof that it is good enough.

The network itself is exported in the type, so that no converter guesses which nodes to leave in
float32: all convolutions and activations are in half precision; the image is cast on the way in
and the prediction on the way out.

What is compared is what a user gets: the mean of an ensemble, with the same masks, of the run's
own image. A single pass differs more than the mean does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from self2self.errors import InputError, UsageError, VerificationError
from self2self.export.rounding_loss import bounded_loss, measured_loss, signed_residual
from self2self.export.to_onnx import build_model, dtype_of, host_copy, serialise
from self2self.export.verify import Verification, open_session, verify_file
from self2self.imaging.outliers import clip_to_range
from self2self.machine.files import atomic_path
from self2self.model.contract import IMAGE, PRECISIONS, PREDICTION, Contract
from self2self.model.masks import MaskMaker

if TYPE_CHECKING:
    import torch

    from self2self.model.network import Self2SelfNet

FloatArray = NDArray[np.float32]

ACCEPTED_DECIBELS = 0.02
"""Largest accepted change of the PSNR of the ensemble's mean, against a clean reference or as bounded without one."""
PASSES = 8
"""Of the compared ensembles. More passes bring the two means closer together."""
LARGEST_SIDE = 128
"""Of the part of the image that is compared: its ensembles then take some seconds."""
GRAPH_TOLERANCE = 2e-2
"""For `verify_file`, which finds wrong graphs; how good the numbers are is judged by the ensemble."""
HEADROOM = 2.0
"""Other passes and other places may have activations that are larger than the largest seen."""


@dataclass(frozen=True, slots=True)
class PrecisionCheck:
    """How far an ensemble in half precision is from the one in float32.

    Attributes:
        precision: ``"fp16"`` or ``"bf16"``.
        decibels: size of the change of the PSNR against the clean reference; without one, the most
            that is likely (`rounding_loss`).
        estimated_decibels: the change itself, positive for a loss; without a reference, the most likely one.
        rms_difference: of the ensembles' means, in 8-bit grey levels.
        noise: RMS of what the float32 ensemble removes from the image, in 8-bit grey levels.
        against: ``"reference"`` or ``"estimate"``.
        passes: of both ensembles.
        measured_with: what computed the ensembles in half precision; the worse of them counts.
        largest_activation: largest magnitude that goes into or comes out of a convolution.
        largest_number: largest number of the type.
    """

    precision: str
    decibels: float
    estimated_decibels: float
    rms_difference: float
    noise: float
    against: str
    passes: int
    measured_with: str
    largest_activation: float
    largest_number: float

    def in_words(self) -> str:
        """What was found, for the user."""
        how = (
            f"and its PSNR by {self.decibels:.4f} dB against the clean image"
            if self.against == "reference"
            else f"and its PSNR by at most {self.decibels:.4f} dB, as estimated without a clean image"
        )
        return (
            f"{self.precision} changes the mean of {self.passes} passes by {self.rms_difference:.3f} grey levels {how} "
            f"(up to {ACCEPTED_DECIBELS} is accepted; {self.measured_with}); the largest activation is "
            f"{self.largest_activation:.3g}, and {self.precision} ends at {self.largest_number:.5g}"
        )


def export_in_precision(
    network: Self2SelfNet,
    contract: Contract,
    path: str | os.PathLike[str],
    precision: str,
    pixels: FloatArray,
    *,
    reference: FloatArray | None = None,
    size: tuple[int, int] | None = None,
) -> tuple[Verification, PrecisionCheck]:
    """Write `network` as an ONNX file that computes in `precision`, if the ensemble stays what it is.

    Args:
        network: fitted; not changed.
        contract: of the network in float32.
        path: of the file, which becomes the new one only if everything succeeds.
        precision: ``"fp16"`` or ``"bf16"``.
        pixels: float32 (C, H, W), the noisy image in the range that the network was fitted on.
        reference: the clean image in the same range and size.
        size: fixed (height, width); by default both are free.

    Raises:
        UsageError: `precision` or `size` is wrong.
        InputError: `reference` has another size than `pixels`.
        VerificationError: activations are too large for the type, or the result is not good enough.
        ResourceError, OutputError: the file cannot be written.
    """
    check_precision_name(precision)
    if reference is not None and reference.shape != pixels.shape:
        raise InputError(
            f"the reference has the shape {list(reference.shape)} and the image {list(pixels.shape)}; "
            "expected the same."
        )
    lower = replace(contract, precision=precision)
    data = serialise(build_model(network, lower, size))
    source = os.fspath(path)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
        graph = verify_file(network, lower, temporary, size=size, tolerance=GRAPH_TOLERANCE, source=source)
        check = compare(network, lower, temporary, pixels, reference=reference, source=source)
        judge(check, source)
        return graph, check


def check_precision_name(precision: str) -> None:
    """Refuse names of other types.

    Raises:
        UsageError: names those that there are.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"--precision is {precision!r}; expected one of: {', '.join(PRECISIONS)}.")


def compare(
    network: Self2SelfNet,
    contract: Contract,
    path: str | os.PathLike[str],
    pixels: FloatArray,
    *,
    reference: FloatArray | None = None,
    passes: int = PASSES,
    source: str = "",
) -> PrecisionCheck:
    """Run the same passes in float32 and in the precision of the file, and compare their means.

    Half precision is computed by PyTorch, which rounds the result of every operation (`_rounded_runner`),
    and float16 besides from the file by ONNX Runtime's CPU provider, which computes most of it in
    float32. The worse of the two counts. ONNX Runtime has no bfloat16 on a CPU.

    Args:
        network: in float32.
        contract: of the file.
        path: the file, which may be fixed to a size: what is compared is a part of the image all the same.
        pixels: as in `export_in_precision`.
        reference: as there.
        passes: of each ensemble.
        source: how messages call the file.

    Raises:
        VerificationError: activations are too large for the type.
    """
    size = (_side(pixels.shape[1], contract), _side(pixels.shape[2], contract))
    noisy = clip_to_range(middle(pixels, size))
    clean = None if reference is None else middle(reference, size)
    maker = MaskMaker(contract.masks, {"H": size[0], "W": size[1]}, contract.seed)
    import torch

    dtype = dtype_of(contract.precision)
    network = host_copy(network)
    largest = _watch(network)
    rounded = _rounded_runner(host_copy(network), dtype)
    runners: list[Any] = [_torch_runner(network), rounded]
    measured_with = ["PyTorch with every result rounded"]
    if contract.precision == "fp16":
        session = open_session(path, any_size=contract)
        runners.append(lambda inputs: session.run([PREDICTION], inputs)[0])
        measured_with.append("ONNX Runtime")

    def ensembles(image: FloatArray) -> list[NDArray[Any]]:
        # One after the other: on few cores the two thread pools fight.
        means = []
        for run in runners:
            total = np.zeros(image.shape)
            for index in range(passes):
                total += run({IMAGE: image[None], **maker.make(index, 1)})[0]
            means.append(total / passes)
        return means

    wide, *halves = ensembles(noisy)
    limit = float(torch.finfo(dtype).max)
    activation = largest()
    # Not `>`, which is False for NaN.
    if not activation * HEADROOM <= limit or not np.isfinite(halves).all():
        raise VerificationError(
            f"{source}: activations reach {activation:.3g} and {contract.precision} ends at {limit:.5g}. Use fp32."
        )
    if clean is None:
        added = signed_residual(noisy, wide, contract.seed)
        wide_again, *halves_again = ensembles((wide + added).astype(np.float32))
        changes = [
            bounded_loss(noisy, (wide, half), added, (wide_again, again))
            for half, again in zip(halves, halves_again, strict=True)
        ]
    else:
        changes = [measured_loss(wide, half, clean) for half in halves]
    change = max(changes, key=lambda found: found.bound)
    return PrecisionCheck(
        precision=contract.precision,
        decibels=change.bound,
        estimated_decibels=change.estimate,
        rms_difference=255 * max(_rms(half - wide) for half in halves),
        noise=255 * _rms(wide - noisy),
        against="estimate" if clean is None else "reference",
        passes=passes,
        measured_with=f"{' and '.join(measured_with)}, on the CPU",
        largest_activation=activation,
        largest_number=limit,
    )


def judge(check: PrecisionCheck, source: str) -> None:
    """Refuse a result that changes by more than `ACCEPTED_DECIBELS`.

    Raises:
        VerificationError: says by how much; `source` is what messages call the file.
    """
    if check.decibels <= ACCEPTED_DECIBELS:
        return
    known = check.against == "reference"
    how = "changes the PSNR by" if known else "may change the PSNR by up to"
    remedy = "Use fp32." if known else "Use fp32, or judge it by a clean image: --reference CLEAN."
    raise VerificationError(
        f"{source}: {check.precision} {how} {check.decibels:.3f} dB ({check.rms_difference:.3f} grey levels); "
        f"expected at most {ACCEPTED_DECIBELS} dB. {remedy}"
    )


def middle(pixels: FloatArray, size: tuple[int, int]) -> FloatArray:
    """The middle of an image (C, H, W), mirrored at its edges where it is smaller than `size`."""
    missing = [max(0, wanted - have) for wanted, have in zip(size, pixels.shape[1:], strict=True)]
    padded = np.pad(pixels, [(0, 0), *((0, count) for count in missing)], mode="symmetric")
    top, left = ((have - wanted) // 2 for wanted, have in zip(size, padded.shape[1:], strict=True))
    return np.ascontiguousarray(padded[:, top : top + size[0], left : left + size[1]], np.float32)


def _side(length: int, contract: Contract) -> int:
    multiple = contract.size_multiple
    return max(contract.minimum_size, min(length, LARGEST_SIDE) // multiple * multiple)


def _rms(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _watch(network: Self2SelfNet) -> Any:
    """Note the largest magnitude at all convolutions of `network`; calling the result tells it."""
    from torch import nn

    largest = [0.0]

    def note(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        # Not max(), which loses NaN.
        for value in (float(inputs[0].abs().max()), float(output.abs().max())):
            if not value <= largest[0]:
                largest[0] = value

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    return lambda: largest[0]


def _torch_runner(module: torch.nn.Module) -> Any:
    import torch

    def run(inputs: dict[str, Any]) -> Any:
        with torch.inference_mode():
            return module(*(torch.from_numpy(array) for array in inputs.values())).numpy()

    return run


def _rounded_runner(network: Self2SelfNet, dtype: torch.dtype) -> Any:
    """As `_torch_runner`, with weights, image and all that is computed rounded to `dtype`.

    That is the arithmetic of GPUs, which sum convolutions in float32, and it runs at float32's speed
    on processors without instructions for `dtype`.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Rounded(TorchFunctionMode):
        """Rounds what every function gives."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.dtype == torch.float32:
                return result.to(dtype).float()
            return result

    for weight in network.parameters():
        weight.copy_(weight.to(dtype))

    def run(inputs: dict[str, Any]) -> Any:
        arguments = {name: torch.from_numpy(array) for name, array in inputs.items()}
        arguments[IMAGE] = arguments[IMAGE].to(dtype).float()
        with torch.inference_mode(), Rounded():
            return network(*arguments.values()).numpy()

    return run
