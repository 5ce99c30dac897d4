"""What a message of CUDA, ONNX Runtime or TensorRT means, and which of their shared libraries are where.

The libraries tell what is in the way in a few fixed forms: the loader's line about a file that it
did not find, and the CUDA runtime's names of its errors. Each is turned into one cause with one
remedy, because "reinstall CUDA" helps with none of them.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from self2self.errors import Obstacle

_MISSING = re.compile(r"([\w+-]+\.so[.\d]*|\S+\.dll): cannot open shared object")
_VERSION = re.compile(r"version [`'\"]?([\w.+-]+\.so[.\d]*)['\"]? not found")
_SYMBOL_VERSION = re.compile(
    r"undefined symbol: \S+, version ([\w+-]+\.so[.\d]*)|not defined in file ([\w+-]+\.so[.\d]*)"
)
_SYMBOL = re.compile(r"([\w+-]+\.so[.\d]*): undefined symbol")
_CODE = r"CUDA (?:failure|initialization failure with error:?) "
_TOO_OLD = re.compile(rf"driver version is insufficient|cudaErrorInsufficientDriver|{_CODE}35\b")
_NO_GPU = re.compile(rf"no CUDA-capable device|cudaErrorNoDevice|{_CODE}100\b")
_NO_KERNEL = re.compile(r"no kernel image is available|cudaErrorNoKernelImageForDevice")
_SYSTEM_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64")


@dataclass(frozen=True, slots=True)
class Explained:
    """What a library's message means.

    Attributes:
        cause: for programs.
        reason: for people, without a full stop.
        library: the shared library that it is about; empty if it is about none.
        folder: where that library lies without being found; empty if it was not found there either.
    """

    cause: Obstacle
    reason: str
    library: str = ""
    folder: str = ""


def explain(message: str, title: str, folders: list[Path] | None = None) -> Explained | None:
    """What `message` means for the library called `title`; None if its form is not known.

    Args:
        message: of the dynamic loader, the CUDA runtime, ONNX Runtime or TensorRT.
        title: who needs what is missing, for example ``"ONNX Runtime 1.31"``.
        folders: where to look for libraries of other versions; None for `library_folders`.
    """
    if match := _MISSING.search(message):
        return _explain_library(match[1], title, library_folders() if folders is None else folders)
    if match := _VERSION.search(message) or _SYMBOL_VERSION.search(message) or _SYMBOL.search(message):
        library = next(filter(None, match.groups()))
        return Explained(
            Obstacle.LIBRARY_VERSION, f"the {library} that {title} finds is of another version than it needs", library
        )
    if _TOO_OLD.search(message):
        return Explained(Obstacle.DRIVER_TOO_OLD, f"the NVIDIA driver is too old for the CUDA of {title}")
    if _NO_GPU.search(message):
        return Explained(Obstacle.NO_GPU, f"{title} finds no GPU")
    if _NO_KERNEL.search(message):
        return Explained(Obstacle.GPU_NOT_SERVED, f"{title} was not built for GPUs like this one")
    return None


def library_folders() -> list[Path]:
    """Folders in which pip, the CUDA toolkit and the system put NVIDIA's libraries, as far as they exist."""
    listed = [Path(text) for text in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if text]
    for root in filter(Path.is_dir, map(Path, dict.fromkeys(filter(None, sys.path)))):
        listed += [*sorted(root.glob("nvidia/*/lib")), root / "tensorrt_libs"]
    listed += [*sorted(Path("/usr/local").glob("cuda*/lib64")), *map(Path, _SYSTEM_FOLDERS)]
    return [folder for folder in listed if folder.is_dir()]


def _explain_library(library: str, title: str, folders: list[Path]) -> Explained:
    stem = library.partition(".so")[0] + ".so"
    found = [path for folder in folders for path in sorted(folder.glob(stem + ".*"))]
    same = next((path for path in found if path.name == library), None)
    if same is not None:
        return Explained(
            Obstacle.LIBRARY_HIDDEN,
            f"{title} needs {library}, which is in {same.parent}, where the loader does not look",
            library,
            str(same.parent),
        )
    others = list(dict.fromkeys(path.name for path in found if _major(path.name) != _major(library)))
    if others:
        reason = f"{title} needs {library}, and the version that is there is {others[0]}"
        return Explained(Obstacle.LIBRARY_VERSION, reason, library)
    return Explained(Obstacle.LIBRARY_MISSING, f"{title} needs {library}, which is not there", library)


def _major(library: str) -> str:
    return library.partition(".so.")[2].partition(".")[0]
