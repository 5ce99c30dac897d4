"""Checks whether each engine really works: each one runs a tiny model in a process of its own.

    python -m self2self.runtime.engines.probe ort FOLDER

A version number proves little. A CUDA library may load and then crash, hang, fall back to the CPU or treat dropout as
identity. So each engine gets a fresh process with a time limit. There it has to compute the same numbers as the
reference implementation of the onnx package. The outcome is one line of `self2self engines`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from self2self.errors import EngineUnavailableError, Obstacle, UsageError, as_option, first_line, speaking, typed
from self2self.machine.files import scratch_folder
from self2self.machine.system import available_cpus
from self2self.runtime.engines.onnxruntime.cpu import BOTH_INSTALLED, REINSTALL, installed_packages
from self2self.runtime.engines.registry import ENGINES, NEEDS_GPU, engine_class

TIMEOUT_SECONDS = 60.0
"""Time limit of one engine; TensorRT's build of the tiny model, and libraries on a cold disk, take longest."""
TOLERANCE = 1e-3
"""Largest accepted difference of a prediction; without its masks the tiny model differs by more than 1."""
TF32_TOLERANCE = 1e-2
"""The same for engines that round products to 10 bits."""
BFLOAT16_TOLERANCE = 0.1
"""The same for engines that round to 8 bits."""
INT8_TOLERANCE = 0.3
"""The same for engines that round to integers of 8 bits."""
_MODEL, _ARRAYS = "probe.onnx", "probe.npz"
_TOLERANCES = {"tf32": TF32_TOLERANCE, "bfloat16": BFLOAT16_TOLERANCE, "int8": INT8_TOLERANCE, None: TOLERANCE}
_MODEL_TOLERANCES = {"fp32": 0.0, "fp16": 2e-2, "bf16": BFLOAT16_TOLERANCE}
"""The same for models that compute in half precision, compared with float32."""
_PACKAGES = {
    "mnn": "MNN",
    "openvino": "openvino",
    "torch": "torch",
    "torch-amx": "torch",
    "torch-int8": "torch",
    "trt": "tensorrt",
    "trt-rtx": "tensorrt-rtx",
}


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """A row of `self2self engines`.

    Attributes:
        name: of the engine.
        works: whether the engine computed the right numbers.
        version: name and version of its library; empty where unknown.
        device: name of the device that it computes on; empty where the engine does not work.
        provider: what really computed; empty where nothing ran.
        difference: largest difference of a prediction; None where there is no prediction, or no finite difference.
        seconds: duration of its process.
        cause: why the engine does not work, for programs (`errors.Obstacle`); empty where it works.
        reason: the same for people.
        fix: what would help, with the line to type.
    """

    name: str
    works: bool
    version: str = ""
    device: str = ""
    provider: str = ""
    difference: float | None = None
    seconds: float = 0.0
    cause: str = ""
    reason: str = ""
    fix: str = ""


def probe_engines(timeout_seconds: float = TIMEOUT_SECONDS, model: Path | None = None) -> list[ProbeResult]:
    """Try every engine, several at a time.

    Args:
        timeout_seconds: time limit of one engine.
        model: exported file to try the engines on; None for a tiny model.

    Raises:
        UsageError: `timeout_seconds` is not above 0.
        InputError, FileFormatError: `model` cannot be loaded.
        EngineUnavailableError: the reference for `model`, PyTorch, is not installed.
    """
    if not timeout_seconds > 0:
        raise UsageError(
            f"{typed('--timeout')} is {timeout_seconds:g}; expected seconds, for example {typed('--timeout 60')}."
        )
    from self2self.runtime.engines.probe_model import case_of, make_case

    # TensorRT writes its engines beside the model, so they vanish with the folder.
    with scratch_folder() as folder:
        case = make_case() if model is None else case_of(model)
        (folder / _MODEL).write_bytes(case.model)
        np.savez(folder / _ARRAYS, image=case.image, expected=case.expected, **case.masks)  # type: ignore[arg-type]
        with ThreadPoolExecutor(min(available_cpus(), len(ENGINES))) as pool:
            return list(pool.map(partial(probe, folder=folder, timeout_seconds=timeout_seconds), ENGINES))


def probe(engine: str, folder: Path, timeout_seconds: float) -> ProbeResult:
    """Try one engine on the case in `folder`, in a process of its own."""
    start = time.perf_counter()
    # The interpreter has to find this copy of the package, whatever its working directory.
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-P", "-m", __spec__.name, engine, str(folder)],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        found = ProbeResult(
            engine,
            works=False,
            cause=Obstacle.TIMED_OUT,
            reason=f"it did not finish a small model in {timeout_seconds:g} s",
            fix=f"Give it more time: self2self engines --timeout {5 * timeout_seconds:g}.",
        )
    else:
        try:
            found = ProbeResult(**json.loads(_result_path(folder, engine).read_bytes()))
        except FileNotFoundError:
            found = _process_failure(engine, done.returncode, done.stderr.decode(errors="replace"))
    return replace(found, seconds=round(time.perf_counter() - start, 3))


def notes() -> list[str]:
    """Warnings about the installation, one line each, even where every engine still works."""
    if len(installed_packages()) < 2:
        return []
    return [f"{BOTH_INSTALLED}; each writes its files over the other's, so engines may vanish. {REINSTALL}"]


def check(engine: str, folder: Path) -> ProbeResult:
    """Try one engine in this process, which should have been started for it."""
    version = ""
    try:
        kind = engine_class(engine)
        version = kind.version()
        device = kind.device_name()
        provider, difference, precision = _run(engine, folder)
    except EngineUnavailableError as error:
        reason = error.reason or first_line(error)
        return ProbeResult(engine, works=False, version=version, cause=error.cause, reason=reason, fix=error.fix)
    except Exception as error:
        # Our own error names a temporary file; the library's error says more.
        reason = first_line(error.__cause__ or error)
        fix = f"Install it again: {_reinstall(engine)}."
        return ProbeResult(
            engine,
            works=False,
            version=version,
            cause=Obstacle.OTHER,
            reason=f"a small model fails ({reason})",
            fix=fix,
        )
    tolerance = max(_TOLERANCES[kind.rounds_to], _MODEL_TOLERANCES[precision])
    # `difference > tolerance` would be False for NaN.
    if not difference <= tolerance:
        return ProbeResult(
            engine,
            works=False,
            version=version,
            provider=provider,
            difference=difference if np.isfinite(difference) else None,
            cause=Obstacle.WRONG_RESULT,
            reason=f"its numbers are wrong by {difference:.2g} (at most {tolerance:g} is accepted)",
            fix=f"Install another version: {_reinstall(engine)}.",
        )
    return ProbeResult(engine, True, version, device, provider, difference)


def _run(engine: str, folder: Path) -> tuple[str, float, str]:
    """Run the case in `folder`; the provider that ran, the largest difference, and the precision of the model."""
    from self2self.runtime.model import load_model

    with np.load(folder / _ARRAYS) as stored:
        arrays: dict[str, Any] = dict(stored)
    image, expected = arrays.pop("image"), arrays.pop("expected")
    model = load_model(folder / _MODEL)
    with engine_class(engine)(model, image) as running:
        difference = np.abs(running.run(arrays).astype(np.float64) - expected).max()
        return running.provider(), float(difference), model.contract.precision


def _process_failure(engine: str, code: int, stderr: str) -> ProbeResult:
    """The result for a process that ended with exit code `code` and wrote no result."""
    if code < 0:
        try:
            how = f"its libraries crashed ({signal.Signals(-code).name})"
        except ValueError:
            how = f"its libraries crashed (signal {-code})"
    else:
        lines = stderr.strip().splitlines()
        how = f"its process ended with exit code {code}" + (f" ({lines[-1][:200]})" if lines else "")
    return ProbeResult(
        engine,
        works=False,
        cause=Obstacle.CRASHED,
        reason=f"{how} while a small model was tried",
        fix=f"Install it again: {_reinstall(engine)}.",
    )


def _reinstall(engine: str) -> str:
    package = _PACKAGES.get(engine) or ("onnxruntime-gpu" if engine in NEEDS_GPU else installed_packages()[0])
    return f"pip install --force-reinstall {package}"


def _result_path(folder: Path, engine: str) -> Path:
    return folder / f"{engine}.json"


def main(arguments: list[str]) -> int:
    """Try an engine on the case in a folder and write the result there; `arguments` are the engine and the folder."""
    engine, folder = arguments[0], Path(arguments[1])
    # Libraries write to stdout, so the result goes into a file.
    path = _result_path(folder, engine)
    partial_path = path.with_suffix(".partial")
    partial_path.write_text(json.dumps(asdict(check(engine, folder))))
    partial_path.replace(path)
    return 0


if __name__ == "__main__":
    # For the commands `engines` and `bench`, which print what this process says.
    with speaking(as_option):
        sys.exit(main(sys.argv[1:]))
