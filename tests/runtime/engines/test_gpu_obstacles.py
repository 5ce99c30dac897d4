"""Checks that every obstacle of a GPU engine has a cause, a reason and a remedy of its own."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from self2self.errors import EngineUnavailableError, FileFormatError, Obstacle
from self2self.machine import nvidia
from self2self.machine.nvidia import Gpu
from self2self.runtime.engines import gpu as gpu_checks
from self2self.runtime.engines.engine import Engine
from self2self.runtime.engines.onnxruntime import cuda as ort_cuda
from self2self.runtime.engines.onnxruntime.cpu import OrtEngine, import_onnxruntime
from self2self.runtime.engines.onnxruntime.cuda import OrtCudaEngine
from self2self.runtime.engines.onnxruntime.tensorrt import OrtTrtEngine
from self2self.runtime.engines.registry import NEEDS_GPU, engine_class
from self2self.runtime.engines.tensorrt import builder as tensorrt
from self2self.runtime.engines.tensorrt.builder import TENSORRT, TENSORRT_RTX, parse
from self2self.runtime.ensemble import denoise as denoise_module
from self2self.runtime.ensemble.denoise import denoise_pixels
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.model import Model
from tests.runtime.gpu_machine import installed as packages  # `installed` is a test parameter here


def onnxruntime(monkeypatch: pytest.MonkeyPatch, folder: Path, *providers: str, cuda: str = "13.0") -> None:
    """Replace ONNX Runtime by a stand-in in `folder` that was built with `providers`."""
    (folder / "capi").mkdir()
    for kind in (OrtCudaEngine, OrtTrtEngine):
        (folder / "capi" / kind.library).touch()
    module = SimpleNamespace(
        __version__="1.31",
        __file__=str(folder / "__init__.py"),
        get_available_providers=lambda: list(providers),
        preload_dlls=lambda: print("Failed to load libcudnn.so.9: not a shared object"),
    )
    monkeypatch.setattr(ort_cuda, "import_onnxruntime", lambda name: module)
    monkeypatch.setattr(ort_cuda, "cuda_version", lambda ort: cuda)


def error_of(engine: type[Engine]) -> EngineUnavailableError:
    with pytest.raises(EngineUnavailableError) as caught:
        engine.version()
    assert "\n" not in str(caught.value)
    assert str(caught.value) == f"engine {engine.name}: {caught.value.reason}. {caught.value.fix} Use --engine auto."
    return caught.value


PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


@pytest.mark.parametrize(
    ("message", "cause", "fix"),
    [
        (
            "libcublasLt.so.13: cannot open shared object file: No such file or directory",
            Obstacle.LIBRARY_MISSING,
            "It was built for CUDA 13 and cuDNN 9: pip install 'onnxruntime-gpu[cuda,cudnn]'.",
        ),
        (
            "libcudnn.so.9: cannot open shared object file: No such file or directory",
            Obstacle.LIBRARY_VERSION,
            "It was built for CUDA 13 and cuDNN 9: pip install 'onnxruntime-gpu[cuda,cudnn]'.",
        ),
        (
            "libcufft.so.12: cannot open shared object file: No such file or directory",
            Obstacle.LIBRARY_HIDDEN,
            "Type: export LD_LIBRARY_PATH=",
        ),
        ("file too short", Obstacle.DOES_NOT_LOAD, "Type: pip uninstall -y onnxruntime onnxruntime-gpu;"),
    ],
)
def test_libraries_of_the_cuda_provider(
    message: str,
    cause: Obstacle,
    fix: str,
    card: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    onnxruntime(monkeypatch, tmp_path, *PROVIDERS)
    there = tmp_path / "there"
    there.mkdir()
    for name in ("libcudnn.so.8", "libcufft.so.12"):
        (there / name).touch()
    monkeypatch.setattr("self2self.machine.nvidia_libraries.library_folders", lambda: [there])

    def load(path: str, mode: int = 0) -> None:
        if path.endswith(OrtCudaEngine.library):
            raise OSError(message)

    monkeypatch.setattr(ctypes, "CDLL", load)
    error = error_of(OrtCudaEngine)
    assert error.cause == cause
    assert error.fix.startswith(fix)
    # ONNX Runtime's own message must not get into the output of --json.
    assert capsys.readouterr().out == ""


def test_tensorrts_library_for_onnxruntime(card: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime(monkeypatch, tmp_path, *PROVIDERS)
    monkeypatch.setattr("self2self.machine.nvidia_libraries.library_folders", lambda: [tmp_path])
    (tmp_path / "libnvinfer.so.11").touch()

    def load(path: str, mode: int = 0) -> None:
        if path.endswith(OrtTrtEngine.library):
            raise OSError("libnvinfer.so.10: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", load)
    error = error_of(OrtTrtEngine)
    assert error.cause == Obstacle.LIBRARY_VERSION
    assert error.reason == "ONNX Runtime needs libnvinfer.so.10, and the version that is there is libnvinfer.so.11"
    assert error.fix == "Install TensorRT: pip install 'tensorrt==10.*'."


@pytest.mark.parametrize(
    ("installed", "cause"),
    [
        (("onnxruntime", "onnxruntime-gpu"), Obstacle.BOTH_PACKAGES),
        (("onnxruntime",), Obstacle.NO_PROVIDER),
        ((), Obstacle.NO_PROVIDER),
    ],
)
def test_a_build_without_the_provider(
    installed: tuple[str, ...], cause: Obstacle, card: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime(monkeypatch, tmp_path, "CPUExecutionProvider")
    packages(monkeypatch, *installed)
    for kind in (OrtCudaEngine, OrtTrtEngine):
        assert error_of(kind).cause == cause


@pytest.mark.parametrize(
    ("installed", "cause", "fix"),
    [
        (("onnxruntime", "onnxruntime-gpu"), Obstacle.BOTH_PACKAGES, "pip uninstall -y onnxruntime onnxruntime-gpu;"),
        (("onnxruntime-gpu",), Obstacle.DOES_NOT_LOAD, "pip install --force-reinstall onnxruntime-gpu."),
        (("onnxruntime",), Obstacle.DOES_NOT_LOAD, "pip install --force-reinstall onnxruntime."),
    ],
)
def test_an_onnxruntime_that_does_not_load(
    installed: tuple[str, ...], cause: Obstacle, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    (tmp_path / "onnxruntime.py").write_text("raise ImportError('cannot import name InferenceSession')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    packages(monkeypatch, *installed)
    with pytest.raises(EngineUnavailableError, match=r"Or use --engine torch\.$") as caught:
        import_onnxruntime("ort")
    assert caught.value.cause == cause
    assert fix in caught.value.fix


def test_a_driver_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks, "find_gpu", lambda: Gpu("NVIDIA RTX 3090", (8, 6), 2**34, (12, 4)))
    onnxruntime(monkeypatch, tmp_path, *PROVIDERS)
    error = error_of(OrtCudaEngine)
    assert (error.cause, error.fix) == (Obstacle.DRIVER_TOO_OLD, "Install driver 580 or newer.")


@pytest.mark.parametrize("name", NEEDS_GPU)
def test_no_driver_and_no_gpu_are_two_things(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(library: str) -> Any:
        raise OSError(f"{library}: cannot open shared object file")

    monkeypatch.setattr(nvidia, "_open_driver", missing)
    assert error_of(engine_class(name)).cause == Obstacle.NO_DRIVER
    for status, cause in ((100, Obstacle.NO_GPU), (999, Obstacle.DRIVER_BROKEN)):
        driver = SimpleNamespace(cuInit=lambda flags, status=status: status)
        monkeypatch.setattr(nvidia, "_open_driver", lambda library, driver=driver: driver)
        assert error_of(engine_class(name)).cause == cause


# TensorRT.


@pytest.mark.parametrize(
    ("raised", "cause", "fix"),
    [
        (ModuleNotFoundError("No module named 'tensorrt'", name="tensorrt"), Obstacle.NOT_INSTALLED, "Install it: pip"),
        (
            ModuleNotFoundError("No module named 'tensorrt_bindings'", name="tensorrt_bindings"),
            Obstacle.LIBRARY_MISSING,
            "Install it: pip install tensorrt.",
        ),
        (
            ImportError("libnvinfer.so.10: cannot open shared object file: No such file or directory"),
            Obstacle.LIBRARY_MISSING,
            "Install it again: pip install --force-reinstall tensorrt.",
        ),
        (RuntimeError("broken"), Obstacle.DOES_NOT_LOAD, "Install it again: pip install --force-reinstall tensorrt."),
    ],
)
def test_tensorrt_does_not_load(
    raised: Exception, cause: Obstacle, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> Any:
        raise raised

    monkeypatch.setattr(tensorrt, "import_module", refuse)
    monkeypatch.setattr("self2self.machine.nvidia_libraries.library_folders", lambda: [tmp_path])
    with pytest.raises(EngineUnavailableError, match=r"Or use --engine ort\.$") as caught:
        TENSORRT.load()
    assert caught.value.cause == cause
    assert caught.value.fix.startswith(fix)


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("CUDA initialization failure with error: 35. Please check your CUDA installation", Obstacle.DRIVER_TOO_OLD),
        ("CUDA initialization failure with error: 100. Please check your CUDA installation", Obstacle.NO_GPU),
        ("CUDA initialization failure with error: 999. Please check your CUDA installation", Obstacle.OTHER),
    ],
)
def test_tensorrt_does_not_start(said: str, cause: Obstacle, monkeypatch: pytest.MonkeyPatch) -> None:
    class Logger:
        Severity = SimpleNamespace(ERROR=1, WARNING=2)

    class Module:
        __version__ = "10.9"
        ILogger = Logger

        @staticmethod
        def Builder(logger: Any) -> Any:  # noqa: N802
            # TensorRT logs a warning, and its constructor then returns null.
            logger.log(2, "Unable to determine GPU memory usage")
            logger.log(2, said)
            raise TypeError("pybind11::init(): factory function returned nullptr")

    module = Module()
    monkeypatch.setattr(tensorrt, "import_module", lambda name: module)
    with pytest.raises(EngineUnavailableError) as caught:
        parse(TENSORRT_RTX, b"", "model.onnx")
    assert caught.value.cause == cause
    assert "TensorRT-RTX 10.9" in caught.value.reason


# Sessions.


class Session(OrtCudaEngine):
    """The CUDA engine on a machine where only the creation of a session fails."""

    @classmethod
    def version(cls) -> str:
        return "ONNX Runtime 1.31"


class FellBack(Session):
    """The same engine with a session that could run on the CPU only."""

    def providers(self) -> list[tuple[str, dict[str, str]]]:
        return []


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : Failed to load library libonnxruntime_providers_cuda.so with error: "
            "libcudnn.so.9: cannot open shared object file: No such file or directory",
            Obstacle.LIBRARY_MISSING,
        ),
        ("CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version", Obstacle.DRIVER_TOO_OLD),
    ],
)
def test_what_only_a_session_finds_out(
    message: str, cause: Obstacle, tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    def refuse(*arguments: object, **options: object) -> Any:
        raise RuntimeError(message)

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    monkeypatch.setattr("self2self.machine.nvidia_libraries.library_folders", lambda: [tmp_path])
    image = np.zeros((1, 3, 64, 64), np.float32)
    with pytest.raises(EngineUnavailableError) as caught:
        Session(tiny_model, image).__enter__()
    assert caught.value.cause == cause
    message = "INVALID_GRAPH : Load model from model.onnx failed"
    with pytest.raises(FileFormatError, match="engine ort-cuda cannot load it"):
        Session(tiny_model, image).__enter__()


def test_a_session_that_fell_back_is_replaced_only_where_that_is_allowed(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        denoise_module, "get_engine", lambda name, *, plain_pixels: FellBack if name == "ort-cuda" else OrtEngine
    )
    pixels = np.random.default_rng(1).random((3, 64, 64), dtype=np.float32)
    with pytest.raises(
        EngineUnavailableError, match="ONNX Runtime left the model, or a part of it, to the CPU"
    ) as caught:
        denoise_pixels(tiny_model, pixels, EnsembleOptions(engine="ort-cuda", passes=1, mask_source="host"))
    assert caught.value.cause == Obstacle.FELL_BACK
    notes: list[str] = []
    done = denoise_pixels(
        tiny_model,
        pixels,
        EnsembleOptions(engine="ort-cuda", passes=1, mask_source="host", allow_fallback=True),
        on_note=notes.append,
    )
    assert (done.engine, done.provider) == ("ort", "CPUExecutionProvider")
    assert done.fallback.startswith("engine ort-cuda: ONNX Runtime left the model, or a part of it, to the CPU.")
    assert notes == [done.fallback + " Falling back to ort, as --allow-fallback says."]
