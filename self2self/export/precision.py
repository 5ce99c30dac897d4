"""Half precision: the same graph contract, computed in float16 or bfloat16 inside, and proof that it is good enough.

The network itself is exported in the type, so that no converter guesses which nodes to leave in
float32: all convolutions and activations are in half precision; the image is cast on the way in
and the prediction on the way out.

What is compared is what a user gets: the mean of an ensemble, with the same masks, of the run's
own image. A single pass differs more than the mean does.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from self2self.contract import IMAGE, PRECISIONS, PREDICTION, Contract
from self2self.errors import InputError, UsageError, VerificationError
from self2self.export.to_onnx import build_model, dtype_of, host_copy, in_precision, serialise
from self2self.export.verify import Verification, open_session, verify
from self2self.files import atomic_path
from self2self.masks import MaskMaker

if TYPE_CHECKING:
    import torch

    from self2self.train.network import Self2SelfNet

FloatArray = NDArray[np.float32]

ACCEPTED_DECIBELS = 0.02
"""Largest accepted change of the PSNR of the ensemble's mean against a clean reference."""
ACCEPTED_WORST_DECIBELS = 0.1
"""The same for the worst case, when there is no reference. The true change was a twentieth of the
worst case in one example, and all of it for a fit of two steps on a flat image."""
PASSES = 8
"""Of the compared ensembles. More passes bring the two means closer together."""
LARGEST_SIDE = {"fp16": 128, "bf16": 64}
"""Of the part of the image that is compared: 8 passes in two precisions then take some seconds.
Processors without bfloat16 instructions are slow at it."""
GRAPH_TOLERANCE = 2e-2
"""For `verify`, which finds wrong graphs; how good the numbers are is judged by the ensemble."""
DENOISED_SHARE = 1 / 3
"""Error of a good result, as a share of the noise: 9.5 dB better than the noisy image, which is
what `fast` reaches at sigma 25. The smaller it is taken, the more a rounding error counts."""
HEADROOM = 2.0
"""Other passes and other places may have activations that are larger than the largest seen."""


@dataclass(frozen=True, slots=True)
class PrecisionCheck:
    """How far an ensemble in half precision is from the one in float32.

    Attributes:
        precision: ``"fp16"`` or ``"bf16"``.
        decibels: change of the PSNR against the clean reference; without one, `worst_decibels`.
        rms_difference: of the ensembles' means, in 8-bit grey levels.
        noise: RMS of what the float32 ensemble removes from the image, in 8-bit grey levels.
        against: ``"reference"`` or ``"noise estimate"``.
        passes: of both ensembles.
        measured_with: what computed the ensemble in half precision.
        largest_activation: largest magnitude that goes into or comes out of a convolution.
        largest_number: largest number of the type.
    """

    precision: str
    decibels: float
    rms_difference: float
    noise: float
    against: str
    passes: int
    measured_with: str
    largest_activation: float
    largest_number: float


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
        graph = verify(
            network, lower, temporary, size=size or (96, 64), batch=2, tolerance=GRAPH_TOLERANCE, source=source
        )
        return graph, compare(network, lower, temporary, pixels, reference=reference, size=size, source=source)


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
    size: tuple[int, int] | None = None,
    passes: int = PASSES,
    source: str = "",
) -> PrecisionCheck:
    """Run the same passes in float32 and in the precision of the file, and compare their means.

    float16 is run from the file by ONNX Runtime's CPU provider. It has no bfloat16, which is run by
    PyTorch from the network that was exported.

    Args:
        network: in float32.
        contract: of the file.
        path: the file.
        pixels: as in `export_in_precision`.
        reference: as there.
        size: as there.
        passes: of each ensemble.
        source: how messages call the file.

    Raises:
        VerificationError: as in `export_in_precision`.
    """
    size = size or (_side(pixels.shape[1], contract), _side(pixels.shape[2], contract))
    noisy = middle(pixels, size)
    clean = None if reference is None else middle(reference, size)
    maker = MaskMaker(contract.masks, {"H": size[0], "W": size[1]}, contract.seed)
    import torch

    dtype = dtype_of(contract.precision)
    wide = host_copy(network)
    largest = _watch(wide)
    runners: list[Any] = [_torch_runner(wide)]
    if contract.precision == "bf16":
        runners.append(_torch_runner(in_precision(host_copy(network), dtype)))
        measured_with = f"PyTorch {torch.__version__} on the CPU"
    else:
        session = open_session(path)
        runners.append(lambda inputs: session.run([PREDICTION], inputs)[0])
        measured_with = "ONNX Runtime on the CPU"
    # One ensemble after the other: on few cores the two thread pools fight.
    means = []
    for run in runners:
        total = np.zeros(noisy.shape)
        for index in range(passes):
            total += run({IMAGE: noisy[None], **maker.make(index, 1)})[0]
        means.append(total / passes)
    limit = float(torch.finfo(dtype).max)
    activation = largest()
    # Not `>`, which is False for NaN.
    if not activation * HEADROOM <= limit or not np.isfinite(means[1]).all():
        raise VerificationError(
            f"{source}: activations reach {activation:.3g} and {contract.precision} ends at {limit:.5g}. Use fp32."
        )
    difference, noise = _rms(means[1] - means[0]), _rms(means[0] - noisy)
    if clean is None:
        against, decibels = "noise estimate", worst_decibels(difference, noise)
    else:
        errors = [max(_rms(np.clip(mean, 0, 1) - clean), 1e-9) for mean in means]
        against, decibels = "reference", abs(20 * math.log10(errors[1] / errors[0]))
    accepted = ACCEPTED_WORST_DECIBELS if clean is None else ACCEPTED_DECIBELS
    if not decibels <= accepted:
        raise VerificationError(
            f"{source}: {contract.precision} changes the result by up to {decibels:.3f} dB "
            f"({255 * difference:.3f} grey levels, {against}); expected at most {accepted} dB. Use fp32."
        )
    return PrecisionCheck(
        contract.precision,
        decibels,
        255 * difference,
        255 * noise,
        against,
        passes,
        measured_with,
        activation,
        limit,
    )


def worst_decibels(difference: float, noise: float) -> float:
    """The most that an RMS `difference` can cost a result whose RMS error e is `DENOISED_SHARE` of the `noise`.

    Errors that add up in every pixel raise e to e + d, and cost 20 log10(1 + d/e) dB.
    """
    return 20 * math.log10(1 + difference / max(DENOISED_SHARE * noise, 1e-9))


def middle(pixels: FloatArray, size: tuple[int, int]) -> FloatArray:
    """The middle of an image (C, H, W), mirrored at its edges where it is smaller than `size`."""
    missing = [max(0, wanted - have) for wanted, have in zip(size, pixels.shape[1:], strict=True)]
    padded = np.pad(pixels, [(0, 0), *((0, count) for count in missing)], mode="symmetric")
    top, left = ((have - wanted) // 2 for wanted, have in zip(size, padded.shape[1:], strict=True))
    return np.ascontiguousarray(padded[:, top : top + size[0], left : left + size[1]], np.float32)


def _side(length: int, contract: Contract) -> int:
    multiple = contract.size_multiple
    return max(contract.minimum_size, min(length, LARGEST_SIDE[contract.precision]) // multiple * multiple)


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
