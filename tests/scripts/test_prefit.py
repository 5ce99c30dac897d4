"""The script that makes the start weights, on two tiny photographs and a tiny network."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from self2self.model.network import Self2SelfNet, initialise

WIDTH, WIDTHS = 4, (4, 4, 4, 4, 4)
Run = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture
def prefit(script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = script("prefit")
    monkeypatch.setattr(module, "ENCODER_WIDTH", WIDTH)
    monkeypatch.setattr(module, "DECODER_WIDTHS", WIDTHS)
    monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)
    return module


@pytest.fixture
def run(prefit: ModuleType, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the script and returns the weights that it has written."""

    def run_script(name: str, *extra: str, folder: Path = photographs, steps: int = 5) -> dict[str, torch.Tensor]:
        output = tmp_path / f"{name}.safetensors"
        arguments = [str(folder), "-o", str(output), "--steps", str(steps), "--decay", "2", "--size", "64", *extra]
        monkeypatch.setattr(sys, "argv", ["prefit.py", *arguments])
        prefit.main()
        return load_file(output)

    return run_script


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("extra", [(), ("--batch", "2")])
def test_continuing_gives_the_same_weights_as_never_stopping(
    prefit: ModuleType, run: Run, monkeypatch: pytest.MonkeyPatch, extra: tuple[str, ...]
) -> None:
    # The refusal of gradients goes on as before, too: here it refuses some.
    monkeypatch.setattr(prefit, "FEWEST_NORMS", 1)
    monkeypatch.setattr(prefit, "LARGEST_JUMP", 1.0)
    whole = run("whole", *extra)

    loss = prefit.root_mean_square
    calls = 0

    def failing(*arguments: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return loss(*arguments)

    monkeypatch.setattr(prefit, "root_mean_square", failing)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", *extra)
    monkeypatch.setattr(prefit, "root_mean_square", loss)
    assert_equal(run("stopped", *extra), whole)


def test_a_run_whose_first_gradient_was_refused_can_be_continued(
    prefit: ModuleType, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as refusing:
        refusing.setattr(prefit.GradientGuard, "accepts", lambda self, norm: False)
        first = run("out", "--minutes", "0")
    assert not torch.equal(run("out")["head.weight"], first["head.weight"])


def test_every_bias_has_a_slope_and_weights_are_half_as_large(run: Run) -> None:
    weights = run("out")
    network = Self2SelfNet(3, WIDTH, WIDTHS)
    expected = {
        name: (tensor.shape, torch.float16 if name.endswith("weight") else torch.float32)
        for name, tensor in network.state_dict().items()
    }
    slopes = {name.replace("bias", "slope"): expected[name] for name in expected if name.endswith("bias")}
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()} == expected | slopes
    assert all(weights[name].abs().max() > 0 for name in slopes)


def test_for_a_single_pass_nothing_is_hidden(
    prefit: ModuleType, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = run("start")
    shown: list[bool] = []
    take_step = prefit.take_step

    def watched(args: Any, training: Any, masks: Any, batch: Any) -> float:
        shown.append(bool(batch.input_mask.all()))
        dropout = masks.make(training.step, len(batch.level))
        shown.append(all(bool(mask.all()) for mask in dropout))
        return float(take_step(args, training, masks, batch))

    monkeypatch.setattr(prefit, "take_step", watched)
    single = run("single", "--single-pass", "--start", str(tmp_path / "start.safetensors"))
    assert shown
    assert all(shown)
    assert single.keys() == start.keys()
    assert not any(torch.equal(single[name], start[name]) for name in single if name.endswith("weight"))


def test_it_stops_after_the_given_time_and_goes_on_from_there(run: Run) -> None:
    run("out", "--minutes", "0", steps=8)
    weights = run("out", steps=8)
    assert_equal(weights, run("whole", steps=8))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_draw_the_same_samples(run: Run) -> None:
    assert_equal(run("alone", "--batch", "2", steps=3), run("helped", "--batch", "2", "--workers", "2", steps=3))


def test_it_starts_from_weights_with_or_without_slopes(prefit: ModuleType, run: Run, tmp_path: Path) -> None:
    network = Self2SelfNet(3, WIDTH, WIDTHS)
    initialise(network, "kaiming", torch.Generator().manual_seed(5))
    torch_file = tmp_path / "start.safetensors"
    plain = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    prefit.write_tensors(torch_file, plain)
    # A rate of almost 0 leaves the weights as they were.
    still = ("--rate", "1e-9", "--matrix-rate", "1e-9", "--start")
    first = run("first", *still, str(torch_file))
    assert all(torch.allclose(first[name].float(), tensor, atol=1e-3) for name, tensor in plain.items())
    assert max(float(tensor.abs().max()) for name, tensor in first.items() if name.endswith("slope")) < 1e-6

    told = first | {name: torch.full_like(tensor, 0.25) for name, tensor in first.items() if name.endswith("slope")}
    prefit.write_tensors(torch_file, told)
    second = run("second", *still, str(torch_file))
    assert all(torch.allclose(tensor, torch.tensor(0.25)) for name, tensor in second.items() if name.endswith("slope"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weights: weights.pop("head.weight"), "lacks head.weight"),
        (lambda weights: weights.update({"head.weight": torch.zeros(1, 4, 3, 3)}), "three channels"),
        (lambda weights: weights.update({"other": torch.zeros(1)}), "three channels"),
    ],
)
def test_other_weights_to_start_from_are_refused(
    prefit: ModuleType, run: Run, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], reason: str
) -> None:
    weights = {name: tensor.clone() for name, tensor in Self2SelfNet(3, WIDTH, WIDTHS).state_dict().items()}
    change(weights)
    prefit.write_tensors(tmp_path / "start.safetensors", weights)
    with pytest.raises(SystemExit, match=reason):
        run("out", "--start", str(tmp_path / "start.safetensors"))


def test_bfloat16_changes_little(run: Run) -> None:
    exact, rounded = (
        torch.cat([tensor.flatten().float() for tensor in weights.values()])
        for weights in (run("exact"), run("rounded", "--bfloat16"))
    )
    assert 0 < (exact - rounded).norm() < 0.05 * exact.norm()


def test_state_of_the_whole_network_takes_less_than_30_mb(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    module = script("prefit")
    network = Self2SelfNet(3, module.ENCODER_WIDTH, module.DECODER_WIDTHS)
    module.add_slopes(network)
    training = module.Training(network, 1e-3, 1e-3)
    training.update(sum(parameter.square().sum() for parameter in network.parameters()), 1e-3)
    training.save(tmp_path / "state.safetensors")
    assert 8e6 < (tmp_path / "state.safetensors").stat().st_size < 30e6


def test_gradients_that_jump_or_are_not_finite_are_refused(prefit: ModuleType) -> None:
    guard = prefit.GradientGuard()
    assert all(guard.accepts(norm) for norm in np.linspace(1, 3, 300))
    assert not guard.accepts(float("nan"))
    assert not guard.accepts(float("inf"))
    assert not guard.accepts(41.0)
    assert guard.accepts(39.0)
    assert guard.skipped == 3


def test_before_there_is_anything_to_compare_with_only_finite_gradients_count(prefit: ModuleType) -> None:
    guard = prefit.GradientGuard()
    assert [guard.accepts(norm) for norm in (1.0, 1e9, float("nan"))] == [True, True, False]


def test_rate_warms_up_stays_and_falls_to_zero(prefit: ModuleType) -> None:
    rates = [prefit.learning_rate(step, 100, 1.0, 10, 20) for step in range(101)]
    assert rates[0] == 0.1
    assert set(rates[10:80]) == {1.0}
    assert rates[90] == pytest.approx(0.5)
    assert rates[100] == 0


def test_a_device_that_is_not_here_is_reported(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("out", "--device", "cuda:99x")
    assert "--device is 'cuda:99x'; expected" in capsys.readouterr().err


def test_folder_without_photographs_is_reported(run: Run, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SystemExit, match=r"no \.png photographs"):
        run("out", folder=empty)
