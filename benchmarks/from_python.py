"""Compare `self2self.denoise` in Python with the command `self2self denoise`: processor time, and the pixels.

    python -m benchmarks.from_python -o benchmarks/results/from-python.json

Both denoise the same image in a process of its own, in turns (`--runs`), each with an empty cache. Processor time is
that of the whole process, imports and the reading of the file included; other work on the machine changes it less than
seconds. The result has the median of each, their ratio, and the ratios of the turns. `predict` has the times of
`Model.predict` before `Model.save` and after `load`, in one process.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.results_file import provenance, result_parser, write_result

ROOT = Path(__file__).parents[1]
IMAGE = ROOT / "examples" / "noisy.png"
WANTED_RATIO = 1.05
DENOISE = """
import self2self
import numpy
from PIL import Image
result = self2self.denoise(numpy.asarray(Image.open("noisy.png")))
numpy.save("python.npy", result.image)
"""
PREDICT = """
import json, self2self, time
import numpy
from PIL import Image
noisy = numpy.asarray(Image.open("noisy.png"))
model = self2self.fit(noisy)
model.save("m.onnx")
loaded = self2self.load("m.onnx")
times = {"before": [], "after": []}
# The first call of each is not counted: it makes what later calls find.
for turn in range(4):
    images = []
    for name, used in (("before", model), ("after", loaded)):
        start = time.process_time()
        images.append(used.predict(noisy).image)
        if turn:
            times[name].append(time.process_time() - start)
print(json.dumps({**times, "same": bool((images[0] == images[1]).all())}))
"""


def processor_seconds(arguments: list[str], folder: Path) -> float:
    """Run Python with `arguments` in `folder`, with a new cache; returns the processor time of the process."""
    with tempfile.TemporaryDirectory() as cache:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "SELF2SELF_CACHE": cache, "PYTHONPATH": path}
        before = psutil.Process().cpu_times()
        subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        after = psutil.Process().cpu_times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def predictions(folder: Path) -> dict[str, Any]:
    """Median processor time of `Model.predict` before saving and after loading, and whether the pixels are the same."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", PREDICT], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    values = json.loads(done.stdout.splitlines()[-1])
    medians = {f"{name}_processor_seconds": round(statistics.median(values[name]), 2) for name in ("before", "after")}
    return {**medians, "same_pixels": values["same"]}


def main() -> None:
    """Run the benchmark."""
    parser = result_parser(__doc__)
    parser.add_argument("--runs", type=int, default=5, help="number of runs of each")
    options = parser.parse_args()
    times: dict[str, list[float]] = {"command": [], "python": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "noisy.png").write_bytes(IMAGE.read_bytes())
        for _ in range(options.runs):
            (folder / "noisy.denoised.png").unlink(missing_ok=True)
            times["command"].append(processor_seconds(["-m", "self2self", "denoise", "noisy.png"], folder))
            times["python"].append(processor_seconds(["-c", DENOISE], folder))
        with Image.open(folder / "noisy.denoised.png") as file:
            same = np.array_equal(np.asarray(file), np.load(folder / "python.npy"))
        predict = predictions(folder)
    medians = {name: round(statistics.median(values), 2) for name, values in times.items()}
    ratios = [round(python / command, 3) for command, python in zip(times["command"], times["python"], strict=True)]
    result = {
        **provenance("from_python"),
        "runs": options.runs,
        "processor_seconds": medians,
        "ratio": round(medians["python"] / medians["command"], 3),
        "ratios": ratios,
        "wanted_ratio": WANTED_RATIO,
        "same_pixels": bool(same),
        "predict": predict,
    }
    write_result(options.output, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
