"""The image quality term: pyiqa's own code with random weights."""

import json
import socket
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from self2self.errors import EngineUnavailableError, FileFormatError, UsageError
from self2self.jobs import FitOptions, Observer, fit_job
from self2self.jobs.fit_config import resumable
from self2self.jobs.results import FitResult
from self2self.train import iqa, session
from self2self.train.fit import new_state
from self2self.train.iqa import IqaTerm, WholeImagePool
from self2self.train.iqa_weights import IqaWeights, find_weights
from self2self.train.losses import masked_loss
from self2self.train.run_folder import History, Run
from self2self.train.session import fit_run
from tests.commands import write_noisy
from tests.train.plain_paq2piq import plain_roi_pool, random_paq2piq, write_weights
from tests.train.test_fit import CPU, TINY, image_of
from tests.train.test_run_folder import config_of
from tests.train.test_session import assert_same_model

EVERYWHERE = (slice(None), slice(None))


def skip_without_pyiqa() -> None:
    """Skip the test where pyiqa is missing; `importorskip` would import it without `IqaTerm`'s care for torchvision."""
    if find_spec("pyiqa") is None:
        pytest.skip("needs pyiqa: make iqa-test")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> IqaWeights:
    return find_weights(write_weights(tmp_path_factory.mktemp("iqa") / "random.pth"), print)


@pytest.fixture(scope="session")
def term(weights: IqaWeights) -> IqaTerm:
    skip_without_pyiqa()
    return IqaTerm(weights, CPU)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 96, 128), (1, 64, 96), (3, 40, 70), (3, 17, 33), (3, 8, 8)])
def test_value_and_gradient_are_those_of_the_plain_formulation(term: IqaTerm, shape: tuple[int, ...]) -> None:
    plain = random_paq2piq()
    # The raw prediction of a fit exceeds the range a little.
    ours = (noise(1, *shape) * 1.2 - 0.1).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    value = term(ours)
    score = plain(theirs.repeat(1, 3 // shape[0], 1, 1))
    expected = (100 - score).square().mean()
    (2 * value).backward()
    (2 * expected).backward()
    term.summarise()
    assert 20 < score.item() < 100
    assert term.score == pytest.approx(score.item(), rel=1e-4)
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    assert theirs.grad.abs().max() > 1e-3
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4 * theirs.grad.abs().max().item())


def test_gradient_reaches_the_network_and_agrees_with_a_finite_difference(weights: IqaWeights) -> None:
    skip_without_pyiqa()
    term = IqaTerm(weights, CPU)
    term._metric.double()
    network = new_state(TINY, 3, 0, CPU).network.double()
    image = torch.from_numpy(image_of(64, 64))[None].double()
    draws = torch.Generator().manual_seed(1)
    masks = [
        torch.rand((1, *spec.shape({"H": 64, "W": 64})), generator=draws) < spec.keep_probability
        for spec in TINY.masks(3)
    ]

    def quality() -> torch.Tensor:
        return term(network(image, *masks))

    parameters = list(network.parameters())
    gradients = torch.autograd.grad(quality(), parameters)
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    directions = [torch.randn(p.shape, generator=draws, dtype=torch.float64) for p in parameters]
    slope = sum((g * direction).sum().item() for g, direction in zip(gradients, directions, strict=True))
    values = []
    with torch.no_grad():
        for step in (1e-7, -2e-7):
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=step)
            values.append(quality().item())
    assert (values[0] - values[1]) / 2e-7 == pytest.approx(slope, rel=1e-4)


def test_term_adds_to_the_loss_and_leaves_the_scoring_network_unchanged(term: IqaTerm) -> None:
    before = {name: tensor.clone() for name, tensor in term._metric.state_dict().items()}
    prediction = noise(1, 3, 64, 64).requires_grad_()
    mask = noise(1, 3, 64, 64, seed=1) < 0.6
    loss = masked_loss(prediction, noise(1, 3, 64, 64, seed=2), mask, EVERYWHERE, "l1") + 2e-8 * term(prediction)
    loss.backward()
    assert not any(module.training for module in term._metric.modules())
    assert not any(parameter.requires_grad for parameter in term._metric.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in term._metric.state_dict().items())
    # Visible pixels get their gradient from the term alone.
    assert prediction.grad[mask].abs().max() > 0


def test_time_and_score_cover_the_calls_since_the_last_summary(term: IqaTerm) -> None:
    term(noise(1, 3, 64, 64))
    term.summarise()
    first = term.score
    assert term.step_seconds is not None and term.step_seconds > 0
    term.summarise()
    assert term.score == first
    for seed in (1, 2):
        term(noise(1, 3, 64, 64, seed=seed))
    term.summarise()
    expected = random_paq2piq()(torch.cat([noise(1, 3, 64, 64, seed=seed) for seed in (1, 2)])).mean().item()
    assert term.score == pytest.approx(expected, rel=1e-4)


def test_building_uses_no_network_no_random_numbers_and_says_nothing(
    weights: IqaWeights, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    skip_without_pyiqa()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    state = torch.random.get_rng_state()
    IqaTerm(weights, CPU)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", [(8, 8), (16, 17), (47, 48), (49, 64), (80, 100), (128, 33), (224, 160)])
def test_pooling_of_a_whole_image(size: tuple[int, int]) -> None:
    features = noise(2, 5, *(-(-side // 32) for side in size))
    box = torch.tensor([[0.0, 0.0, size[1], size[0]]])
    pooled = WholeImagePool((2, 2), 1 / 32)(features, [box, box])
    assert torch.equal(pooled, plain_roi_pool(features, *size))


@pytest.mark.parametrize("size", [(8, 8), (16, 17), (47, 48), (49, 64), (80, 100), (128, 33), (224, 160)])
def test_pooling_is_that_of_torchvision(size: tuple[int, int], term: IqaTerm) -> None:
    import torchvision

    if not torchvision.extension._has_ops():
        pytest.skip("the compiled operators of torchvision do not load beside this PyTorch")
    features = noise(2, 5, *(-(-side // 32) for side in size))
    box = torch.tensor([[0.0, 0.0, size[1], size[0]]])
    expected = torchvision.ops.RoIPool((2, 2), 1 / 32)(features, [box, box])
    assert torch.equal(WholeImagePool((2, 2), 1 / 32)(features, [box, box]), expected)


def test_weights_of_another_network_are_refused(tmp_path: Path, term: IqaTerm) -> None:
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(FileFormatError, match=r"other\.pth: its tensors are not those of pyiqa's PaQ-2-PiQ"):
        IqaTerm(find_weights(path, print), CPU)


@pytest.mark.parametrize(("reason", "start"), [("no pyiqa today\nsecond line", "no"), ("", "ImportError")])
def test_pyiqa_that_cannot_be_used_is_reported_in_one_line(
    weights: IqaWeights, monkeypatch: pytest.MonkeyPatch, reason: str, start: str
) -> None:
    def broken(name: str) -> None:
        raise ImportError(reason)

    monkeypatch.setattr(iqa, "import_module", broken)
    with pytest.raises(
        EngineUnavailableError, match=rf"^--iqa: pyiqa cannot be used here \(ImportError: {start}"
    ) as refusal:
        IqaTerm(weights, CPU)
    assert "\n" not in str(refusal.value)


def test_without_pyiqa_and_for_odd_channels_the_refusal_comes_early(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--iqa scores images with 1 or 3 channels; this one has 4"):
        iqa.check_usable(4)
    monkeypatch.setattr(iqa, "find_spec", lambda name: None)
    with pytest.raises(EngineUnavailableError, match=r"--iqa needs pyiqa, which is not installed\. Install it: pip"):
        iqa.check_usable(3)


def test_fit_writes_scores_and_resumes_to_the_same_bits(
    tmp_path: Path, weights: IqaWeights, term: IqaTerm, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The padding of a 70 pixel side must not be scored.
    shapes = []
    plain_call = IqaTerm.__call__

    def watched(self: IqaTerm, prediction: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(prediction.shape))
        return plain_call(self, prediction)

    monkeypatch.setattr(IqaTerm, "__call__", watched)
    monkeypatch.setattr(session, "CHECKPOINT_SECONDS", 0.0)
    recipe = replace(TINY, steps=4, quality_weight=1e-3)
    config = config_of(recipe=recipe, iqa=weights)
    image = image_of(64, 70)
    without, whole, cut = Run(tmp_path / "without"), Run(tmp_path / "whole"), Run(tmp_path / "cut")
    fit_run(without, config_of(recipe=recipe), image)
    report = fit_run(whole, config, image)
    assert set(shapes) == {(1, 3, 64, 70)}
    assert whole.config() == config
    assert report.quality is not None and 20 < report.quality < 100
    assert report.quality_seconds is not None and report.quality_seconds > 0
    assert all({"quality", "quality_seconds"} <= entry.keys() for entry in History(whole.history_path).read())
    assert not any("quality" in entry for entry in History(without.history_path).read())

    class Stop(Exception):  # noqa: N818
        pass

    def stop(report: session.FitReport) -> None:
        if report.step == 2:
            raise Stop

    with pytest.raises(Stop):
        fit_run(cut, config, image, on_report=stop)
    fit_run(cut, config, image, resume=True)
    assert_same_model(cut, whole)
    with pytest.raises(AssertionError):
        assert_same_model(without, whole)


def test_resuming_keeps_the_term_and_refuses_another(tmp_path: Path, weights: IqaWeights) -> None:
    run = Run(tmp_path / "run")
    run.create(config_of(iqa=weights))
    off, on = config_of(), config_of(iqa=replace(weights, path="/moved/random.pth"))
    assert resumable(run, off, FitOptions()).iqa == weights
    kept = resumable(run, on, FitOptions(iqa=True)).iqa
    assert kept is not None and kept.path == "/moved/random.pth"
    with pytest.raises(UsageError, match=rf"image quality term {weights.sha256[:8]}, asked for off\)"):
        resumable(run, off, FitOptions(iqa=False))
    other = config_of(iqa=replace(weights, sha256="cd" * 32))
    with pytest.raises(UsageError, match=r"image quality term .*, asked for cdcdcdcd\)"):
        resumable(run, other, FitOptions(iqa=True))
    run.create(config_of())
    with pytest.raises(UsageError, match=r"image quality term off, asked for [0-9a-f]{8}\)"):
        resumable(run, on, FitOptions(iqa_weights=Path("random.pth")))


def test_runs_of_versions_without_the_term_are_read(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.create(config_of())
    values = json.loads(run.config_path.read_text())
    assert values.pop("iqa") is None
    run.config_path.write_text(json.dumps(values))
    assert run.config() == config_of()


def test_fit_says_whether_the_term_was_used(weights: IqaWeights) -> None:
    def fitted(config: object, **scores: float) -> FitResult:
        return FitResult(Run(Path("run")), config, steps=3, loss=0.1, seconds=1.0, **scores)  # type: ignore[arg-type]

    assert fitted(config_of()).to_json()["quality_term"] is None
    assert fitted(config_of()).quality_text() == "without the image quality term (--iqa)"
    used = fitted(config_of(iqa=weights), quality=61.2, quality_seconds=0.05)
    assert used.to_json()["quality_term"] == {
        "metric": "paq2piq",
        "weight": 2e-8,
        "weights_sha256": weights.sha256,
        "published_weights": False,
        "score": 61.2,
        "seconds_per_step": 0.05,
    }
    assert used.quality_text().endswith(f"{weights.sha256[:8]}: score 61.2 of 100, 50 ms of each step")


def test_job_fits_with_the_term_and_reads_the_weights_twice_alike(
    tmp_path: Path, weights: IqaWeights, term: IqaTerm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = write_noisy(tmp_path / "small.png", (40, 64))
    notes: list[str] = []
    options = FitOptions(steps=1, iqa_weights=Path(weights.path))
    done = fit_job(image, options, observer=Observer(note=notes.append))
    assert done.config.iqa == weights
    assert done.quality is not None and 20 < done.quality < 100
    assert [note for note in notes if "so small that the score" in note]
    with pytest.raises(UsageError, match="--iqa-weights turns the image quality term on and --no-iqa off"):
        replace(options, iqa=False).check()
