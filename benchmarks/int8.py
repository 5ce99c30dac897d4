"""Measure loss and speed of INT8 in the full-resolution convolutions of the decoder, with ONNX Runtime on the CPU.

    self2self fit examples/noisy.png -o runs/example
    python -m benchmarks.int8 runs/example examples/clean.png -o benchmarks/results/int8.json

These convolutions are most of the work. onnxruntime.quantization quantises their weights and activations (static, QDQ,
one scale for each output channel of the weights). The calibration data are the middle of the run's image with real
masks, of passes that the comparison does not use. INT8 and float32 ensembles have the same masks and are compared by
PSNR against the clean image. The speed is the speed of single passes; all variants take turns in rounds.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import CalibrationDataReader

from benchmarks.pairs import FloatArray, rms_grey_levels
from benchmarks.results_file import provenance, result_parser, write_result
from self2self.bench.cases import rotated
from self2self.bench.measure import spread
from self2self.export.precision import middle
from self2self.export.rounding_loss import measured_loss
from self2self.export.to_onnx import to_onnx
from self2self.export.verify import open_session
from self2self.jobs.fit import read_fitted_image, read_reference
from self2self.model.contract import IMAGE, PREDICTION, Contract
from self2self.model.masks import MaskMaker
from self2self.train.checkpoint import load_network
from self2self.train.run_folder import Run

ACCEPTED_DECIBELS = 0.05
"""Largest loss of PSNR with which a variant is kept."""
FIRST_CALIBRATION_PASS = 1000
"""First pass of the calibration; the compared passes have lower numbers."""
DECODER_WEIGHTS = ("decoder_first.4.weight", "decoder_second.4.weight")
HEAD_WEIGHTS = ("head.weight",)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to quantise.

    Attributes:
        name: name of the variant in the result.
        weights: names of the weights of the quantised convolutions.
        activations, kernels: integer types of activations and weights.
        calibration: method that computes the ranges from the calibration data.
        reduce_range: use weights of 7 bits, because sums of 8-bit products saturate on processors without VNNI.
    """

    name: str
    weights: tuple[str, ...]
    activations: QuantType = QuantType.QUInt8
    kernels: QuantType = QuantType.QInt8
    calibration: CalibrationMethod = CalibrationMethod.MinMax
    reduce_range: bool = False


VARIANTS = (
    Variant("U8S8", DECODER_WEIGHTS),
    Variant("U8S8, 7-bit weights", DECODER_WEIGHTS, reduce_range=True),
    Variant("U8S8, 99.999 % of the range", DECODER_WEIGHTS, calibration=CalibrationMethod.Percentile),
    Variant("U8S8, head too", (*DECODER_WEIGHTS, *HEAD_WEIGHTS)),
    Variant("S8S8", DECODER_WEIGHTS, activations=QuantType.QInt8),
)


class MaskedInputs(CalibrationDataReader):  # type: ignore[misc]
    """Calibration data: the image with real masks, one pass at a time."""

    def __init__(self, image: FloatArray, maker: MaskMaker, passes: int) -> None:
        self._inputs: Iterator[dict[str, Any]] = (
            {IMAGE: image[None], **maker.make(FIRST_CALIBRATION_PASS + index, 1)} for index in range(passes)
        )

    def get_next(self) -> dict[str, Any] | None:
        """Return the inputs of the next pass; None at the end."""
        return next(self._inputs, None)


def convolutions(path: Path, weights: tuple[str, ...]) -> list[str]:
    """Return the names of the convolutions that have `weights`.

    Raises:
        ValueError: the graph does not have one convolution for each of them.
    """
    nodes = onnx.load(path).graph.node
    found = [node.name for node in nodes if node.op_type == "Conv" and node.input[1] in weights]
    if len(found) != len(weights):
        raise ValueError(f"{path}: {len(found)} convolutions with the weights {weights}")
    return found


def quantise(variant: Variant, source: Path, target: Path, inputs: MaskedInputs) -> None:
    """Quantise the model at `source` and write it to `target`."""
    options = {"CalibPercentile": 99.999} if variant.calibration == CalibrationMethod.Percentile else {}
    quantize_static(
        source,
        target,
        inputs,
        quant_format=QuantFormat.QDQ,
        nodes_to_quantize=convolutions(source, variant.weights),
        per_channel=True,
        reduce_range=variant.reduce_range,
        activation_type=variant.activations,
        weight_type=variant.kernels,
        calibrate_method=variant.calibration,
        extra_options=options,
    )


def ensemble(session: Any, image: FloatArray, maker: MaskMaker, passes: int) -> FloatArray:
    """Return the mean of the first `passes` passes."""
    total = np.zeros(image.shape)
    for index in range(passes):
        total += session.run([PREDICTION], {IMAGE: image[None], **maker.make(index, 1)})[0][0]
    return (total / passes).astype(np.float32)


def pass_seconds(sessions: list[Any], inputs: dict[str, Any], rounds: int) -> list[list[float]]:
    """Time single passes; return a list of seconds, one for each round, for each session."""
    seconds: list[list[float]] = [[] for _ in sessions]
    for session in sessions:
        session.run([PREDICTION], inputs)
    for index in range(rounds):
        for number in rotated(range(len(sessions)), index):
            start = time.perf_counter()
            sessions[number].run([PREDICTION], inputs)
            seconds[number].append(time.perf_counter() - start)
    return seconds


def integer_convolutions(path: Path, folder: Path) -> int:
    """Count the convolutions that ONNX Runtime computes with integers, after its own optimisation of the graph."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    return sum(node.op_type == "QLinearConv" for node in nodes)


def main() -> None:
    """Quantise, compare, time, print and write."""
    parser = result_parser(__doc__)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("clean", type=Path, help="clean image")
    parser.add_argument("--side", type=int, default=128, help="side of the middle of the image that is used")
    parser.add_argument("--passes", type=int, default=20, help="passes of the compared ensembles")
    parser.add_argument("--calibration", type=int, default=8, help="passes of the calibration data")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of the timing")
    args = parser.parse_args()
    # onnxruntime.quantization warns of a missing preparation, which a graph of fixed size does not need.
    logging.disable(logging.WARNING)
    run, size = Run(args.run), (args.side, args.side)
    network, contract = load_network(run.model_path)
    image = read_fitted_image(run.config())
    noisy, clean = (middle(pixels, size) for pixels in (image.pixels, read_reference(args.clean, image)))
    with tempfile.TemporaryDirectory() as folder:
        result = compare_variants(network, contract, noisy, clean, Path(folder), args)
    best = max(result["variants"], key=lambda row: (row["kept"], -row["loss_decibels"]))
    result["kept"] = best["kept"]
    write_result(args.output, {**provenance("int8"), **result})


def compare_variants(
    network: Any, contract: Contract, noisy: FloatArray, clean: FloatArray, folder: Path, args: argparse.Namespace
) -> dict[str, Any]:
    """Compare all variants with float32, and print a line for each."""
    size = (noisy.shape[1], noisy.shape[2])
    maker = MaskMaker(contract.masks, {"H": size[0], "W": size[1]}, contract.seed)
    float32_path = folder / "float32.onnx"
    to_onnx(network, contract, float32_path, size=size)
    sessions = [open_session(float32_path)]
    float32_mean = ensemble(sessions[0], noisy, maker, args.passes)
    rows = []
    for variant in VARIANTS:
        path = folder / "int8.onnx"
        quantise(variant, float32_path, path, MaskedInputs(noisy, maker, args.calibration))
        sessions.append(open_session(path))
        mean = ensemble(sessions[-1], noisy, maker, args.passes)
        rows.append(
            {
                "variant": variant.name,
                "convolutions": len(variant.weights),
                "computed_with_integers": integer_convolutions(path, folder),
                "loss_decibels": measured_loss(float32_mean, mean, clean).estimate,
                "rms_difference": rms_grey_levels(mean - float32_mean),
                "bytes": path.stat().st_size,
            }
        )
    seconds = pass_seconds(sessions, {IMAGE: noisy[None], **maker.make(0, 1)}, args.rounds)
    for row, own in zip(rows, seconds[1:], strict=True):
        ratio = spread([before / after for before, after in zip(seconds[0], own, strict=True)])
        row["seconds_per_pass"] = spread(own)
        row["ratio_to_float32"] = ratio
        # The 10th percentile has to be above 1, because noise alone can move the median above it.
        row["kept"] = abs(row["loss_decibels"]) <= ACCEPTED_DECIBELS and ratio["p10"] > 1
        print(
            f"{row['variant']:30} {row['loss_decibels']:+.4f} dB, {row['rms_difference']:.3f} grey levels, "
            f"{ratio['median']:.2f} times as fast ({ratio['p10']:.2f} to {ratio['p90']:.2f}), "
            f"{row['computed_with_integers']} of {row['convolutions']} convolutions with integers",
            flush=True,
        )
    return {
        "size": list(size),
        "passes": args.passes,
        "calibration_passes": args.calibration,
        "rounds": args.rounds,
        "accepted_decibels": ACCEPTED_DECIBELS,
        "float32_bytes": float32_path.stat().st_size,
        "float32_seconds_per_pass": spread(seconds[0]),
        "variants": rows,
    }


if __name__ == "__main__":
    main()
