"""CUDA kernels compiled for the CPU: a launch runs all its threads one after the other."""

from __future__ import annotations

import atexit
import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch

from self2self.runtime.engines.torch_cuda.engine import TorchCudaEngine
from self2self.runtime.engines.torch_cuda.fused import KERNELS
from self2self.runtime.engines.torch_cuda.nvrtc import source

MAXIMUM_ARGUMENTS = 12
COMPILER = shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler to compile the kernels for the CPU")

# All arguments, pointers and ints, are passed as 64 bits, which the calling conventions of 64-bit Linux allow.
LOOP = """
typedef long long A;
extern "C" void run(void (*kernel)(A, A, A, A, A, A, A, A, A, A, A, A), A x, A y, A z, A threads, const A* a) {
    blockDim = {static_cast<unsigned>(threads), 1, 1};
    for (unsigned k = 0; k < z; ++k)
        for (unsigned j = 0; j < y; ++j)
            for (unsigned i = 0; i < x; ++i)
                for (unsigned t = 0; t < threads; ++t) {
                    blockIdx = {i, j, k};
                    threadIdx = {t, 0, 0};
                    kernel(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11]);
                }
}
"""


class KernelsOnTheCpu:
    """A replacement for `nvrtc.Kernels`.

    Args:
        folder: for the source and the library.
        file: name of the CUDA C++ file, as for `nvrtc.source`.
        macros: macros and their values.
    """

    def __init__(self, folder: Path, file: str, macros: Mapping[str, int]) -> None:
        assert COMPILER is not None
        path, library = folder / "kernels.cpp", folder / "kernels.so"
        path.write_text("".join(f"#define {name} {value}\n" for name, value in macros.items()) + source(file) + LOOP)
        subprocess.run([COMPILER, "-std=c++17", "-O1", "-shared", "-fPIC", "-o", library, path], check=True)
        self._library = ctypes.CDLL(str(library))

    def launch(
        self, name: str, grid: tuple[int, int, int], threads: int, arguments: Sequence[torch.Tensor | int | None]
    ) -> None:
        values = [
            argument if isinstance(argument, int) else 0 if argument is None else argument.data_ptr()
            for argument in arguments
        ]
        values += [0] * (MAXIMUM_ARGUMENTS - len(values))
        numbers = (ctypes.c_longlong * MAXIMUM_ARGUMENTS)(*values)
        self._library.run(getattr(self._library, name), *map(ctypes.c_longlong, (*grid, threads)), numbers)


@cache
def on_the_cpu(file: str, macros: tuple[tuple[str, int], ...] = ()) -> KernelsOnTheCpu:
    """The kernels of `file`, compiled once for each process.

    The folder is removed when the process ends, because not every system can remove an open library.
    """
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    atexit.register(folder.cleanup)
    return KernelsOnTheCpu(Path(folder.name), file, dict(macros))


class TorchOnTheCpu(TorchCudaEngine):
    """The engine `torch-cuda` on the CPU: everything that names the device is replaced."""

    device = "cpu"

    @classmethod
    def version(cls) -> str:
        return "for tests"

    @classmethod
    def device_name(cls) -> str:
        return "the CPU"

    def _kernels(self, macros: Mapping[str, int]) -> KernelsOnTheCpu:
        return on_the_cpu(KERNELS, tuple(macros.items()))
