"""Install the wheel into environments of several Pythons, and see that it denoises there, outside the checkout.

    python3.12 -m venv py3.12
    py3.12/bin/python -m pip install torch --index-url https://download.pytorch.org/whl/cpu
    python -m benchmarks.wheel py3.12/bin/python -o benchmarks/results/wheel.json

Each argument is the Python of an environment that has PyTorch; the wheel is installed there, with what it needs. Then
these run in an empty folder: `pip check`, `self2self --help`, `self2self denoise` over a small image, and the same in
Python. The result has the versions, and whether the pixels of both are the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.results_file import provenance, result_parser, write_result

ROOT = Path(__file__).parents[1]
FROM_PYTHON = """
import json, platform, self2self, numpy, torch
from pathlib import Path
from PIL import Image
noisy = numpy.asarray(Image.open("noisy.png"))
few = self2self.FitOptions(steps=STEPS)
result = self2self.denoise(noisy, fit_options=few)
model = self2self.fit(noisy, fit_options=few)
model.save("m.onnx")
loaded = self2self.load("m.onnx").predict(noisy)
written = numpy.asarray(Image.open("noisy.denoised.png"))
print(json.dumps({
    "python": platform.python_version(),
    "torch": torch.__version__,
    "numpy": numpy.__version__,
    "package": str(Path(self2self.__file__).parent),
    "sigma": round(result.sigma, 2),
    "python_equals_command": bool((result.image == written).all()),
    "loaded_equals_command": bool((loaded.image == written).all()),
}))
"""
SIZE, SIGMA = (96, 64), 20.0
STEPS = 10
"""Steps of each fit: enough to see that it runs, and that all ways give the same."""


def output_of(command: list[str], folder: Path) -> str:
    """What a command prints in `folder`, where it sees nothing of this checkout.

    Raises:
        SystemExit: it fails.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["SELF2SELF_CACHE"] = str(folder / "cache")
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}. {done.stdout}{done.stderr}")
    return done.stdout


def tried(python: Path, wheel: Path) -> dict[str, Any]:
    """Install `wheel` for `python`, and use it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        width, height = SIZE
        ramp = np.linspace(60, 190, width)[:, None] + np.random.default_rng(0).normal(0, SIGMA, (height, width, 3))
        Image.fromarray(np.clip(ramp, 0, 255).astype(np.uint8)).save(folder / "noisy.png")
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        output_of([*install, "--force-reinstall", "--no-deps", str(wheel)], folder)
        output_of([*install, str(wheel)], folder)
        check = output_of([str(python), "-m", "pip", "check"], folder).strip()
        command = str(python.parent / "self2self")
        output_of([command, "--help"], folder)
        said = output_of([command, "denoise", "noisy.png", "--steps", str(STEPS)], folder).strip().replace("\n", " ")
        program = FROM_PYTHON.replace("STEPS", str(STEPS))
        values: dict[str, Any] = json.loads(output_of([str(python), "-c", program], folder).splitlines()[-1])
        package = Path(values.pop("package"))
        if not package.is_relative_to(python.parent.parent):
            raise SystemExit(f"{package}: is not in the environment of {python}")
        return {**values, "pip_check": check, "said": said}


def main() -> None:
    """Run the benchmark."""
    parser = result_parser(__doc__)
    parser.add_argument("python", type=Path, nargs="+", help="the Python of an environment")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", name, str(ROOT)]
        subprocess.run(build, check=True)
        (wheel,) = Path(name).glob("self2self-*.whl")
        for python in options.python:
            # The Python of an environment is a link, which has to stay one.
            rows.append(tried(Path(os.path.abspath(python)), wheel))  # noqa: PTH100
            print(json.dumps(rows[-1]))
    write_result(options.output, {**provenance("wheel"), "wheel": wheel.name, "environments": rows})


if __name__ == "__main__":
    main()
