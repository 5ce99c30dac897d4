"""Checks what the NVIDIA driver reports of its GPU, and the errors where there is no driver or no GPU."""

from __future__ import annotations

import time
from typing import Any

import pytest

from self2self.errors import EngineUnavailableError
from self2self.machine import nvidia
from self2self.machine.nvidia import Gpu, built_for, find_gpu
from self2self.runtime.engines.registry import NEEDS_GPU, engine_class


class FakeDriver:
    """Stands in for libcuda on a machine with one GPU, or with the state that a test asks for."""

    def __init__(self, status: int = 0, count: int = 1, cuda: int = 12040) -> None:
        self.status, self.count, self.cuda = status, count, cuda

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.status

    def cuDeviceGetCount(self, count: Any) -> None:  # noqa: N802
        count._obj.value = self.count

    def cuDeviceGet(self, device: Any, index: int) -> None:  # noqa: N802
        device._obj.value = index

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> None:  # noqa: N802
        name.value = b"NVIDIA RTX 4090"

    def cuDeviceTotalMem_v2(self, memory: Any, device: Any) -> None:  # noqa: N802
        memory._obj.value = 24 * 2**30

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> None:  # noqa: N802
        value._obj.value = {75: 8, 76: 9}[attribute]

    def cuDriverGetVersion(self, version: Any) -> None:  # noqa: N802
        version._obj.value = self.cuda


def test_the_driver_describes_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "_open_driver", lambda name: FakeDriver())
    assert find_gpu() == Gpu("NVIDIA RTX 4090", (8, 9), 24 * 2**30, (12, 4))


@pytest.mark.parametrize(
    ("driver", "text"),
    [
        (FakeDriver(status=100), "the NVIDIA driver finds no GPU"),
        (FakeDriver(count=0), "the NVIDIA driver finds no GPU"),
        (FakeDriver(status=999), r"the NVIDIA driver does not start \(CUDA error 999\)"),
    ],
)
def test_drivers_without_a_gpu(driver: FakeDriver, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "_open_driver", lambda name: driver)
    for name in NEEDS_GPU:
        with pytest.raises(EngineUnavailableError, match=rf"^engine {name}: {text}\. .*Use --engine auto\.$"):
            engine_class(name).version()


@pytest.mark.parametrize("name", NEEDS_GPU)
def test_a_machine_without_a_driver_is_told_so_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(library: str) -> Any:
        raise OSError(f"{library}: cannot open shared object file")

    monkeypatch.setattr(nvidia, "_open_driver", missing)
    start = time.perf_counter()
    with pytest.raises(EngineUnavailableError) as caught:
        engine_class(name).version()
    assert time.perf_counter() - start < 0.5
    message = str(caught.value)
    assert message.startswith(f"engine {name}: there is no NVIDIA driver")
    assert message.endswith("Use --engine auto.")
    assert "\n" not in message


BUILT = ("sm_75", "sm_80", "sm_86", "sm_90a", "sm_100", "compute_120")


@pytest.mark.parametrize(
    ("capability", "runs"),
    [
        ((6, 1), False),
        ((7, 0), False),
        ((7, 5), True),
        ((8, 0), True),
        ((8, 9), True),
        # sm_90a is for 9.0 alone, because it uses features of that GPU only.
        ((9, 0), True),
        ((9, 1), False),
        ((10, 3), True),
        ((11, 0), False),
        ((12, 0), True),
        ((12, 1), True),
        ((13, 0), True),
    ],
)
def test_which_gpus_a_build_is_for(capability: tuple[int, int], runs: bool) -> None:
    assert built_for(BUILT, capability) is runs


def test_a_build_that_does_not_tell_is_for_all() -> None:
    assert built_for([], (3, 5))
    assert not built_for(["sm_", "gfx90a"], (3, 5))
