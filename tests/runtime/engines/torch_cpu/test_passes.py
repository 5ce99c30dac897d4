"""Engines of PyTorch whose passes run side by side and are rounded, on any CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from self2self.errors import EngineUnavailableError
from self2self.model.masks import MaskMaker
from self2self.runtime.engines.probe import BFLOAT16_TOLERANCE, INT8_TOLERANCE, TF32_TOLERANCE
from self2self.runtime.engines.probe_model import make_case
from self2self.runtime.engines.registry import get_engine
from self2self.runtime.engines.torch_cpu import bf16 as torch_amx
from self2self.runtime.engines.torch_cpu import int8 as torch_int8
from self2self.runtime.engines.torch_cpu import passes as torch_passes
from self2self.runtime.engines.torch_cpu.bf16 import TorchAmxEngine
from self2self.runtime.engines.torch_cpu.bf16_network import SETS
from self2self.runtime.engines.torch_cpu.int8 import TorchInt8Engine
from self2self.runtime.engines.torch_cpu.passes import ParallelPassesEngine
from self2self.runtime.ensemble.engine_holder import EngineHolder
from self2self.runtime.ensemble.host_loop import PassTooLarge, run_ensemble
from self2self.runtime.model import Model, load_model
from tests.conftest import Fitted
from tests.runtime.single_passes import integers_anywhere, masks_for

TOLERANCES = {TorchAmxEngine: 0.08, TorchInt8Engine: 0.4}
"""Of a pass of the tiny network, whose predictions are up to 4."""


@pytest.fixture(params=list(TOLERANCES), ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[ParallelPassesEngine]:
    monkeypatch.setattr(torch_amx, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(torch_int8, "multiplies_bytes", lambda: True)
    integers_anywhere(monkeypatch)
    return request.param


def test_passes_take_turns_in_the_sets_whatever_the_batch(kind: type[ParallelPassesEngine], tiny_model: Model) -> None:
    image = np.random.default_rng(3).random((1, 3, 64, 64), dtype=np.float32)
    maker = MaskMaker(tiny_model.contract.masks, {"H": 64, "W": 64}, 0, channels_last=True)
    with kind(tiny_model, image) as engine:
        single = run_ensemble(engine, maker, 23, batch=1).moments.mean()
        np.testing.assert_allclose(run_ensemble(engine, maker, 23, batch=7).moments.mean(), single, rtol=0, atol=1e-5)
        same = {name: mask.repeat(SETS + 1, axis=0) for name, mask in masks_for(tiny_model, (64, 64), 0, 1).items()}
        predictions = engine.run(same)
    others = [np.abs(predictions[0] - prediction).max() for prediction in predictions[1:]]
    # The eleventh pass has the set of the first, and all between have others.
    assert others[-1] < 1e-5 < 1e-3 < min(others[:-1])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_runs_on_any_cpu(kind: type[ParallelPassesEngine], tiny: Fitted, tiny_model: Model, count: int) -> None:
    image = np.random.default_rng(3).random((1, 3, 64, 96), dtype=np.float32)
    masks = masks_for(tiny_model, (64, 96), 0, count)
    threads = torch.get_num_threads()
    with torch.inference_mode():
        expected = tiny.network(torch.from_numpy(image), *(torch.from_numpy(mask) for mask in masks.values()))
    with kind(tiny_model, image) as engine:
        np.testing.assert_allclose(engine.run(masks), expected.numpy(), rtol=0, atol=TOLERANCES[kind])
        # In the other memory order, too.
        plain = {name: np.ascontiguousarray(mask) for name, mask in masks.items()}
        np.testing.assert_allclose(engine.run(plain), engine.run(masks), rtol=0, atol=1e-6)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("count", "share"), [(2, 2), (3, 1), (4, 1)])
def test_threads_that_are_left_over_are_shared(
    kind: type[ParallelPassesEngine], tiny_model: Model, monkeypatch: pytest.MonkeyPatch, count: int, share: int
) -> None:
    monkeypatch.setattr(torch_passes, "compute_threads", lambda: 4)
    before, seen = torch.get_num_threads(), []
    with kind(tiny_model, np.zeros((1, 3, 64, 64), np.float32)) as engine:
        passes = engine._network

        def watched(*arguments: object, shared: bool) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return passes(*arguments, shared=shared)

        engine._network = watched
        engine.run(masks_for(tiny_model, (64, 64), 0, count))
    assert seen == [share] * count
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("side", "threads", "passes"), [(64, 2, 32), (128, 2, 8), (128, 16, 16), (256, 2, 2), (256, 16, 16), (288, 16, 1)]
)
def test_small_images_have_several_passes_for_each_thread_and_large_ones_a_single_one_for_all(
    side: int, threads: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_passes, "compute_threads", lambda: threads)
    assert TorchInt8Engine.useful_batch({"H": side, "W": side}) == passes


def test_many_threads_need_no_more_than_the_image_once_more(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = {"H": 1024, "W": 1024}
    needed = []
    for threads in (1, 2, 256):
        monkeypatch.setattr(torch_passes, "compute_threads", lambda threads=threads: threads)
        needed.append(TorchAmxEngine.pass_bytes(tiny_model.contract, axes))
    further = TorchAmxEngine.further_pass_bytes(tiny_model.contract, axes)
    assert further < needed[0] < needed[1] < needed[2] == 2 * further


def test_laying_out_integers_takes_no_more_for_a_larger_image(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def besides(side: int, threads: int) -> int:
        monkeypatch.setattr(torch_passes, "compute_threads", lambda: threads)
        axes, contract = {"H": side, "W": side}, tiny_model.contract
        return TorchInt8Engine.pass_bytes(contract, axes) - TorchInt8Engine.further_pass_bytes(contract, axes)

    assert 0 < besides(64, 1) < besides(128, 1)
    # But for the strips of the threads, which all together are the image.
    assert besides(1024, 1) < besides(128, 1) + 5 * 10**6
    assert besides(1024, 1) < besides(1024, 4) < besides(1024, 256) == besides(1024, 512)


def test_threads_that_come_after_a_pass_that_failed_begin_as_before(
    kind: type[ParallelPassesEngine], tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_passes, "compute_threads", lambda: 4)
    before = torch.get_num_threads()
    with kind(tiny_model, np.zeros((1, 3, 64, 64), np.float32)) as engine:

        def fail(*arguments: object, shared: bool) -> torch.Tensor:
            raise RuntimeError("can't allocate memory")

        engine._network = fail
        with pytest.raises(MemoryError):
            engine.run(masks_for(tiny_model, (64, 64), 0, 2))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == before


def test_an_image_for_which_there_is_no_memory_is_told_as_such(
    kind: type[ParallelPassesEngine], tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that smaller tiles are tried."""
    image = np.zeros((1, 3, 64, 64), np.float32)
    with EngineHolder() as engine_holder:
        engine = engine_holder.engine_for(kind, tiny_model, image, str)

        def fail(image: torch.Tensor) -> None:
            raise RuntimeError("can't allocate memory")

        monkeypatch.setattr(engine._network, "use_image", fail)
        with pytest.raises(PassTooLarge, match=r"out of memory.*smaller image"):
            engine_holder.engine_for(kind, tiny_model, image + 1, str)
        # What was kept is gone, and the next is made anew.
        assert engine_holder.engine_for(kind, tiny_model, image, str) is not engine


@pytest.mark.parametrize(
    ("kind", "what"), [(TorchAmxEngine, "matrices .*AMX"), (TorchInt8Engine, "integers .*VNNI")], ids=["amx", "int8"]
)
def test_a_cpu_without_it_says_so_and_auto_goes_on(
    kind: type[ParallelPassesEngine], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    with pytest.raises(
        EngineUnavailableError, match=rf"engine {kind.name}: this CPU does not .*{what}.*Use --engine auto"
    ):
        kind.version()
    assert get_engine("auto") is not kind
    # A PyTorch that cannot tell.
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not torch_amx.multiplies_bfloat16()
    assert not torch_int8.multiplies_bytes()


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
import pytest
from self2self.model.masks import MaskMaker
from self2self.runtime.engines.torch_cpu import bf16 as torch_amx
from self2self.runtime.engines.torch_cpu import int8 as torch_int8
from self2self.runtime.model import load_model
from self2self.machine.system import trim_heap
from tests.runtime.single_passes import integers_anywhere

integers_anywhere(pytest.MonkeyPatch())
torch_amx.multiplies_bfloat16 = torch_int8.multiplies_bytes = lambda: True
kind = {"torch-amx": torch_amx.TorchAmxEngine, "torch-int8": torch_int8.TorchInt8Engine}[sys.argv[3]]
model = load_model(Path(sys.argv[1]))
masks = MaskMaker(model.contract.masks, {"H": 256, "W": 256}, 0, channels_last=True).make(0, int(sys.argv[2]))
with kind(model, np.zeros((1, 3, 256, 256), np.float32)) as engine:
    # Code that oneDNN could not make for a convolution, it never makes again.
    engine.run(masks)
    trim_heap()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    # The array of results is numpy's; what the passes take besides must not fit.
    room = int(sys.argv[2]) * 3 * 256 * 256 * 4 + 10**6
    resource.setrlimit(resource.RLIMIT_AS, (taken + room, resource.RLIM_INFINITY))
    try:
        engine.run(masks)
    except MemoryError:
        print("out of memory")
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert np.isfinite(engine.run(masks)).all()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc are Linux's")
@pytest.mark.parametrize("engine", ["torch-amx", "torch-int8"])
@pytest.mark.parametrize("passes", [1, 3])
def test_out_of_memory_and_on(engine: str, tiny_model: Model, passes: int) -> None:
    command = [sys.executable, "-c", LIMITED, str(tiny_model.path), str(passes), engine]
    # Freed pieces would serve the next pass, and a thread's arena has addresses in reserve, which no limit takes away.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("out of memory\n", "")


def test_the_trial_of_engines_accepts_its_rounding(kind: type[ParallelPassesEngine], tmp_path: Path) -> None:
    case = make_case()
    (tmp_path / "probe.onnx").write_bytes(case.model)
    with kind(load_model(tmp_path / "probe.onnx"), case.image) as engine:
        difference = np.abs(engine.run(case.masks) - case.expected).max()
    assert TF32_TOLERANCE < difference < {"bfloat16": BFLOAT16_TOLERANCE, "int8": INT8_TOLERANCE}[kind.rounds_to]
