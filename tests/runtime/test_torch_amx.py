"""The engine for CPUs with AMX, on any CPU: PyTorch computes in bfloat16 everywhere, if not as fast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from self2self.contract import LEVELS, dropout_channels
from self2self.errors import EngineUnavailableError
from self2self.masks import BoolArray, MaskMaker
from self2self.runtime import torch_amx
from self2self.runtime.engine import get_engine
from self2self.runtime.ensemble import run_ensemble
from self2self.runtime.model import Model, load_model
from self2self.runtime.probe import BFLOAT16_TOLERANCE, TF32_TOLERANCE
from self2self.runtime.probe_model import make_case
from self2self.runtime.rounded import SETS, RoundedNetwork, rounded
from self2self.runtime.torch_amx import TorchAmxEngine
from self2self.train.network import Self2SelfNet, initialise
from self2self.workers import Work
from tests.conftest import Fitted

STEP = 2.0**-7
"""Between two neighbours in bfloat16, at most, in units of the smaller one."""


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_amx, "multiplies_bfloat16", lambda: True)


def masks_for(model: Model, size: tuple[int, int], first: int, count: int) -> dict[str, BoolArray]:
    axes = dict(zip("HW", size, strict=True))
    made = MaskMaker(model.contract.masks, axes, 0, channels_last=True).make(first, count)
    return {name: mask.copy(order="K") for name, mask in made.items()}


def tensors_for(model: Model, size: tuple[int, int], index: int) -> list[torch.Tensor]:
    return [torch.from_numpy(mask) for mask in masks_for(model, size, index, 1).values()]


def one_after_the_other(work: Work, count: int) -> None:
    for index in reversed(range(count)):
        work(index)


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=20), st.sampled_from([1, 2, 8, 16]))
def test_the_mean_of_all_sets_is_the_value(values: list[float], sets: int) -> None:
    exact = torch.tensor(values, dtype=torch.float32)
    made = torch.stack([rounded(exact, index, sets).double() for index in range(sets)])
    step = exact.double().abs() * STEP + 1e-37
    # Each is a neighbour, up or down.
    assert ((made - exact).abs() < step).all()
    assert ((made.mean(dim=0) - exact).abs() <= step / (2 * sets) * 1.01).all()


def test_what_bfloat16_holds_is_kept() -> None:
    held = torch.tensor([0.0, -0.0, 1.0, -1.5, 2.0**-30, 3.0e38, float("inf"), -float("inf"), float("nan")])
    held = held.to(torch.bfloat16)
    for index in range(SETS):
        torch.testing.assert_close(rounded(held.float(), index), held, rtol=0, atol=0, equal_nan=True)
    worst = torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    assert rounded(worst, SETS - 1).isnan().all()


@pytest.mark.usefixtures("anywhere")
def test_passes_take_turns_in_the_sets_whatever_the_batch(tiny_model: Model) -> None:
    image = np.random.default_rng(3).random((1, 3, 64, 64), dtype=np.float32)
    maker = MaskMaker(tiny_model.contract.masks, {"H": 64, "W": 64}, 0, channels_last=True)
    with TorchAmxEngine(tiny_model, image) as engine:
        single = run_ensemble(engine, maker, 23, batch=1).moments.mean()
        np.testing.assert_allclose(run_ensemble(engine, maker, 23, batch=7).moments.mean(), single, rtol=0, atol=1e-5)
        same = {name: mask.repeat(SETS + 1, axis=0) for name, mask in masks_for(tiny_model, (64, 64), 0, 1).items()}
        predictions = engine.run(same)
    others = [np.abs(predictions[0] - prediction).max() for prediction in predictions[1:]]
    # The eleventh pass has the set of the first, and all between have others.
    assert others[-1] < 1e-5 < 1e-3 < min(others[:-1])


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 4), st.integers(2, 4), st.sampled_from([1, 4_000, 20_000, 60_000]), st.integers(1, 3))
def test_strips_change_nothing(
    tiny: Fitted, tiny_model: Model, rows: int, columns: int, values: int, workers: int
) -> None:
    size = (32 * rows, 32 * columns)
    image = torch.rand((1, 3, *size), generator=torch.Generator().manual_seed(1))
    masks = tensors_for(tiny_model, size, 0)
    with torch.inference_mode():
        whole = RoundedNetwork(tiny.network, image, 1, one_after_the_other, 10**9)(masks, 0, shared=False)
        network = RoundedNetwork(tiny.network, image, workers, one_after_the_other, values)
        assert len(network._strips()) > 1 or values > 4_000
        assert all(strip.start % 2 == 0 and strip.stop % 2 == 0 for strip in network._strips())
        # Sums in another order may round a value of about 4 the other way.
        torch.testing.assert_close(network(masks, 0, shared=True), whole, rtol=0, atol=0.03)
        in_turn = network(masks, 0, shared=False)
    torch.testing.assert_close(in_turn, whole, rtol=0, atol=0.03)


@pytest.mark.slow
def test_the_mean_of_many_passes_is_not_rounded() -> None:
    """Against the network in float32, and against weights that are rounded to the nearest, once for all passes."""
    passes, size, width = 80, 64, 16
    drawn = torch.Generator().manual_seed(1)
    network = Self2SelfNet(3, width, (32,) * LEVELS, 0.97).eval()
    initialise(network, "kaiming", drawn)
    image = torch.rand((1, 3, size, size), generator=drawn)
    shapes = [(c, size >> LEVELS - 1 - i // 2) for i, c in enumerate(dropout_channels(width, network.decoder_widths))]
    all_masks = [
        [torch.rand((1, 3, size, size), generator=drawn) < 0.8]
        + [torch.rand((1, channels, side, side), generator=drawn) < 0.97 for channels, side in shapes]
        for _ in range(passes)
    ]

    def rms(difference: torch.Tensor) -> float:
        return float(difference.square().mean().sqrt())

    def predictions(sets: int) -> torch.Tensor:
        made = RoundedNetwork(network, image, 1, one_after_the_other, sets=sets)
        return torch.cat([made(masks, index, shared=False) for index, masks in enumerate(all_masks)]).double()

    with torch.inference_mode():
        exact = torch.cat([network(image, *masks) for masks in all_masks]).double()
        dithered, nearest = predictions(SETS), predictions(1)
    # Measured with four networks and draws: the means are closer by factors of 2.9 to 6, and than a pass by 8 to 12.
    assert rms((dithered - exact).mean(dim=0)) < rms(dithered - exact) / 4
    assert rms((dithered - exact).mean(dim=0)) < rms((nearest - exact).mean(dim=0)) / 2


@pytest.mark.parametrize("channels", [1, 3])
def test_the_image_keeps_16_bits(channels: int) -> None:
    """Two images that differ by less than bfloat16 resolves are not the same to the network."""
    network = Self2SelfNet(channels, 4, (4, 4, 4, 4, 4), 0.9)
    image = torch.full((1, channels, 64, 64), 0.7)
    masks = [torch.ones((1, channels, 64, 64), dtype=torch.bool)]
    for level in range(5):
        side = 64 >> (4 - level)
        masks += [torch.ones((1, 8, side, side), dtype=torch.bool), torch.ones((1, 4, side, side), dtype=torch.bool)]
    runs = RoundedNetwork(network, image, 1, one_after_the_other)
    first = runs._planes.clone()
    runs.use_image(image + 2.0**-15)
    assert (first != runs._planes).any()
    assert (
        runs._planes[:, channels : 2 * channels].float() + runs._planes[:, 2 * channels :].float() - image
    ).abs().max() < 2.0**-14
    with torch.inference_mode():
        torch.testing.assert_close(runs(masks, 0, shared=False), network(image, *masks), rtol=0.05, atol=1e-6)


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("count", [1, 2, 3])
def test_runs_on_any_cpu(tiny: Fitted, tiny_model: Model, count: int) -> None:
    image = np.random.default_rng(3).random((1, 3, 64, 96), dtype=np.float32)
    masks = masks_for(tiny_model, (64, 96), 0, count)
    threads = torch.get_num_threads()
    with torch.inference_mode():
        expected = tiny.network(torch.from_numpy(image), *(torch.from_numpy(mask) for mask in masks.values()))
    with TorchAmxEngine(tiny_model, image) as engine:
        np.testing.assert_allclose(engine.run(masks), expected.numpy(), rtol=0, atol=0.08)
        # In the other memory order, too.
        plain = {name: np.ascontiguousarray(mask) for name, mask in masks.items()}
        np.testing.assert_allclose(engine.run(plain), engine.run(masks), rtol=0, atol=1e-6)
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize(("count", "share"), [(2, 2), (3, 1), (4, 1)])
def test_threads_that_are_left_over_are_shared(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch, count: int, share: int
) -> None:
    monkeypatch.setattr(torch_amx, "compute_threads", lambda: 4)
    before, seen = torch.get_num_threads(), []
    with TorchAmxEngine(tiny_model, np.zeros((1, 3, 64, 64), np.float32)) as engine:
        passes = engine._network

        def watched(*arguments: object, shared: bool) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return passes(*arguments, shared=shared)

        engine._network = watched
        engine.run(masks_for(tiny_model, (64, 64), 0, count))
    assert seen == [share] * count
    assert torch.get_num_threads() == before


def test_many_threads_need_no_more_than_the_image_once_more(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = {"H": 1024, "W": 1024}
    needed = []
    for threads in (1, 2, 256):
        monkeypatch.setattr(torch_amx, "compute_threads", lambda threads=threads: threads)
        needed.append(TorchAmxEngine.pass_bytes(tiny_model.contract, axes))
    further = TorchAmxEngine.further_pass_bytes(tiny_model.contract, axes)
    assert further < needed[0] < needed[1] < needed[2] == 2 * further


def test_without_amx_it_says_so_and_auto_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    with pytest.raises(EngineUnavailableError, match=r"engine torch-amx: this CPU does not .*AMX.*Use --engine auto"):
        TorchAmxEngine.version()
    assert get_engine("auto") is not TorchAmxEngine
    # A PyTorch that cannot tell.
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not torch_amx.multiplies_bfloat16()


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from self2self.masks import MaskMaker
from self2self.runtime import torch_amx
from self2self.runtime.model import load_model

torch_amx.multiplies_bfloat16 = lambda: True
model = load_model(Path(sys.argv[1]))
masks = MaskMaker(model.contract.masks, {"H": 256, "W": 256}, 0, channels_last=True).make(0, int(sys.argv[2]))
with torch_amx.TorchAmxEngine(model, np.zeros((1, 3, 256, 256), np.float32)) as engine:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2 * 10**6, resource.RLIM_INFINITY))
    try:
        engine.run(masks)
    except MemoryError:
        print("out of memory")
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert np.isfinite(engine.run(masks)).all()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc are Linux's")
@pytest.mark.parametrize("passes", [1, 3])
def test_out_of_memory_and_on(tiny_model: Model, passes: int) -> None:
    command = [sys.executable, "-c", LIMITED, str(tiny_model.path), str(passes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("out of memory\n", "")


@pytest.mark.usefixtures("anywhere")
def test_the_trial_of_engines_accepts_its_rounding(tmp_path: Path) -> None:
    case = make_case()
    (tmp_path / "probe.onnx").write_bytes(case.model)
    with TorchAmxEngine(load_model(tmp_path / "probe.onnx"), case.image) as engine:
        difference = np.abs(engine.run(case.masks) - case.expected).max()
    assert TF32_TOLERANCE < difference < BFLOAT16_TOLERANCE
