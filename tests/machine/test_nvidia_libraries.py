"""Test the explanations of messages of CUDA, ONNX Runtime and TensorRT, in the forms in which they occur."""

from __future__ import annotations

from pathlib import Path

import pytest

from self2self.errors import Obstacle
from self2self.machine.nvidia_libraries import Explanation, explain, library_folders

ORT_FAILED = (
    "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:1695 onnxruntime::Provider& "
    "onnxruntime::ProviderLibrary::Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library "
    "libonnxruntime_providers_cuda.so with error: libcublasLt.so.12: cannot open shared object file: "
    "No such file or directory"
)


def explained(message: str, *folders: Path) -> Explanation:
    found = explain(message, "ONNX Runtime", list(folders))
    assert found is not None, message
    assert "\n" not in found.reason
    return found


@pytest.mark.parametrize(
    ("message", "library"),
    [
        ("libcudnn.so.9: cannot open shared object file: No such file or directory", "libcudnn.so.9"),
        (ORT_FAILED, "libcublasLt.so.12"),
    ],
)
def test_a_library_that_is_nowhere(message: str, library: str, tmp_path: Path) -> None:
    found = explained(message, tmp_path)
    assert found == Explanation(
        Obstacle.LIBRARY_MISSING, f"ONNX Runtime needs {library}, which is not there", library, folder=""
    )


def test_a_library_of_another_major_version(tmp_path: Path) -> None:
    for name in ("libcublasLt.so.13", "libcublasLt.so.13.1.0", "libcublas.so.12"):
        (tmp_path / name).touch()
    found = explained(ORT_FAILED, tmp_path)
    assert found.cause == Obstacle.LIBRARY_VERSION
    assert found.reason == "ONNX Runtime needs libcublasLt.so.12, and the version that is there is libcublasLt.so.13"


def test_a_library_where_the_loader_does_not_look(tmp_path: Path) -> None:
    (tmp_path / "libcublasLt.so.12").touch()
    (tmp_path / "libcublasLt.so.13").touch()
    found = explained(ORT_FAILED, tmp_path)
    assert (found.cause, found.folder) == (Obstacle.LIBRARY_HIDDEN, str(tmp_path))
    assert str(tmp_path) in found.reason


@pytest.mark.parametrize(
    ("message", "cause", "text"),
    [
        (
            "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=0 ; hostname=x",
            Obstacle.DRIVER_TOO_OLD,
            "driver is too old",
        ),
        (
            "CUDA initialization failure with error: 35. Please check your CUDA installation: http://docs",
            Obstacle.DRIVER_TOO_OLD,
            "driver is too old",
        ),
        ("CUDA initialization failure with error 100. Please check", Obstacle.NO_GPU, "finds no GPU"),
        ("CUDA failure 100: no CUDA-capable device is detected ; GPU=0", Obstacle.NO_GPU, "finds no GPU"),
        (
            "CUDA failure 209: no kernel image is available for execution on the device ; GPU=0",
            Obstacle.GPU_NOT_SERVED,
            "was not built for GPUs like this one",
        ),
        (
            "/lib/libcublas.so.11: symbol free_gemm version libcublasLt.so.11 not defined in file libcublasLt.so.11 "
            "with link time reference",
            Obstacle.LIBRARY_VERSION,
            "libcublasLt.so.11",
        ),
        (
            "/x/libonnxruntime_providers_cuda.so: undefined symbol: cudnnCreate, version libcudnn.so.9",
            Obstacle.LIBRARY_VERSION,
            "libcudnn.so.9",
        ),
    ],
)
def test_messages_of_the_runtime_are_explained(message: str, cause: Obstacle, text: str) -> None:
    found = explained(message)
    assert found.cause == cause
    assert text in found.reason


@pytest.mark.parametrize("message", ["", "CUDA failure 350: something else", "Protobuf parsing failed."])
def test_other_messages_are_left_alone(message: str) -> None:
    assert explain(message, "ONNX Runtime", []) is None


def test_where_libraries_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel, listed = tmp_path / "site" / "nvidia" / "cublas" / "lib", tmp_path / "listed"
    for folder in (wheel, listed):
        folder.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{listed}:{tmp_path / 'gone'}")
    folders = library_folders()
    assert folders.index(listed) < folders.index(wheel)
    assert tmp_path / "gone" not in folders
    # The machine itself may have the real one.
    (wheel / "libcublasOfTest.so.13").touch()
    found = explain(ORT_FAILED.replace("libcublasLt", "libcublasOfTest"), "ONNX Runtime")
    assert found is not None
    assert found.cause == Obstacle.LIBRARY_VERSION
