"""The engines `torch-amx` and `torch-int8`, on any CPU."""

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
from self2self.export.plain import export_plain
from self2self.model.masks import MaskMaker
from self2self.model.network import Self2SelfNet
from self2self.model.plain import MIRRORINGS
from self2self.runtime.engines.probe import BFLOAT16_TOLERANCE, INT8_TOLERANCE, TF32_TOLERANCE
from self2self.runtime.engines.probe_model import make_case
from self2self.runtime.engines.registry import get_engine
from self2self.runtime.engines.torch_cpu import bf16 as torch_amx
from self2self.runtime.engines.torch_cpu import int8 as torch_int8
from self2self.runtime.engines.torch_cpu import passes as torch_passes
from self2self.runtime.engines.torch_cpu.bf16 import TorchAmxEngine
from self2self.runtime.engines.torch_cpu.bf16_network import WEIGHT_SETS
from self2self.runtime.engines.torch_cpu.int8 import TorchInt8Engine
from self2self.runtime.engines.torch_cpu.passes import ParallelPassesEngine
from self2self.runtime.ensemble.engine_holder import EngineHolder
from self2self.runtime.ensemble.host_loop import PassTooLarge, run_ensemble
from self2self.runtime.model import Model, load_model
from tests.conftest import Fitted
from tests.runtime.single_passes import emulate_int8_convolutions, masks_for

TOLERANCES = {TorchAmxEngine: 0.08, TorchInt8Engine: 0.4}
"""Largest error of a pass of the tiny network, whose predictions are up to 4."""


@pytest.fixture(params=list(TOLERANCES), ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[ParallelPassesEngine]:
    monkeypatch.setattr(torch_amx, "has_amx", lambda: True)
    monkeypatch.setattr(torch_int8, "multiplies_bytes", lambda: True)
    emulate_int8_convolutions(monkeypatch)
    return request.param


def test_the_weight_set_of_a_pass_does_not_depend_on_the_batch(
    kind: type[ParallelPassesEngine], tiny_model: Model
) -> None:
    image = np.random.default_rng(3).random((1, 3, 64, 64), dtype=np.float32)
    maker = MaskMaker(tiny_model.contract.masks, {"H": 64, "W": 64}, 0, channels_last=True)
    with kind(tiny_model, image) as engine:
        single = run_ensemble(engine, maker, 23, batch=1).moments.mean()
        np.testing.assert_allclose(run_ensemble(engine, maker, 23, batch=7).moments.mean(), single, rtol=0, atol=1e-5)
        same = {
            name: mask.repeat(WEIGHT_SETS + 1, axis=0) for name, mask in masks_for(tiny_model, (64, 64), 0, 1).items()
        }
        predictions = engine.run(same)
    differences = [np.abs(predictions[0] - prediction).max() for prediction in predictions[1:]]
    # Pass 10 has the weight set of pass 0, and the passes in between have others.
    assert differences[-1] < 1e-5 < 1e-3 < min(differences[:-1])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_runs_on_any_cpu(kind: type[ParallelPassesEngine], tiny: Fitted, tiny_model: Model, count: int) -> None:
    image = np.random.default_rng(3).random((1, 3, 64, 96), dtype=np.float32)
    masks = masks_for(tiny_model, (64, 96), 0, count)
    threads = torch.get_num_threads()
    with torch.inference_mode():
        expected = tiny.network(torch.from_numpy(image), *(torch.from_numpy(mask) for mask in masks.values()))
    with kind(tiny_model, image) as engine:
        np.testing.assert_allclose(engine.run(masks), expected.numpy(), rtol=0, atol=TOLERANCES[kind])
        # Masks in the other memory order.
        plain = {name: np.ascontiguousarray(mask) for name, mask in masks.items()}
        np.testing.assert_allclose(engine.run(plain), engine.run(masks), rtol=0, atol=1e-6)
    assert torch.get_num_threads() == threads


def test_runs_plain_models(kind: type[ParallelPassesEngine], tiny: Fitted, tmp_path: Path) -> None:
    """Each view has a weight set of its own, and the mean of all is nearer to float32 than one of them."""
    network = Self2SelfNet(3, tiny.network.encoder_width, tiny.network.decoder_widths, 1.0)
    network.load_state_dict(tiny.network.state_dict())
    export_plain(network.eval(), tiny.contract.as_plain(), tmp_path / "plain.onnx")
    model = load_model(tmp_path / "plain.onnx")
    image = np.random.default_rng(3).random((1, 3, 64, 96), dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(image)).numpy()
    errors = []
    with kind(model, image) as engine:
        for engine.first_pass in range(len(MIRRORINGS)):
            errors.append(engine.run({}) - expected)
    assert all(np.abs(error).max() < TOLERANCES[kind] for error in errors)
    assert np.square(np.mean(errors, axis=0)).mean() < 0.7 * np.mean(np.square(errors))


@pytest.mark.parametrize(("count", "share"), [(2, 2), (3, 1), (4, 1)])
def test_passes_share_the_threads_of_pytorch(
    kind: type[ParallelPassesEngine], tiny_model: Model, monkeypatch: pytest.MonkeyPatch, count: int, share: int
) -> None:
    monkeypatch.setattr(torch_passes, "compute_threads", lambda: 4)
    before, threads = torch.get_num_threads(), []
    with kind(tiny_model, np.zeros((1, 3, 64, 64), np.float32)) as engine:
        network = engine._network

        def observed(*arguments: object, shared: bool) -> torch.Tensor:
            threads.append(torch.get_num_threads())
            return network(*arguments, shared=shared)

        engine._network = observed
        engine.run(masks_for(tiny_model, (64, 64), 0, count))
    assert threads == [share] * count
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("side", "threads", "passes"), [(64, 2, 32), (128, 2, 8), (128, 16, 16), (256, 2, 2), (256, 16, 16), (288, 16, 1)]
)
def test_useful_batch_by_image_size_and_threads(
    side: int, threads: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_passes, "compute_threads", lambda: threads)
    assert TorchInt8Engine.useful_batch({"H": side, "W": side}) == passes


def test_the_strips_of_many_threads_take_no_more_than_the_image(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = {"H": 1024, "W": 1024}
    needed = []
    for threads in (1, 2, 256):
        monkeypatch.setattr(torch_passes, "compute_threads", lambda threads=threads: threads)
        needed.append(TorchAmxEngine.pass_bytes(tiny_model.contract, axes))
    further = TorchAmxEngine.further_pass_bytes(tiny_model.contract, axes)
    assert further < needed[0] < needed[1] < needed[2] == 2 * further


def test_calibration_takes_no_more_memory_for_a_larger_image(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shared_bytes(side: int, threads: int) -> int:
        monkeypatch.setattr(torch_passes, "compute_threads", lambda: threads)
        axes, contract = {"H": side, "W": side}, tiny_model.contract
        return TorchInt8Engine.pass_bytes(contract, axes) - TorchInt8Engine.further_pass_bytes(contract, axes)

    assert 0 < shared_bytes(64, 1) < shared_bytes(128, 1)
    # Apart from the strips of the threads; all strips together are the image.
    assert shared_bytes(1024, 1) < shared_bytes(128, 1) + 5 * 10**6
    assert shared_bytes(1024, 1) < shared_bytes(1024, 4) < shared_bytes(1024, 256) == shared_bytes(1024, 512)


def test_a_failed_pass_leaves_the_thread_count_of_later_threads(
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


def test_memory_that_runs_out_for_a_new_image_is_an_error_of_size(
    kind: type[ParallelPassesEngine], tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller then tries smaller tiles."""
    image = np.zeros((1, 3, 64, 64), np.float32)
    with EngineHolder() as engine_holder:
        engine = engine_holder.engine_for(kind, tiny_model, image, str)

        def fail(image: torch.Tensor, whole: torch.Tensor | None = None) -> None:
            raise RuntimeError("can't allocate memory")

        monkeypatch.setattr(engine._network, "use_image", fail)
        with pytest.raises(PassTooLarge, match=r"out of memory.*smaller image"):
            engine_holder.engine_for(kind, tiny_model, image + 1, str)
        # The failed engine is not kept; the next one is new.
        assert engine_holder.engine_for(kind, tiny_model, image, str) is not engine


@pytest.mark.parametrize(
    ("kind", "what"), [(TorchAmxEngine, "matrices .*AMX"), (TorchInt8Engine, "integers .*VNNI")], ids=["amx", "int8"]
)
def test_a_cpu_without_the_instructions_is_an_error_and_auto_chooses_another_engine(
    kind: type[ParallelPassesEngine], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    with pytest.raises(
        EngineUnavailableError, match=rf"engine {kind.name}: this CPU does not .*{what}.*Use --engine auto"
    ):
        kind.version()
    assert get_engine("auto") is not kind
    # A PyTorch version without this function.
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not torch_amx.has_amx()
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
from tests.runtime.single_passes import emulate_int8_convolutions

emulate_int8_convolutions(pytest.MonkeyPatch())
torch_amx.has_amx = torch_int8.multiplies_bytes = lambda: True
kind = {"torch-amx": torch_amx.TorchAmxEngine, "torch-int8": torch_int8.TorchInt8Engine}[sys.argv[3]]
model = load_model(Path(sys.argv[1]))
masks = MaskMaker(model.contract.masks, {"H": 256, "W": 256}, 0, channels_last=True).make(0, int(sys.argv[2]))
with kind(model, np.zeros((1, 3, 256, 256), np.float32)) as engine:
    # oneDNN generates code for each convolution once, and does not try again if it fails. So this run comes first.
    engine.run(masks)
    trim_heap()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    # There is room for the predictions, a numpy array, but not for the memory of the passes.
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
def test_the_engine_works_again_after_running_out_of_memory(engine: str, tiny_model: Model, passes: int) -> None:
    command = [sys.executable, "-c", LIMITED, str(tiny_model.path), str(passes), engine]
    # malloc must return freed memory, which the next pass could use, and must not reserve addresses for each thread.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("out of memory\n", "")


def test_the_rounding_error_is_within_the_tolerance_of_the_probe(
    kind: type[ParallelPassesEngine], tmp_path: Path
) -> None:
    case = make_case()
    (tmp_path / "probe.onnx").write_bytes(case.model)
    with kind(load_model(tmp_path / "probe.onnx"), case.image) as engine:
        difference = np.abs(engine.run(case.masks) - case.expected).max()
    assert TF32_TOLERANCE < difference < {"bfloat16": BFLOAT16_TOLERANCE, "int8": INT8_TOLERANCE}[kind.rounds_to]
