"""What each part of the paper's recipe is good for: fits without it.

- ``without gates``: plain convolutions in the place of gated ones. The gates of the network stay open: their weights
  are 0, their biases so large that the gate is 1 and its gradient 0. So the encoder has half of its weights left.
- ``without decoder dropout``, ``L2``: the recipe with another value.
- ``without hidden pixels``: no Bernoulli sampling of the input. Nothing is hidden, so all values count in the loss.
- ``one pass``: a single pass of the fit of ``paper``, in place of `Settings.passes`.

The image quality term is not in `paper` here: it needs weights for non-commercial use (docs/iqa.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image as PillowImage

from benchmarks.clocked import SEED, Stopwatch
from benchmarks.pairs import FloatArray, Pair
from benchmarks.results_file import Row
from benchmarks.scores import scores
from benchmarks.studies.study import PAPER_STEP_SECONDS, Job, Settings, Study, colour, new_axes, with_gaussian
from self2self.machine.files import atomic_path
from self2self.model.network import GatedConv, Self2SelfNet
from self2self.train.fit import FitState, StepMasks, new_state
from self2self.train.prediction import predict
from self2self.train.recipes import RECIPES, Recipe
from self2self.train.samples import HiddenPixelSamples
from self2self.train.steps import step_runner_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGMA = 25.0
LOOKS, LOOK_PASSES = 5, 16
OPEN_GATE = 30.0
"""Bias of a gate whose sigmoid is 1 in float32."""
WHOLE, ONE_PASS = "paper", "one pass"
PASS_SHARE = 0.25
"""Time of a pass over that of a step."""


@dataclass(frozen=True, slots=True)
class Variant:
    """The paper's recipe without one part.

    Attributes:
        changes: of the recipe.
        gated: whether convolutions of the encoder are gated.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    gated: bool = True


VARIANTS = {
    WHOLE: Variant(),
    "without gates": Variant(gated=False),
    "without decoder dropout": Variant({"decoder_drop_rate": 0.0}),
    "without hidden pixels": Variant({"input_drop_rate": 0.0}),
    "L2": Variant({"loss": "l2"}),
}


@torch.no_grad()
def open_gates(network: Self2SelfNet) -> None:
    """Make plain convolutions of the gated ones, for good: neither product nor gradient of the gates is left."""
    for module in network.modules():
        if isinstance(module, GatedConv):
            bias = module.conv.bias
            assert bias is not None  # noqa: S101 - all convolutions have one
            half = len(bias) // 2
            module.conv.weight[half:] = 0
            bias[half:] = OPEN_GATE


def fitted(pixels: FloatArray, recipe: Recipe, gated: bool, on_step: Callable[[FitState], None]) -> FitState:
    """Fit as `self2self.train.fit.fit` does, from random weights; with nothing hidden, all values count in the loss.

    Args:
        pixels: float32 (C, H, W) in [0, 1].
        recipe: settings of the fit.
        gated: whether convolutions of the encoder are gated.
        on_step: called after every step.
    """
    device = torch.device("cpu")
    state = new_state(recipe, len(pixels), SEED, device)
    if not gated:
        open_gates(state.network)
    samples = HiddenPixelSamples(pixels, recipe.crop, SEED, recipe.orientations, device)
    masks = StepMasks(recipe.masks(len(pixels)), samples.size, SEED, device)
    runner = step_runner_for(state.network, state.optimiser, recipe, hidden_only=recipe.input_drop_rate > 0)
    state.network.train()
    while state.step < recipe.steps:
        state.loss = runner.run_step(samples.sample(state.step), masks.make(state.step)).item()
        state.step += 1
        on_step(state)
    return state


def run(pair: Pair, name: str, settings: Settings) -> dict[str, Row]:
    """Fit one variant; the row has its curve of PSNR over the steps."""
    variant = VARIANTS[name]
    recipe = replace(RECIPES["paper"], steps=settings.steps, **variant.changes)
    at = {max(1, round(recipe.steps * (look + 1) / LOOKS)) for look in range(LOOKS)}
    watch, curve = Stopwatch(), []

    def look(state: FitState) -> None:
        if state.step in at:
            watch.pause()
            seen = predict(state.weights(), pair.noisy, recipe, passes=LOOK_PASSES)
            curve.append({"step": state.step, "psnr": scores(seen, pair.clean)["psnr"]})
            print(f"{pair.name} {name} step {state.step} {curve[-1]['psnr']:.2f} dB", flush=True)
            watch.start()

    watch.start()
    state = fitted(pair.noisy, recipe, variant.gated, look)
    watch.pause()
    results = {name: settings.passes, **({ONE_PASS: 1} if name == WHOLE else {})}
    rows = {}
    for method, passes in results.items():
        result = predict(state.weights(), pair.noisy, recipe, passes=passes)
        save(result, settings.pictures, pair.name, method)
        rows[method] = {
            "steps": recipe.steps,
            "passes": passes,
            **watch.seconds("fit_"),
            **scores(result, pair.clean),
            "curve": curve if method == name else [],
        }
    return rows


def save(pixels: FloatArray, folder: Path, image: str, method: str) -> None:
    """Keep a result, (C, H, W) with 0 for black and 1 for white, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    levels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    PillowImage.fromarray(levels if levels.shape[2] == 3 else levels[..., 0]).save(folder / f"{image} {method}.png")


def jobs(settings: Settings) -> list[Job]:
    """A fit for each variant and image."""
    found = []
    for image in settings.images:
        pair = with_gaussian(image, settings.side, SIGMA)
        for method, pixels in (("noisy", pair.noisy), ("clean", pair.clean)):
            save(pixels, settings.pictures, pair.name, method)
        steps = settings.steps + PASS_SHARE * (settings.passes + LOOKS * LOOK_PASSES)
        seconds = steps * PAPER_STEP_SECONDS * settings.side**2
        found.append(Job(pair.name, ("noisy",), {}, 0, partial(noisy_row, pair)))
        for name in VARIANTS:
            methods = (name, ONE_PASS) if name == WHOLE else (name,)
            found.append(Job(pair.name, methods, {}, seconds, partial(run, pair, name, settings)))
    return found


def noisy_row(pair: Pair) -> dict[str, Row]:
    """Scores of the input."""
    return {"noisy": scores(pair.noisy, pair.clean)}


def draw(rows: list[Row]) -> Figure:
    """PSNR over the steps, mean over the images."""
    figure, (axes,) = new_axes()
    for index, name in enumerate(VARIANTS):
        curves = [row["curve"] for row in rows if row["method"] == name]
        if curves:
            psnr = np.mean([[point["psnr"] for point in curve] for curve in curves], axis=0)
            axes.plot([point["step"] for point in curves[0]], psnr, "o-", color=colour(index), markersize=4, label=name)
    axes.set(xlabel="steps", ylabel=f"PSNR of {LOOK_PASSES} passes (dB)")
    axes.legend(fontsize=8, frameon=False)
    return figure


def picture(settings: Settings, path: Path) -> None:
    """The results of the first image side by side, for the eye."""
    from matplotlib.figure import Figure as NewFigure

    image = f"{settings.images[0]} gaussian {SIGMA:g}"
    names = ["noisy", "clean", *VARIANTS, ONE_PASS]
    shown = [name for name in names if (settings.pictures / f"{image} {name}.png").is_file()]
    columns = 4
    figure = NewFigure(figsize=(8, 2.2 * -(-len(shown) // columns)), layout="constrained")
    cells = list(figure.subplots(-(-len(shown) // columns), columns, squeeze=False).flat)
    for axes in cells:
        axes.axis("off")
    for axes, name in zip(cells, shown, strict=False):
        axes.imshow(np.asarray(PillowImage.open(settings.pictures / f"{image} {name}.png")), interpolation="nearest")
        axes.set_title(name, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


STUDY = Study(
    "components",
    "What is each part of the paper's recipe good for?",
    Settings(("chelsea",), side=64, steps=300, passes=100),
    Settings(("chelsea", "camera", "astronaut", "coffee"), side=128, steps=4000, passes=500),
    jobs,
    draw,
    picture=picture,
)
