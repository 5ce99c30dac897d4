"""Exports a network in half precision (float16 or bfloat16), and refuses the file if the result changes too much.

The graph contract stays the same. The network itself is exported in the type, so that no converter has to decide which
nodes remain in float32: all convolutions and activations are in half precision. The graph casts the image to the type
and the prediction back to float32.

The comparison uses the user's result: the mean of an ensemble, with the same masks, for the run's own image. A single
pass would differ more than the mean does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from self2self.errors import InputError, UsageError, VerificationError, typed
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
"""Largest accepted change of the PSNR of the ensemble's mean, measured with a clean image or bounded without one."""
COMPARED_PASSES = 8
"""Passes of each compared ensemble. With more passes, the two means would be closer together."""
LARGEST_COMPARED_SIDE = 128
"""Largest side of the compared part of the image, in pixels; the ensembles then take some seconds."""
GRAPH_TOLERANCE = 2e-2
"""Tolerance of `verify_file`, which only has to find wrong graphs here; the ensemble decides about the precision."""
ACTIVATION_HEADROOM = 2.0
"""Factor between the largest activation found and the largest accepted one: other passes and other parts of the image
may have larger activations."""


@dataclass(frozen=True, slots=True)
class PrecisionCheck:
    """Difference between an ensemble in half precision and the same ensemble in float32.

    Attributes:
        precision: ``"fp16"`` or ``"bf16"``.
        decibels: absolute change of the PSNR against the clean reference; without a reference, the largest
            likely one (`rounding_loss`).
        estimated_decibels: the signed change, positive for a loss; without a reference, the most likely one.
        rms_difference: RMS difference of the ensembles' means, in 8-bit grey levels.
        noise: RMS of the noise that the float32 ensemble removes from the image, in 8-bit grey levels.
        against: ``"reference"`` or ``"estimate"``.
        passes: number of passes of each ensemble.
        measured_with: the programs that computed the ensembles in half precision; the larger change counts.
        largest_activation: largest magnitude in the inputs and outputs of all convolutions.
        largest_number: largest finite number of the type.
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
        """The result as text for the user."""
        how = (
            f"and its PSNR by {self.decibels:.4f} dB against the clean image"
            if self.against == "reference"
            else f"and its PSNR by at most {self.decibels:.4f} dB, as estimated without a clean image"
        )
        return (
            f"{self.precision} changes the mean of {self.passes} passes by {self.rms_difference:.3f} grey levels {how} "
            f"(up to {ACCEPTED_DECIBELS} is accepted; {self.measured_with}); the largest activation is "
            f"{self.largest_activation:.3g}, and the largest {self.precision} number is {self.largest_number:.5g}"
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
    """Write `network` as an ONNX file that computes in `precision`, if the ensemble's result changes little enough.

    Args:
        network: fitted; not changed.
        contract: of the network in float32.
        path: of the file; the new file replaces it only if everything succeeds.
        precision: ``"fp16"`` or ``"bf16"``.
        pixels: float32 (C, H, W), the noisy image in the range that the network was fitted on.
        reference: the clean image in the same range and size, if there is one.
        size: fixed (height, width); by default both are free.

    Returns:
        The verification of the graph, and the comparison of the ensembles.

    Raises:
        UsageError: `precision` or `size` is wrong.
        InputError: `reference` has another shape than `pixels`.
        VerificationError: activations are too large for the type, or the PSNR changes by more than
            `ACCEPTED_DECIBELS`.
        ResourceError, OutputError: the file cannot be written.
    """
    check_precision_name(precision)
    if reference is not None and reference.shape != pixels.shape:
        raise InputError(
            f"the reference has the shape {list(reference.shape)} and the image {list(pixels.shape)}; "
            "expected the same."
        )
    in_precision = replace(contract, precision=precision)
    data = serialise(build_model(network, in_precision, size))
    source = os.fspath(path)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
        graph = verify_file(network, in_precision, temporary, size=size, tolerance=GRAPH_TOLERANCE, source=source)
        check = compare(network, in_precision, temporary, pixels, reference=reference, source=source)
        refuse_large_change(check, source)
        return graph, check


def check_precision_name(precision: str) -> None:
    """Refuse an unknown name of a precision.

    Raises:
        UsageError: the name is unknown; the message lists the known names.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"{typed('--precision')} is {precision!r}; expected one of: {', '.join(PRECISIONS)}.")


def compare(
    network: Self2SelfNet,
    contract: Contract,
    path: str | os.PathLike[str],
    pixels: FloatArray,
    *,
    reference: FloatArray | None = None,
    passes: int = COMPARED_PASSES,
    source: str = "",
) -> PrecisionCheck:
    """Run the same passes in float32 and in the precision of the file, and compare their means.

    PyTorch computes half precision by rounding the result of every operation (`_rounded_runner`). For float16, ONNX
    Runtime's CPU provider also runs the file; it computes most of it in float32. The larger change of the two counts.
    ONNX Runtime has no bfloat16 on a CPU.

    Args:
        network: in float32.
        contract: of the file.
        path: the file. If it has a fixed size, that size does not matter: a part of the image is compared.
        pixels: as in `export_in_precision`.
        reference: as in `export_in_precision`.
        passes: number of passes of each ensemble.
        source: name of the file in messages.

    Raises:
        VerificationError: activations are too large for the type, or means in half precision are not finite.
    """
    size = (_compared_side(pixels.shape[1], contract), _compared_side(pixels.shape[2], contract))
    noisy = clip_to_range(middle(pixels, size))
    clean = None if reference is None else middle(reference, size)
    maker = MaskMaker(contract.masks, {"H": size[0], "W": size[1]}, contract.seed)
    import torch

    dtype = dtype_of(contract.precision)
    network = host_copy(network)
    largest_activation = _record_largest_activation(network)
    runners, measured_with = _runners(network, dtype, path, contract)
    full, *halves = _ensemble_means(runners, maker, passes, noisy)
    limit = float(torch.finfo(dtype).max)
    activation = largest_activation()
    # Not `>`, which is False for NaN.
    if not activation * ACTIVATION_HEADROOM <= limit or not np.isfinite(halves).all():
        raise VerificationError(
            f"{source}: activations reach {activation:.3g}, and the largest {contract.precision} number is "
            f"{limit:.5g}. Use fp32."
        )
    if clean is None:
        added = signed_residual(noisy, full, contract.seed)
        full_again, *halves_again = _ensemble_means(runners, maker, passes, (full + added).astype(np.float32))
        losses = [
            bounded_loss(noisy, (full, half), added, (full_again, again))
            for half, again in zip(halves, halves_again, strict=True)
        ]
    else:
        losses = [measured_loss(full, half, clean) for half in halves]
    worst = max(losses, key=lambda loss: loss.bound)
    return PrecisionCheck(
        precision=contract.precision,
        decibels=worst.bound,
        estimated_decibels=worst.estimate,
        rms_difference=255 * max(_rms(half - full) for half in halves),
        noise=255 * _rms(full - noisy),
        against="estimate" if clean is None else "reference",
        passes=passes,
        measured_with=f"{' and '.join(measured_with)}, on the CPU",
        largest_activation=activation,
        largest_number=limit,
    )


def refuse_large_change(check: PrecisionCheck, source: str) -> None:
    """Refuse a file whose PSNR changes by more than `ACCEPTED_DECIBELS`.

    Args:
        check: result of `compare`.
        source: name of the file in messages.

    Raises:
        VerificationError: the change is too large; the message says how large.
    """
    if check.decibels <= ACCEPTED_DECIBELS:
        return
    is_measured = check.against == "reference"
    how = "changes the PSNR by" if is_measured else "may change the PSNR by up to"
    remedy = "Use fp32." if is_measured else f"Use fp32, or judge it by a clean image: {typed('--reference CLEAN')}."
    raise VerificationError(
        f"{source}: {check.precision} {how} {check.decibels:.3f} dB ({check.rms_difference:.3f} grey levels); "
        f"expected at most {ACCEPTED_DECIBELS} dB. {remedy}"
    )


def middle(pixels: FloatArray, size: tuple[int, int]) -> FloatArray:
    """The middle part of an image (C, H, W), of `size` (height, width); a smaller image is extended by mirroring."""
    missing = [max(0, wanted - have) for wanted, have in zip(size, pixels.shape[1:], strict=True)]
    padded = np.pad(pixels, [(0, 0), *((0, count) for count in missing)], mode="symmetric")
    top, left = ((have - wanted) // 2 for wanted, have in zip(size, padded.shape[1:], strict=True))
    return np.ascontiguousarray(padded[:, top : top + size[0], left : left + size[1]], np.float32)


def _compared_side(length: int, contract: Contract) -> int:
    """Side of the compared part, for an image side of `length` pixels."""
    multiple = contract.size_multiple
    return max(contract.minimum_size, min(length, LARGEST_COMPARED_SIDE) // multiple * multiple)


def _rms(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _record_largest_activation(network: Self2SelfNet) -> Any:
    """Record the largest magnitude in the inputs and outputs of the convolutions of `network`, from now on.

    Returns:
        A function that returns the largest magnitude so far.
    """
    from torch import nn

    largest = [0.0]

    def record(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        # Not max(), which loses NaN.
        for value in (float(inputs[0].abs().max()), float(output.abs().max())):
            if not value <= largest[0]:
                largest[0] = value

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(record)
    return lambda: largest[0]


def _runners(
    network: Self2SelfNet, dtype: torch.dtype, path: str | os.PathLike[str], contract: Contract
) -> tuple[list[Any], list[str]]:
    """Functions from the inputs of a pass to its prediction: in float32 first, then in half precision.

    Args:
        network: on the CPU, in float32.
        dtype: half precision.
        path: the exported file.
        contract: of the file.

    Returns:
        The functions, and the names of the programs that compute half precision.
    """
    runners: list[Any] = [_torch_runner(network), _rounded_runner(host_copy(network), dtype)]
    measured_with = ["PyTorch with every result rounded"]
    if contract.precision == "fp16":
        session = open_session(path, any_size=contract)
        runners.append(lambda inputs: session.run([PREDICTION], inputs)[0])
        measured_with.append("ONNX Runtime")
    return runners, measured_with


def _ensemble_means(runners: list[Any], maker: MaskMaker, passes: int, image: FloatArray) -> list[NDArray[Any]]:
    """The mean prediction of each runner for `image` (C, H, W), float64 (C, H, W), from the same masks."""
    # The runners work one after the other, because on few cores their thread pools compete.
    means = []
    for run in runners:
        total = np.zeros(image.shape)
        for index in range(passes):
            total += run({IMAGE: image[None], **maker.make(index, 1)})[0]
        means.append(total / passes)
    return means


def _torch_runner(module: torch.nn.Module) -> Any:
    """A function from the inputs of a pass, by name and in order, to the prediction of `module`."""
    import torch

    def run(inputs: dict[str, Any]) -> Any:
        with torch.inference_mode():
            return module(*(torch.from_numpy(array) for array in inputs.values())).numpy()

    return run


def _rounded_runner(network: Self2SelfNet, dtype: torch.dtype) -> Any:
    """As `_torch_runner`, with the weights, the image and the result of every function rounded to `dtype`.

    This is the arithmetic of GPUs, which sum convolutions in float32. On processors without instructions for
    `dtype`, it runs at the speed of float32. The weights of `network` are changed.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Rounded(TorchFunctionMode):
        """Rounds the result of every function."""

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
