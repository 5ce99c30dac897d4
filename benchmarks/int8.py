"""What INT8 costs and brings: the full-resolution convolutions of the decoder, on ONNX Runtime's CPU.

    self2self fit examples/noisy.png -o runs/example
    python -m benchmarks.int8 runs/example examples/clean.png -o benchmarks/results/int8.json

Weights and activations of these convolutions, which are most of the work, are quantised by
onnxruntime.quantization (static, QDQ, one scale for each output channel of the weights). It is
calibrated on the run's own masked inputs: the middle of the image with real masks of passes that the
comparison does not use. The ensembles have the same masks as the float32 one, and are judged by
PSNR against the clean image; the speed is that of single passes, in interleaved rounds.
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

from benchmarks.pairs import FloatArray
from benchmarks.results_file import write_result
from self2self.bench.cases import rotated
from self2self.bench.environment import environment, shown_command
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
FIRST_CALIBRATION_PASS = 1000
"""Far from the passes that are compared."""
DECODER = ("decoder_first.4.weight", "decoder_second.4.weight")
HEAD = ("head.weight",)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to quantise.

    Attributes:
        name: for the table.
        weights: of the convolutions that are quantised.
        activations, kernels: integer types.
        calibration: how ranges follow from what was seen.
        reduce_range: weights of 7 bits, as sums of 8-bit products saturate on processors without VNNI.
    """

    name: str
    weights: tuple[str, ...]
    activations: QuantType = QuantType.QUInt8
    kernels: QuantType = QuantType.QInt8
    calibration: CalibrationMethod = CalibrationMethod.MinMax
    reduce_range: bool = False


VARIANTS = (
    Variant("U8S8", DECODER),
    Variant("U8S8, 7-bit weights", DECODER, reduce_range=True),
    Variant("U8S8, 99.999 % of the range", DECODER, calibration=CalibrationMethod.Percentile),
    Variant("U8S8, head too", (*DECODER, *HEAD)),
    Variant("S8S8", DECODER, activations=QuantType.QInt8),
)


class MaskedInputs(CalibrationDataReader):  # type: ignore[misc]
    """The image with real masks, one pass at a time."""

    def __init__(self, image: FloatArray, maker: MaskMaker, passes: int) -> None:
        self._inputs: Iterator[dict[str, Any]] = (
            {IMAGE: image[None], **maker.make(FIRST_CALIBRATION_PASS + index, 1)} for index in range(passes)
        )

    def get_next(self) -> dict[str, Any] | None:
        """The next pass's inputs; None at the end."""
        return next(self._inputs, None)


def convolutions(path: Path, weights: tuple[str, ...]) -> list[str]:
    """Names of the nodes that convolve with `weights`."""
    nodes = onnx.load(path).graph.node
    found = [node.name for node in nodes if node.op_type == "Conv" and node.input[1] in weights]
    if len(found) != len(weights):
        raise ValueError(f"{path}: {len(found)} convolutions with the weights {weights}")
    return found


def quantise(variant: Variant, source: Path, target: Path, inputs: MaskedInputs) -> None:
    """Write the model at `source` as INT8."""
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
    """The mean of the first passes."""
    total = np.zeros(image.shape)
    for index in range(passes):
        total += session.run([PREDICTION], {IMAGE: image[None], **maker.make(index, 1)})[0][0]
    return (total / passes).astype(np.float32)


def pass_seconds(sessions: list[Any], inputs: dict[str, Any], rounds: int) -> list[list[float]]:
    """Seconds of single passes: one list for each session, all taking turns."""
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
    """How many convolutions ONNX Runtime really computes with integers, after its own optimisation."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    return sum(node.op_type == "QLinearConv" for node in nodes)


def main() -> None:
    """Quantise, compare, time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("clean", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--side", type=int, default=128, help="of the middle of the image that is used")
    parser.add_argument("--passes", type=int, default=20, help="of the compared ensembles")
    parser.add_argument("--calibration", type=int, default=8, help="passes that ranges are taken from")
    parser.add_argument("--rounds", type=int, default=9, help="of timing")
    args = parser.parse_args()
    # It recommends a preparation that a graph of fixed size does not need.
    logging.disable(logging.WARNING)
    run, size = Run(args.run), (args.side, args.side)
    network, contract = load_network(run.model_path)
    image = read_fitted_image(run.config())
    noisy, clean = (middle(pixels, size) for pixels in (image.pixels, read_reference(args.clean, image)))
    with tempfile.TemporaryDirectory() as folder:
        result = compared(network, contract, noisy, clean, Path(folder), args)
    best = max(result["variants"], key=lambda row: (row["kept"], -row["loss_decibels"]))
    result["kept"] = best["kept"]
    write_result(args.output, {"command": shown_command("python -m benchmarks.int8"), **environment(), **result})


def compared(
    network: Any, contract: Contract, noisy: FloatArray, clean: FloatArray, folder: Path, args: argparse.Namespace
) -> dict[str, Any]:
    """All variants against float32."""
    size = (noisy.shape[1], noisy.shape[2])
    maker = MaskMaker(contract.masks, {"H": size[0], "W": size[1]}, contract.seed)
    wide_path = folder / "float32.onnx"
    to_onnx(network, contract, wide_path, size=size)
    sessions = [open_session(wide_path)]
    wide = ensemble(sessions[0], noisy, maker, args.passes)
    rows = []
    for variant in VARIANTS:
        path = folder / "int8.onnx"
        quantise(variant, wide_path, path, MaskedInputs(noisy, maker, args.calibration))
        sessions.append(open_session(path))
        mean = ensemble(sessions[-1], noisy, maker, args.passes)
        rows.append(
            {
                "variant": variant.name,
                "convolutions": len(variant.weights),
                "computed_with_integers": integer_convolutions(path, folder),
                "loss_decibels": measured_loss(wide, mean, clean).estimate,
                "rms_difference": 255 * float(np.sqrt(np.mean(np.square(mean - wide)))),
                "bytes": path.stat().st_size,
            }
        )
    seconds = pass_seconds(sessions, {IMAGE: noisy[None], **maker.make(0, 1)}, args.rounds)
    for row, own in zip(rows, seconds[1:], strict=True):
        ratio = spread([before / after for before, after in zip(seconds[0], own, strict=True)])
        row["seconds_per_pass"] = spread(own)
        row["ratio_to_float32"] = ratio
        # Faster beyond the spread of the rounds, not by a median that noise has moved.
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
        "float32_bytes": wide_path.stat().st_size,
        "float32_seconds_per_pass": spread(seconds[0]),
        "variants": rows,
    }


if __name__ == "__main__":
    main()
