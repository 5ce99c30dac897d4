"""Describe the environment of a measurement, without names of machines or people."""

from __future__ import annotations

import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from self2self.machine.system import available_cpus

PACKAGES = (
    "self2self",
    "torch",
    "MNN",
    "onnxruntime-gpu",
    "onnxruntime",
    "numpy",
    "bm3d",
    "scikit-image",
    "tensorrt-rtx",
)


def cpu_name() -> str:
    """Return the processor's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment() -> dict[str, Any]:
    """Return the processor, the number of CPUs, and the versions of Python and of the installed `PACKAGES`."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"cpu": cpu_name(), "cpus": available_cpus(), "python": platform.python_version(), "versions": versions}


def shown_command(program: str) -> str:
    """Return the command line of this process as a reader can type it; absolute paths lose their folders."""
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    return f"{program} {shlex.join(words)}".rstrip()
