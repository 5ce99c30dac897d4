"""Measure the peak memory of one case in a process of its own.

    python -m self2self.bench.memory '{"engine": "ort", "model": "model.onnx", "size": [64, 64], "batch": 1}'

A process that has run one engine keeps the engine's libraries and memory pools, so the growth with a second engine
has no meaning. Each case therefore starts a fresh interpreter, runs a few passes there, and reads the peak of the
resident set at the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from self2self.errors import Self2SelfError, as_option, speaking
from self2self.machine.system import peak_memory_bytes

RUNS = 2
"""Runs of one batch in the process; the second run includes the memory that a pool keeps between runs."""
TIMEOUT_SECONDS = 1200.0
"""Time limit of one case. An engine that TensorRT has to build takes minutes; an engine that hangs never ends."""


def measure_memory(engine: str, model: Path, size: tuple[int, int], batch: int) -> dict[str, Any] | str:
    """Measure the peak memory of `engine`, or of the plain loop, at one size and batch.

    Returns:
        A dict with ``interpreter_bytes`` (Python alone), ``loaded_bytes`` (with the engine's libraries and the model),
        ``peak_bytes`` (after the passes), ``growth_bytes`` (``peak_bytes`` less ``interpreter_bytes``) and
        ``device_bytes`` (memory of the passes on a GPU; None on the CPU). If the case fails: one line with the reason.
    """
    case = {"engine": engine, "model": str(model), "size": list(size), "batch": batch}
    # The new interpreter has to import the same package, whatever its current folder is.
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            # -P keeps the current folder, which may hold modules of any name, off the import path.
            [sys.executable, "-P", "-m", "self2self.bench.memory", json.dumps(case)],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"its process did not finish {RUNS} runs in {TIMEOUT_SECONDS:g} s"
    if done.returncode == 0:
        memory: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return memory
    if done.returncode < 0:
        return f"its process was ended by signal {-done.returncode}, most likely because memory ran out"
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"its process ended with exit code {done.returncode}"


def run_case(engine: str, model_path: Path, size: tuple[int, int], batch: int) -> dict[str, Any]:
    """Run one case in this process, which should be a fresh one, and return its peak memory.

    Raises:
        Self2SelfError: the engine cannot run the case.
    """
    interpreter = peak_memory_bytes()
    loaded, device = _run_plain(model_path, size) if engine == "plain" else _run_engine(engine, model_path, size, batch)
    peak = peak_memory_bytes()
    return {
        "interpreter_bytes": interpreter,
        "loaded_bytes": loaded,
        "peak_bytes": peak,
        "growth_bytes": peak - interpreter,
        "device_bytes": device,
    }


def _run_engine(name: str, path: Path, size: tuple[int, int], batch: int) -> tuple[int, int | None]:
    import numpy as np

    from self2self.runtime.engines.registry import NEEDS_GPU, engine_class
    from self2self.runtime.ensemble.device_loop import ensemble_on
    from self2self.runtime.model import load_model

    model = load_model(path)
    before = _device_used() if name in NEEDS_GPU else None
    image = np.full((1, model.contract.channels, *size), 0.5, np.float32)
    with engine_class(name)(model, image) as engine:
        loaded = peak_memory_bytes()
        ensemble_on(engine, 0)(RUNS * batch, batch)
        # The engine still holds its memory pools here, so this is their largest size.
        after = None if before is None else _device_used()
    return loaded, None if before is None or after is None else after - before


def _run_plain(path: Path, size: tuple[int, int]) -> tuple[int, int | None]:
    import torch

    from self2self.bench.plain_loop import PlainSelf2Self, plain_ensemble
    from self2self.runtime.engines.torch_cpu.reference import network_of
    from self2self.runtime.model import load_model

    network = network_of(load_model(path))
    plain = PlainSelf2Self.from_network(network).eval()
    loaded = peak_memory_bytes()
    plain_ensemble(plain, torch.full((1, network.channels, *size), 0.5), RUNS)
    return loaded, None


def _device_used() -> int | None:
    """Return the bytes in use on CUDA device 0; None where PyTorch cannot use it."""
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info(0)
    return total - free


def main(arguments: list[str]) -> int:
    """Run the case that `arguments[0]` describes as JSON, and print its memory as JSON."""
    case = json.loads(arguments[0])
    height, width = case["size"]
    try:
        memory = run_case(case["engine"], Path(case["model"]), (height, width), case["batch"])
    except Self2SelfError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    except MemoryError:
        print("out of memory", file=sys.stderr)  # noqa: T201
        return 5
    print(json.dumps(memory))  # noqa: T201
    return 0


if __name__ == "__main__":
    # For the commands `engines` and `bench`, which print what this process says.
    with speaking(as_option):
        sys.exit(main(sys.argv[1:]))
