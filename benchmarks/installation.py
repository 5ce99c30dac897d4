"""Measure what an installation takes on the disk, by extra, and whether `pip check` finds it whole.

    python -m benchmarks.installation -o benchmarks/results/installation.json

The documented lines run in a fresh virtual environment: first PyTorch for the CPU, then this checkout. Each extra is
added to a copy of that environment. Packages come from where pip is set up to take them, PyTorch from `--torch`.
The sizes are those of the installed files, without pip itself. An extra that pip cannot install has the reason in place
of a size: `trt` where the index of its vendor is out of reach.

`gpu_lines` are those of docs/engines.md that replace ONNX Runtime by that for GPUs. They are resolved, not installed
(`pip install --dry-run`), and the result has what pip would install.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.results_file import provenance, result_parser, write_result

ROOT = Path(__file__).parents[1]
TORCH = "torch --index-url https://download.pytorch.org/whl/cpu"
EXTRAS = (
    *("mnn", "gpu", "trt", "rtx", "napari", "gui", "zarr", "dask", "hdf5", "formats", "heic", "raw", "report", "live"),
    "progress",
)
"""Those that people need; `iqa` has a page of its own, and the others are for development."""
GPU_LINES = {
    "torch": ("torch>=2.7",),
    "onnxruntime-gpu": ("onnxruntime-gpu[cuda,cudnn]",),
}
MEGABYTE = 1e6


def pip(environment: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pip in a virtual environment; its exit code is not checked."""
    folder = "Scripts" if sys.platform == "win32" else "bin"
    # -I leaves out packages of other places, such as this checkout.
    command = [str(environment / folder / "python"), "-I", "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class InstallError(Exception):
    """Pip cannot install something; the text is the last line of what it says."""


def install(environment: Path, *arguments: str) -> str:
    """Install packages into a virtual environment; returns what pip prints.

    Raises:
        InstallError: pip cannot.
    """
    done = pip(environment, "install", "--quiet", "--no-compile", *arguments)
    if done.returncode:
        # Lines that are indented are those of a build, with paths of this machine.
        lines = [line for line in done.stderr.splitlines() if line.lower().startswith("error:")]
        raise InstallError(lines[-1] if lines else f"exit code {done.returncode}")
    return done.stdout


def resolved(environment: Path, *requirements: str) -> list[str]:
    """Name and version of each package that pip would install.

    Raises:
        InstallError: pip finds no set of versions that fits.
    """
    report = json.loads(install(environment, "--dry-run", "--report", "-", *requirements))
    return sorted(f"{item['metadata']['name']} {item['metadata']['version']}" for item in report["install"])


def measured(environment: Path) -> dict[str, Any]:
    """The size of the packages in a virtual environment, and what `pip check` says of them."""
    (packages,) = [path for path in environment.rglob("site-packages") if path.is_dir()][:1]
    files = [path for path in packages.rglob("*") if path.is_file() and not path.is_symlink()]
    own = sum(path.stat().st_size for path in files if not path.relative_to(packages).parts[0].startswith("pip"))
    check = pip(environment, "check")
    # Wheels are compiled on first use, so the compiled files are no part of the installation.
    return {"megabytes": round(own / MEGABYTE), "pip_check": (check.stdout + check.stderr).strip()}


def main() -> None:
    """Run the benchmark."""
    parser = result_parser(__doc__)
    parser.add_argument("--torch", default=TORCH, help=f"what pip installs first (default: {TORCH})")
    parser.add_argument("--extra", action="append", help=f"an extra to measure (default: {', '.join(EXTRAS)})")
    options = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    gpu_lines: dict[str, list[str]] = {}

    def put(name: str, row: dict[str, Any]) -> None:
        """Add a row, and write the result so far."""
        rows[name] = row
        if "megabytes" in row and "no extra" in rows:
            row["added_megabytes"] = row["megabytes"] - rows["no extra"]["megabytes"]
        print(f"{name:16} {row.get('megabytes', 0):6} MB  {row.get('pip_check', row.get('failed'))}", flush=True)
        listed = [{"extra": extra, **values} for extra, values in rows.items()]
        values = {"torch": options.torch, "rows": listed, "gpu_lines": gpu_lines}
        write_result(options.output, {**provenance("installation"), **values})

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, added = folder / "plain", folder / "added"
        subprocess.run([sys.executable, "-m", "venv", str(plain)], check=True)
        wheel = subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)],
            check=False,
            capture_output=True,
            text=True,
        )
        if wheel.returncode:
            raise SystemExit(f"the wheel cannot be built: {wheel.stderr}")
        (package,) = folder.glob("self2self-*.whl")
        install(plain, *options.torch.split())
        put("PyTorch alone", measured(plain))
        install(plain, str(package))
        put("no extra", measured(plain))
        for extra in options.extra or EXTRAS:
            # pip writes new files and never into one that is there, so the copies may share theirs.
            shutil.copytree(plain, added, symlinks=True, copy_function=os.link)
            try:
                install(added, f"{package}[{extra}]")
                put(extra, measured(added))
            except InstallError as error:
                put(extra, {"failed": str(error)})
            shutil.rmtree(added)
        # Into an environment without PyTorch and without ONNX Runtime, as the lines of the documentation leave it.
        subprocess.run([sys.executable, "-m", "venv", str(added)], check=True)
        gpu_lines.update({name: resolved(added, *requirements) for name, requirements in GPU_LINES.items()})
        put("no extra", rows["no extra"])


if __name__ == "__main__":
    main()
