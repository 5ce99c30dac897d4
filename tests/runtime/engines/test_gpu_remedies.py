"""Checks the remedy in the error where a GPU engine lacks a package, a library or a newer driver."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from self2self.errors import EngineUnavailableError
from self2self.machine.nvidia import Gpu
from self2self.runtime.engines import gpu as gpu_checks
from self2self.runtime.engines.engine import Engine
from self2self.runtime.engines.onnxruntime import cuda as ort_cuda
from self2self.runtime.engines.onnxruntime.cuda import OrtCudaEngine
from self2self.runtime.engines.onnxruntime.tensorrt import OrtTrtEngine
from self2self.runtime.engines.tensorrt.engine import TrtEngine, TrtRtxEngine
from self2self.runtime.engines.torch_cuda.engine import TorchCudaEngine
from self2self.train.fit import choose_device
from tests.runtime.gpu_machine import CARD, installed


def problem_of(engine: type[Engine]) -> str:
    with pytest.raises(EngineUnavailableError) as caught:
        engine.version()
    message = str(caught.value)
    assert message.startswith(f"engine {engine.name}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("engine", "package"), [(TrtEngine, "tensorrt"), (TrtRtxEngine, "tensorrt-rtx")])
def test_tensorrt_is_not_installed(
    engine: type[TrtEngine], package: str, card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("self2self.runtime.engines.tensorrt.engine.is_installed", lambda module: False)
    assert f"is not installed. Install it: pip install {package}. Use --engine auto." in problem_of(engine)


def test_the_driver_is_too_old_for_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks, "find_gpu", lambda: Gpu("NVIDIA RTX 3090", (8, 6), 2**34, (12, 4)))
    monkeypatch.setattr("self2self.runtime.engines.tensorrt.engine.is_installed", lambda module: True)
    installed(monkeypatch, "tensorrt_rtx_cu13")
    assert (
        "the NVIDIA driver is too old: it runs CUDA 12.4, and TensorRT-RTX needs CUDA 13. "
        "Install driver 580 or newer. Use --engine auto."
    ) in problem_of(TrtRtxEngine)


def test_a_gpu_that_tensorrt_rtx_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install tensorrt-rtx")
    monkeypatch.setattr(gpu_checks, "find_gpu", lambda: Gpu("NVIDIA H100", (9, 0), 2**36, (13, 0)))
    assert "TensorRT-RTX does not run on NVIDIA H100 (compute capability 9.0). TensorRT does: --engine trt." in (
        problem_of(TrtRtxEngine)
    )


def test_pytorch_for_cpus_is_not_enough(card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install tensorrt-rtx")
    import torch

    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is a build for CPUs. Install the one for CUDA: pip install" in problem_of(TrtRtxEngine)


def test_a_gpu_that_pytorch_was_not_built_for(card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_100", "compute_120"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: CARD.compute_capability)
    assert "does not run on NVIDIA RTX 4090 (compute capability 8.9). An older PyTorch may. Use --engine auto." in (
        problem_of(TorchCudaEngine)
    )
    # Fits avoid this GPU as well, although PyTorch reports that CUDA is available.
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(EngineUnavailableError, match=r"--device cuda: PyTorch .* finds no such device"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_86"])
    assert TorchCudaEngine.version() == f"PyTorch {torch.__version__}"
    assert choose_device("auto") == torch.device("cuda")


def fake_onnxruntime(*providers: str, folder: Path = Path("nowhere")) -> SimpleNamespace:
    return SimpleNamespace(
        __version__="1.31", __file__=str(folder / "__init__.py"), get_available_providers=lambda: list(providers)
    )


@pytest.mark.parametrize("engine", [OrtCudaEngine, OrtTrtEngine])
@pytest.mark.parametrize(
    ("packages", "text"),
    [
        (("onnxruntime", "onnxruntime-gpu"), "both onnxruntime and onnxruntime-gpu are installed"),
        (("onnxruntime",), "the installed ONNX Runtime 1.31 has no"),
    ],
)
def test_the_wrong_onnxruntime_package(
    engine: type[OrtCudaEngine], packages: tuple[str, ...], text: str, card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort_cuda, "import_onnxruntime", lambda name: fake_onnxruntime("CPUExecutionProvider"))
    installed(monkeypatch, *packages)
    problem = problem_of(engine)
    assert text in problem
    assert "pip uninstall -y onnxruntime onnxruntime-gpu; pip install onnxruntime-gpu. Use --engine auto." in problem


def test_the_driver_is_too_old_for_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_checks, "find_gpu", lambda: Gpu("NVIDIA RTX 3090", (8, 6), 2**34, (11, 8)))
    monkeypatch.setattr(ort_cuda, "import_onnxruntime", lambda name: fake_onnxruntime("CUDAExecutionProvider"))
    monkeypatch.setattr(ort_cuda, "cuda_version", lambda ort: "12.8")
    assert "it runs CUDA 11.8, and ONNX Runtime 1.31 needs CUDA 12. Install driver 525" in problem_of(OrtCudaEngine)


@pytest.mark.parametrize(
    ("engine", "missing", "remedy"),
    [
        (OrtCudaEngine, "libcublasLt.so.12", "It was built for CUDA 12 and cuDNN 9: pip install 'onnxruntime-gpu["),
        (OrtTrtEngine, "libcudnn.so.9", "It was built for CUDA 12 and cuDNN 9: pip install 'onnxruntime-gpu["),
        (OrtTrtEngine, "libnvinfer.so.10", "Install TensorRT: pip install 'tensorrt==10.*'."),
    ],
)
def test_libraries_that_the_provider_misses(
    engine: type[OrtCudaEngine], missing: str, remedy: str, tmp_path: Path, card: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / engine.library).touch()
    ort = fake_onnxruntime(engine.provider_name, folder=tmp_path)

    def load(path: str, mode: int = 0) -> None:
        if path.endswith(engine.library):
            raise OSError(f"{missing}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr("self2self.machine.nvidia_libraries.library_folders", list)
    monkeypatch.setattr(ort_cuda, "import_onnxruntime", lambda name: ort)
    monkeypatch.setattr(ort_cuda, "cuda_version", lambda ort: "12.8")
    monkeypatch.setattr(ort_cuda.ctypes, "CDLL", load)
    problem = problem_of(engine)
    assert f"ONNX Runtime needs {missing}, which is not there. {remedy}" in problem
    assert problem.endswith("Use --engine auto.")
