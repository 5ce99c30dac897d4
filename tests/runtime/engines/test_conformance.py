"""Checks every engine in the same way: given the same masks, it computes what the PyTorch network computes.

Engines that run any graph are checked with a network with live dropout, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from self2self.errors import EngineUnavailableError, InputError, ResourceError, UsageError
from self2self.live.draws import draw_pass
from self2self.live.model import LiveModel, load_live
from self2self.model.masks import BoolArray, MaskMaker
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.engines.graphs import GRAPH_ENGINES
from self2self.runtime.engines.registry import AUTO, ENGINES, NEEDS_GPU, engine_class, engine_statuses, get_engine
from self2self.runtime.model import Model
from tests.conftest import Fitted
from tests.live import graphs as live_graphs

TOLERANCE = 1e-4
TF32_TOLERANCE = 1e-3
"""Tolerance of engines that round products of float32 values to 10 bits."""
BFLOAT16_TOLERANCE = 0.08
"""Tolerance of engines that round to 8 bits; predictions are up to 4 here. `test_bf16_network` checks their means."""
INT8_TOLERANCE = 0.4
"""Tolerance of engines that round to 8-bit integers, 255 over a channel's range; `test_int8_network` checks means."""
SIZES = [(64, 64), (64, 96)]


@dataclass(frozen=True)
class Case:
    """A network, its model file, and an image for it."""

    fitted: Fitted
    model: Model
    image: FloatArray

    def masks(self, first_pass: int, count: int, seed: int = 0) -> dict[str, BoolArray]:
        axes = {"H": self.image.shape[2], "W": self.image.shape[3]}
        return MaskMaker(self.model.contract.masks, axes, seed).make(first_pass, count)

    def expected(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        import torch

        with torch.inference_mode():
            inputs = [torch.from_numpy(masks[spec.name]) for spec in self.model.contract.masks]
            predictions: FloatArray = self.fitted.network(torch.from_numpy(self.image), *inputs).numpy()
        return predictions


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> type[Engine]:
    try:
        return get_engine(request.param)
    except EngineUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(params=[1, 3], ids=["grey", "rgb"])
def fitted_and_model(request: pytest.FixtureRequest) -> tuple[Fitted, Model]:
    name = {1: "grey", 3: "tiny"}[request.param]
    return request.getfixturevalue(name), request.getfixturevalue(f"{name}_model")


@pytest.fixture(params=SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def case(fitted_and_model: tuple[Fitted, Model], request: pytest.FixtureRequest) -> Case:
    fitted, model = fitted_and_model
    image = np.random.default_rng(5).random((1, model.contract.channels, *request.param), dtype=np.float32)
    return Case(fitted, model, image)


def tolerance_of(engine: type[Engine]) -> float:
    tolerances = {"tf32": TF32_TOLERANCE, "bfloat16": BFLOAT16_TOLERANCE, "int8": INT8_TOLERANCE, None: TOLERANCE}
    return tolerances[engine.rounds_to]


def assert_close(engine: type[Engine], got: FloatArray, expected: FloatArray, what: str) -> None:
    tolerance = tolerance_of(engine)
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    difference = np.abs(got.astype(np.float64) - expected)
    assert difference.max() <= tolerance, (
        f"{what}: max difference {difference.max():.3g}, mean {difference.mean():.3g}; tolerance {tolerance:g}"
    )


def test_predictions_are_those_of_the_network(engine: type[Engine], case: Case) -> None:
    with engine(case.model, case.image) as running:
        for batch in (1, 2, 3):
            masks = case.masks(0, batch)
            assert_close(engine, running.run(masks), case.expected(masks), f"batch {batch}")


def test_a_batch_is_its_passes_one_by_one(engine: type[Engine], case: Case) -> None:
    with engine(case.model, case.image) as running:

        def passes(first: int, count: int) -> FloatArray:
            running.first_pass = first
            return running.run(case.masks(first, count)).copy()

        together = passes(4, 3)
        alone = np.concatenate([passes(index, 1) for index in (4, 5, 6)])
    assert_close(engine, together, alone, "batch of 3 against single passes")
    assert np.abs(together[0] - together[1]).max() > 2 * tolerance_of(engine), (
        "passes with other masks give the same prediction"
    )


def test_repeated_runs_agree(engine: type[Engine], case: Case) -> None:
    masks = case.masks(0, 2)
    with engine(case.model, case.image) as running:
        first = running.run(masks).copy()
        running.run(case.masks(2, 3))
        np.testing.assert_allclose(running.run(masks), first, rtol=0, atol=1e-6)
    with engine(case.model, case.image) as again:
        np.testing.assert_allclose(again.run(masks), first, rtol=0, atol=1e-6)


def test_leaves_its_inputs_alone(engine: type[Engine], tiny_model: Model) -> None:
    case = Case(Fitted(None, tiny_model.contract), tiny_model, np.full((1, 3, 64, 64), 0.5, np.float32))  # type: ignore[arg-type]
    masks = case.masks(0, 1)
    copies = {name: mask.copy() for name, mask in masks.items()}
    with engine(tiny_model, case.image) as running:
        running.run(masks)
    assert all(np.array_equal(masks[name], copies[name]) for name in copies)
    assert (case.image == 0.5).all()


def test_the_image_can_be_exchanged(engine: type[Engine], tiny: Fitted, tiny_model: Model) -> None:
    first, second = np.random.default_rng(7).random((2, 1, 3, 64, 96), dtype=np.float32)
    with engine(tiny_model, first) as running:
        for batch, image in ((2, second), (2, first), (1, second)):
            running.set_image(image)
            case = Case(tiny, tiny_model, image)
            masks = case.masks(0, batch)
            assert_close(engine, running.run(masks), case.expected(masks), f"batch {batch}")
        for wrong in (np.zeros((1, 3, 64, 64), np.float32), np.zeros((1, 3, 64, 96), np.float64)):
            with pytest.raises(UsageError, match=r"expected float32 \[1, 3, 64, 96\]"):
                running.set_image(wrong)


def test_the_image_can_be_exchanged_before_it_is_used(engine: type[Engine], tiny: Fitted, tiny_model: Model) -> None:
    first, second = np.random.default_rng(8).random((2, 1, 3, 64, 64), dtype=np.float32)
    running = engine(tiny_model, first)
    running.set_image(second)
    case = Case(tiny, tiny_model, second)
    masks = case.masks(0, 1)
    with running:
        assert_close(engine, running.run(masks), case.expected(masks), "exchanged before it was prepared")


def test_says_what_runs(engine: type[Engine], tiny_model: Model) -> None:
    with engine(tiny_model, np.zeros((1, 3, 64, 64), np.float32)) as running:
        provider = running.provider()
    assert engine.name in NEEDS_GPU or provider in {
        "CPUExecutionProvider",
        "MNN CPU",
        "OpenVINO CPU",
        "PyTorch CPU",
        "PyTorch CPU in bfloat16",
        "PyTorch CPU in 8-bit integers",
    }
    assert any(character.isdigit() for character in engine.version())


def test_can_be_closed_twice(engine: type[Engine], tiny_model: Model) -> None:
    running = engine(tiny_model, np.zeros((1, 3, 64, 64), np.float32))
    running.close()
    with running:
        pass
    running.close()


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.zeros((1, 3, 64, 64), np.float64), r"float64 \[1, 3, 64, 64\].*expects float32 \[1, 3, H, W\]"),
        (np.zeros((3, 64, 64), np.float32), r"float32 \[3, 64, 64\]"),
        (np.zeros((2, 3, 64, 64), np.float32), r"float32 \[2, 3, 64, 64\]"),
        (np.zeros((1, 1, 64, 64), np.float32), r"float32 \[1, 1, 64, 64\]"),
        (np.zeros((1, 3, 64, 80), np.float32), r"64x80; expected multiples of 32 from 64 up"),
        (np.zeros((1, 3, 32, 64), np.float32), r"32x64; expected multiples of 32 from 64 up"),
    ],
)
def test_wrong_images_are_refused(engine: type[Engine], tiny_model: Model, image: FloatArray, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        engine(tiny_model, image)


def test_every_registered_engine_has_a_status() -> None:
    statuses = engine_statuses()
    assert [status.name for status in statuses] == list(ENGINES)
    for status in statuses:
        assert engine_class(status.name).name == status.name
        assert bool(status.version) == status.works != bool(status.problem)
        # Nothing can be installed for what a processor lacks.
        remedies = ("pip install", "this CPU does not")
        assert status.works or status.name in NEEDS_GPU or any(words in status.problem for words in remedies)


def test_auto_is_the_first_engine_that_works() -> None:
    works = {status.name: status.works for status in engine_statuses()}
    assert get_engine("auto").name == next(name for name in AUTO if works[name])
    # The only engine for GPUs in AUTO is the one that has run on a GPU.
    assert set(AUTO) & set(NEEDS_GPU) == {"torch-cuda"}


def test_unknown_engine() -> None:
    with pytest.raises(UsageError, match=r"--engine is 'tpu'; expected one of: auto, .*ort, torch"):
        get_engine("tpu")


def test_auto_without_any_engine_says_every_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(cls: type[Engine]) -> str:
        raise EngineUnavailableError(f"engine {cls.name}: broken.")

    for name in ENGINES:
        monkeypatch.setattr(engine_class(name), "version", classmethod(refuse))
    with pytest.raises(
        EngineUnavailableError, match=r"no engine works here: engine torch-cuda: broken\..*engine torch: bro"
    ):
        get_engine("auto")


@pytest.fixture(params=list(GRAPH_ENGINES))
def live(request: pytest.FixtureRequest, tmp_path: Path) -> LiveModel:
    """A network with live dropout in each engine that runs any graph."""
    path = live_graphs.write(tmp_path / "live.onnx")
    try:
        return load_live(path, request.param)
    except EngineUnavailableError as error:
        pytest.skip(str(error))


def test_a_live_network_computes_its_formula_for_any_batch(live: LiveModel) -> None:
    for samples in (1, 5, 2):
        x = np.random.default_rng(samples).normal(size=(samples, 4)).astype(np.float32)
        axes = {"batch": samples}
        carried = live.once({"x": x})
        for index in (0, 1):
            draws = draw_pass(live.contract, axes, 3, index)
            got = live.one_pass({"x": x}, carried, draws)
            np.testing.assert_allclose(got["output"], live_graphs.outputs(x, draws["mask"]), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(got["features"], np.tanh(x), rtol=1e-5, atol=1e-6)


def test_statistics_of_a_live_network_are_those_of_onnx_runtime(live: LiveModel) -> None:
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    reference = load_live(live.path).predict(x, 30, seed=2, quantiles=(0.5,))
    found = live.predict(x, 30, seed=2, quantiles=(0.5,))
    for name in ("mean", "std", "quantiles"):
        np.testing.assert_allclose(getattr(found, name), getattr(reference, name), rtol=1e-4, atol=1e-5)


def test_wrong_sizes_of_a_live_network_are_one_line_in_every_engine(live: LiveModel) -> None:
    x = np.ones((2, 4), np.float32)
    # MNN does not say why it cannot lay out a graph.
    kind, message = (ResourceError, "memory") if live.engine == "mnn" else (InputError, "does not run on these inputs")
    with pytest.raises(kind, match=message) as caught:
        live.one_pass({"x": x}, live.once({"x": x}), {"mask": np.ones((2, 3), bool)})
    assert "\n" not in str(caught.value)
    assert live.predict(x, 3).passes == 3
