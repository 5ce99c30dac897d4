"""Compiles and launches CUDA kernels at run time, with NVRTC and the driver through NVIDIA's Python bindings.

PyTorch's CUDA builds for Linux install both, so that no compiler is needed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Protocol

from self2self.errors import EngineUnavailableError

if TYPE_CHECKING:
    import torch

Grid = tuple[int, int, int]
Arguments = Sequence["torch.Tensor | int | None"]


class Launcher(Protocol):
    """Launches kernels: `Kernels`, or its replacement in tests."""

    def launch(self, name: str, grid: Grid, threads: int, arguments: Arguments) -> None:
        """See `Kernels.launch`."""


def source(name: str) -> str:
    """Text of the CUDA C++ file `name` in this module's folder."""
    return files(__package__).joinpath(name).read_text()


@cache
def compiled(name: str, macros: tuple[tuple[str, int], ...] = ()) -> Kernels:
    """The kernels of the file `name`, compiled with `macros`: pairs of name and value.

    They are cached, because compiling takes longer than the passes over a small image.

    Raises:
        EngineUnavailableError: see `Kernels`.
    """
    return Kernels(source(name), dict(macros))


class Kernels:
    """The kernels of one source, loaded on PyTorch's current device.

    Args:
        source: CUDA C++ without `#include`.
        macros: macros and their values.

    Raises:
        EngineUnavailableError: the bindings are missing, or the source cannot be compiled or loaded on this machine.
    """

    def __init__(self, source: str, macros: Mapping[str, int]) -> None:
        import torch

        try:
            self._driver = import_module("cuda.bindings.driver")
            self._nvrtc = import_module("cuda.bindings.nvrtc")
        except (ImportError, OSError, RuntimeError) as error:
            built_for = (torch.version.cuda or "13").partition(".")[0]
            raise EngineUnavailableError(
                f"cuda-bindings does not load ({error}). Install it: pip install 'cuda-bindings=={built_for}.*'."
            ) from error
        # These calls create the CUDA context that kernels are loaded into.
        torch.cuda.current_stream()
        torch.empty(1, device="cuda")
        major, minor = torch.cuda.get_device_capability()
        options = [f"--gpu-architecture=sm_{major}{minor}", *(f"-D{name}={value}" for name, value in macros.items())]
        try:
            self._module = self._call(self._driver.cuModuleLoadData, self._compiled(source, options))
        except (RuntimeError, OSError) as error:
            raise EngineUnavailableError(f"CUDA kernels cannot be compiled here ({error}).") from error
        self._functions: dict[str, Any] = {}

    def _compiled(self, source: str, options: Sequence[str]) -> bytes:
        """Compile `source` to a CUBIN.

        Raises:
            RuntimeError: with the compiler's log.
        """
        nvrtc = self._nvrtc
        program = self._call(nvrtc.nvrtcCreateProgram, source.encode(), b"kernels.cu", 0, [], [])
        try:
            try:
                self._call(nvrtc.nvrtcCompileProgram, program, len(options), [option.encode() for option in options])
            except RuntimeError as error:
                log = b" " * self._call(nvrtc.nvrtcGetProgramLogSize, program)
                self._call(nvrtc.nvrtcGetProgramLog, program, log)
                raise RuntimeError(f"{error}: {log.decode(errors='replace').strip()}") from error
            binary: bytes = b" " * self._call(nvrtc.nvrtcGetCUBINSize, program)
            self._call(nvrtc.nvrtcGetCUBIN, program, binary)
        finally:
            nvrtc.nvrtcDestroyProgram(program)
        return binary

    @staticmethod
    def _call(function: Any, *arguments: Any) -> Any:
        """Call a function of the bindings and return its result without the error code.

        Raises:
            RuntimeError: the function reports an error.
        """
        code, *results = function(*arguments)
        if int(code):
            raise RuntimeError(f"{function.__name__}: {code!s}")
        return results[0] if results else None

    def launch(self, name: str, grid: Grid, threads: int, arguments: Arguments) -> None:
        """Launch kernel `name` on PyTorch's current stream.

        Args:
            name: name of the kernel, which is ``extern "C"``.
            grid: number of blocks in x, y and z.
            threads: threads of a block, in x.
            arguments: tensors or None for pointers, ints for ``int``.

        Raises:
            RuntimeError: the kernel does not exist or cannot be launched.
        """
        import torch

        if name not in self._functions:
            self._functions[name] = self._call(self._driver.cuModuleGetFunction, self._module, name.encode())
        values: list[int] = []
        types: list[type] = []
        for argument in arguments:
            if isinstance(argument, int):
                values.append(argument)
                types.append(ctypes.c_int)
            else:
                values.append(0 if argument is None else argument.data_ptr())
                types.append(ctypes.c_void_p)
        stream = torch.cuda.current_stream().cuda_stream
        self._call(
            self._driver.cuLaunchKernel,
            self._functions[name],
            *grid,
            *(threads, 1, 1),
            0,
            stream,
            (tuple(values), tuple(types)),
            0,
        )
