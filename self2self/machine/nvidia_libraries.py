"""Explain messages of CUDA, ONNX Runtime and TensorRT, and find their shared libraries.

These libraries report a problem in a few fixed forms: the loader's line about a file that it did
not find, or the CUDA runtime's name of the error. Each form maps to one cause, so that the user
gets one specific remedy instead of "reinstall CUDA", which helps with none of them.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from self2self.errors import Obstacle

_FILE_NOT_FOUND = re.compile(r"([\w+-]+\.so[.\d]*|\S+\.dll): cannot open shared object")
_VERSION_NOT_FOUND = re.compile(r"version [`'\"]?([\w.+-]+\.so[.\d]*)['\"]? not found")
_UNDEFINED_SYMBOL_VERSION = re.compile(
    r"undefined symbol: \S+, version ([\w+-]+\.so[.\d]*)|not defined in file ([\w+-]+\.so[.\d]*)"
)
_UNDEFINED_SYMBOL = re.compile(r"([\w+-]+\.so[.\d]*): undefined symbol")
_CUDA_FAILURE = r"CUDA (?:failure|initialization failure with error:?) "
_DRIVER_TOO_OLD = re.compile(rf"driver version is insufficient|cudaErrorInsufficientDriver|{_CUDA_FAILURE}35\b")
_NO_GPU = re.compile(rf"no CUDA-capable device|cudaErrorNoDevice|{_CUDA_FAILURE}100\b")
_NO_KERNEL = re.compile(r"no kernel image is available|cudaErrorNoKernelImageForDevice")
_SYSTEM_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64")


@dataclass(frozen=True, slots=True)
class Explanation:
    """The meaning of a library's message.

    Attributes:
        cause: why the engine does not work, for programs.
        reason: the same cause in words, without a full stop.
        library: the shared library that the message names; empty if it names none.
        folder: the folder that holds `library` although the loader did not find it; empty if there is none.
    """

    cause: Obstacle
    reason: str
    library: str = ""
    folder: str = ""


def explain(message: str, title: str, folders: list[Path] | None = None) -> Explanation | None:
    """Explain `message` for the library called `title`; return None if the form of the message is unknown.

    Args:
        message: text from the dynamic loader, the CUDA runtime, ONNX Runtime or TensorRT.
        title: the library that has the problem, for example ``"ONNX Runtime 1.31"``.
        folders: folders to search for the missing library; None for `library_folders`.
    """
    if match := _FILE_NOT_FOUND.search(message):
        return _explain_missing_library(match[1], title, library_folders() if folders is None else folders)
    if (
        match := _VERSION_NOT_FOUND.search(message)
        or _UNDEFINED_SYMBOL_VERSION.search(message)
        or _UNDEFINED_SYMBOL.search(message)
    ):
        library = next(filter(None, match.groups()))
        return Explanation(
            Obstacle.LIBRARY_VERSION, f"the {library} that {title} finds is of another version than it needs", library
        )
    if _DRIVER_TOO_OLD.search(message):
        return Explanation(Obstacle.DRIVER_TOO_OLD, f"the NVIDIA driver is too old for the CUDA of {title}")
    if _NO_GPU.search(message):
        return Explanation(Obstacle.NO_GPU, f"{title} finds no GPU")
    if _NO_KERNEL.search(message):
        return Explanation(Obstacle.GPU_NOT_SERVED, f"{title} was not built for GPUs like this one")
    return None


def library_folders() -> list[Path]:
    """Return the existing folders in which pip, the CUDA toolkit and the system put NVIDIA's libraries."""
    listed = [Path(text) for text in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if text]
    for root in filter(Path.is_dir, map(Path, dict.fromkeys(filter(None, sys.path)))):
        listed += [*sorted(root.glob("nvidia/*/lib")), root / "tensorrt_libs"]
    listed += [*sorted(Path("/usr/local").glob("cuda*/lib64")), *map(Path, _SYSTEM_FOLDERS)]
    return [folder for folder in listed if folder.is_dir()]


def _explain_missing_library(library: str, title: str, folders: list[Path]) -> Explanation:
    stem = library.partition(".so")[0] + ".so"
    found = [path for folder in folders for path in sorted(folder.glob(stem + ".*"))]
    same = next((path for path in found if path.name == library), None)
    if same is not None:
        return Explanation(
            Obstacle.LIBRARY_HIDDEN,
            f"{title} needs {library}, which is in {same.parent}, where the loader does not look",
            library,
            str(same.parent),
        )
    others = list(dict.fromkeys(path.name for path in found if _major_version(path.name) != _major_version(library)))
    if others:
        reason = f"{title} needs {library}, and the version that is there is {others[0]}"
        return Explanation(Obstacle.LIBRARY_VERSION, reason, library)
    return Explanation(Obstacle.LIBRARY_MISSING, f"{title} needs {library}, which is not there", library)


def _major_version(library: str) -> str:
    return library.partition(".so.")[2].partition(".")[0]
