"""Fits the network to one noisy image.

Each step hides a random share of the pixel values, predicts them from the others with the
decoder's dropout on, and takes the error at the hidden values alone as its loss. The network
cannot copy noise that it does not see, and independent noise cannot be predicted, so it learns
the image. In a long fit it starts to memorise the noise. Therefore the ``fast`` recipe has few
steps, a falling learning rate and averaged weights. Correlated noise can be predicted from the
neighbours; for such noise ``fast`` uses other samples (`train.simulated_targets`).

All randomness of a step is a function of (seed, step). So an interrupted fit that continues from
its saved weights and moments takes the same steps as a fit that was never interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from self2self.errors import EngineUnavailableError, ResourceError, UsageError, pytorch_memory, typed
from self2self.imaging.clipped_noise import measure_clipping
from self2self.imaging.missing import measured_part
from self2self.imaging.outliers import clip_to_range, remove_outliers
from self2self.machine.nvidia import built_for
from self2self.model.contract import MaskSpec
from self2self.model.masks import MaskMaker, Stream, generator
from self2self.model.network import Self2SelfNet, initialise, to_channels_last
from self2self.train.adam import Adam
from self2self.train.muon import Muon
from self2self.train.recipes import Recipe
from self2self.train.samples import HiddenPixelSamples, TrainingSamples
from self2self.train.simulated_targets import SimulatedTargetSamples
from self2self.train.steps import QualityTerm, step_runner_for

FloatArray = NDArray[np.float32]

GOOD_STEPS = 50
"""Steps after which the weights are kept, to go back to them if the fit diverges."""
DIVERGED_ERROR = 1.0
"""Mean error at the counted values, in units of the image's range, above which a fit that was better has diverged."""


@dataclass
class FitState:
    """The state of a fit between two steps: what callbacks may read, and what continuing needs.

    Attributes:
        network: the network, optimised in place.
        optimiser: the network's Adam or Muon.
        average: averaged weights by name, or None where the recipe has no average.
        step: number of steps taken.
        loss: loss of the last step; NaN before the first.
        start: weights that the fit started from, or None where neither inference nor the steps need them.
        fitted_share: `Recipe.fitted_share`.
        good: weights for inference of the last step that is a multiple of `GOOD_STEPS`; None before.
        good_step: their step.
        diverged_step: the step after which the fit diverged and ended; None if it did not.
        starts_fitted: whether it started from weights of another fit.
    """

    network: Self2SelfNet
    optimiser: Adam
    average: dict[str, Tensor] | None
    step: int = 0
    loss: float = math.nan
    start: dict[str, Tensor] | None = None
    fitted_share: float = 1.0
    good: dict[str, Tensor] | None = None
    good_step: int = 0
    diverged_step: int | None = None
    starts_fitted: bool = False

    def weights(self) -> dict[str, Tensor]:
        """The weights to use for inference, float32 on the CPU: averaged ones if there are any.

        Weights between the start weights and the fitted ones often predict better than either (Wortsman et
        al. 2022, "Robust fine-tuning of zero-shot models"); `fitted_share` is the position between the two.
        After a fit that diverged, these are the last good weights.
        """
        if self.diverged_step is not None and self.good is not None:
            return dict(self.good)
        source = self.network.state_dict() if self.average is None else self.average
        if self.start is not None:
            source = {name: self.start[name].lerp(tensor, self.fitted_share) for name, tensor in source.items()}
        return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in source.items()}

    def has_diverged(self, error: float) -> bool:
        """Whether the last step has made the fit useless.

        Args:
            error: mean error of the step, absolute or squared, in units of the image's range.
        """
        values = [*self.network.state_dict().values(), *(self.average or {}).values()]
        norms = torch.stack(torch._foreach_norm(values))
        if not (math.isfinite(self.loss) and bool(torch.isfinite(norms).all())):
            return True
        return self.good is not None and error > DIVERGED_ERROR

    def keep_good_weights(self, step: int, weights: dict[str, Tensor]) -> None:
        """Keep the `weights` of `step`, as `weights` returned them, for the case that the fit diverges."""
        self.good, self.good_step = weights, step

    def go_back(self, recipe: Recipe) -> None:
        """End the fit, which has diverged, with the last good weights.

        Raises:
            UsageError: there are none.
        """
        if self.good is None:
            raise UsageError(
                f"the fit diverged at step {self.step} of {recipe.steps}, before it had learnt anything. "
                f"Start from the weights that ship with the program ({typed('--init pretrained')}), or try another "
                f"{typed('--seed')}."
            )
        self.diverged_step, self.step = self.step, self.good_step


def new_state(
    recipe: Recipe, channels: int, seed: int, device: torch.device, start: dict[str, Tensor] | None = None
) -> FitState:
    """The state before the first step.

    Args:
        recipe: gives the architecture and the optimiser.
        channels: colour channels of the image.
        seed: seed of the initial weights where `start` is None.
        device: device to fit on.
        start: weights to start from; None for random ones.

    Raises:
        UsageError: `start` belongs to another architecture.
    """
    network = Self2SelfNet(
        channels, recipe.encoder_width, recipe.decoder_widths, recipe.masks(channels)[-1].keep_probability
    )
    if start is None:
        initialise(network, recipe.scratch_scheme, torch.Generator().manual_seed(seed))
    else:
        expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
        if {name: tensor.shape for name, tensor in start.items()} != expected:
            raise UsageError(
                f"{typed('--init')} names a fit with another recipe or another number of channels; "
                f"start from one that was made with the same {typed('--recipe')}."
            )
        network.load_state_dict({name: tensor.to(torch.float32) for name, tensor in start.items()})
    network = to_channels_last(network, device)
    state = FitState(network, _new_optimiser(network, recipe, device), None, fitted_share=recipe.fitted_share)
    state.starts_fitted = start is not None
    if recipe.average_decay is not None:
        state.average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    if start is not None and (recipe.fitted_share < 1 or recipe.target != "hidden"):
        state.start = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    return state


def _new_optimiser(network: Self2SelfNet, recipe: Recipe, device: torch.device) -> Adam:
    """Adam or Muon, as `recipe` has it, for a network on `device`."""
    on_cpu, on_cuda = device.type == "cpu", device.type == "cuda"
    optimiser = (
        # One kernel for all parameters saves 2 of the 45 ms of a step of `fast` on two cores.
        Adam(network.parameters(), recipe.learning_rate, recipe.betas, fused=on_cpu, capturable=on_cuda)
        if recipe.matrix_rate is None
        else Muon(network, recipe.learning_rate, recipe.matrix_rate, recipe.betas, capturable=on_cuda)
    )
    if on_cuda:
        for group in optimiser.param_groups:
            # A plain number would become a constant of the step's graph.
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
    return optimiser


def fit(
    image: FloatArray,
    recipe: Recipe,
    state: FitState,
    *,
    seed: int = 0,
    missing: NDArray[np.bool_] | None = None,
    quality: QualityTerm | None = None,
    on_step: Callable[[FitState], None] | None = None,
) -> FitState:
    """Take the remaining steps of the fit; `state` is changed and returned.

    Args:
        image: float32 (C, H, W) of any size from 8x8 up, in [0, 1]; values outside this range count as its nearest
            end (`clip_to_range`).
        recipe: the recipe that `state` was made with.
        state: from `new_state`, or restored by `checkpoint.load_state`.
        seed: seed of all masks and crops.
        missing: bool (H, W), pixels that hold no measurement; `image` is filled smoothly there. None for none.
        quality: a differentiable no-reference quality term, weighted by the recipe; it gets the prediction without
            padding.
        on_step: called after every step; an exception that it raises ends the fit between two steps.

    A fit that diverges ends with the weights of an earlier step (`FitState.diverged_step`).

    Raises:
        UsageError: the recipe learns from start weights, and `state` has none; or the fit diverged at once.
        ResourceError: memory ran out.
    """
    if state.step >= recipe.steps:
        return state
    image = remove_outliers(image, impulses=recipe.removes_impulses)
    network, optimiser = state.network, state.optimiser
    device = next(network.parameters()).device
    specs = recipe.masks(image.shape[0])
    samples = training_samples_for(image, recipe, state, seed, missing)
    masks = StepMasks(specs, samples.size, seed, device)
    measures_clipping = recipe.expects_clipping and samples.hidden_only
    clipping = measure_clipping(clip_to_range(measured_part(image, missing))) if measures_clipping else None
    runner = step_runner_for(network, optimiser, recipe, samples.hidden_only, quality, clipping)
    network.train()
    if state.step == 0 and state.starts_fitted:
        state.keep_good_weights(0, state.weights())
    unproven = state.weights() if state.step and state.step % GOOD_STEPS == 0 else None
    while state.step < recipe.steps:
        _set_learning_rate(optimiser, learning_rate(recipe, state.step))
        sample = samples.sample(state.step)
        try:
            with pytorch_memory():
                loss = runner.run_step(sample, masks.make(state.step))
        except MemoryError as error:
            raise ResourceError(out_of_memory_message(samples.size)) from error
        state.step += 1
        state.loss = loss.item()
        if state.average is not None and recipe.average_decay is not None:
            update_average(state.average, network, recipe.average_decay, state.step)
        # With a term for the image quality, the loss is no error.
        mean_error = state.loss if quality is None else 0.0
        if state.has_diverged(mean_error):
            state.go_back(recipe)
            return state
        if unproven is not None and mean_error <= DIVERGED_ERROR:
            # Only the error of the next step tells whether weights are good.
            state.keep_good_weights(state.step - 1, unproven)
        unproven = state.weights() if state.step % GOOD_STEPS == 0 else None
        if on_step is not None:
            on_step(state)
    return state


def training_samples_for(
    image: FloatArray, recipe: Recipe, state: FitState, seed: int, missing: NDArray[np.bool_] | None = None
) -> TrainingSamples:
    """The samples for the remaining steps of `state`.

    Raises:
        UsageError: the recipe learns from start weights, and `state` has none.
    """
    device = next(state.network.parameters()).device
    if recipe.target == "hidden":
        pixels = clip_to_range(image)
        return HiddenPixelSamples(pixels, recipe.crop, seed, recipe.orientations, device, missing)
    if state.start is None:
        raise UsageError(f"recipe {recipe.name} learns from what its start weights make of the image; it has none.")
    # These samples need parts of the image alone, so they take them where next to nothing is missing.
    return SimulatedTargetSamples(clip_to_range(measured_part(image, missing)), recipe, state.start, seed)


def out_of_memory_message(size: tuple[int, int]) -> str:
    """The error message for a step of `size` (height, width) that did not fit into memory, one line."""
    return (
        f"out of memory in a training step of {size[0]}x{size[1]} pixels. Close other programs, or use "
        f"{typed('--recipe fast')}, whose memory does not grow with the image."
    )


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of 0-based `step`."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * step / max(1, recipe.steps)))


def _set_learning_rate(optimiser: Adam, rate: float) -> None:
    """Set the rate of every group, times the group's own scale; a tensor keeps its address, as a graph needs it."""
    for group in optimiser.param_groups:
        group_rate = group.get("rate_scale", 1.0) * rate
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(group_rate)
        else:
            group["lr"] = group_rate


@torch.no_grad()
def update_average(average: dict[str, Tensor], network: Self2SelfNet, decay: float, step: int) -> None:
    """Update the exponential average of the weights; a warm-up makes it forget the first weights soon.

    Args:
        average: changed in place.
        network: gives the new weights.
        decay: weight of the old average, once the warm-up is over.
        step: steps taken, from 1.
    """
    tensors = network.state_dict()
    update = get_ema_multi_avg_fn(min(decay, step / (step + 9)))  # type: ignore[no-untyped-call]
    update(list(average.values()), [tensors[name] for name in average], step)


class StepMasks:
    """Makes the masks of the training steps: on the host for a CPU, otherwise on the device, which is faster.

    The masks lie in memory as the network's activations do, channels last. Multiplying tensors of two layouts is slow:
    it took 4 of the 45 ms of a step of `fast` on two cores. Elements are independent, so any order is a fair draw.
    """

    def __init__(self, specs: Sequence[MaskSpec], size: tuple[int, int], seed: int, device: torch.device) -> None:
        self._axes = {"H": size[0], "W": size[1]}
        self._specs = specs
        self._seed = seed
        self._device = device
        self._host = MaskMaker(specs, self._axes, seed, Stream.FIT, channels_last=True)

    def make(self, step: int, count: int = 1) -> list[Tensor]:
        """The masks of 0-based `step` for `count` samples: bool tensors [count, ...] on the device, in specs' order."""
        if self._device.type == "cpu":
            return [torch.from_numpy(mask) for mask in self._host.make(step * count, count).values()]
        draws = torch.Generator(self._device)
        draws.manual_seed(int(generator(self._seed, step, Stream.FIT).integers(2**63)))
        drawn = (
            torch.rand((count, *spec.shape(self._axes)), generator=draws, device=self._device) < spec.keep_probability
            for spec in self._specs
        )
        return [_channels_last(mask) for mask in drawn]


def _channels_last(mask: Tensor) -> Tensor:
    """`mask` [1, C, H, W] as a view of the same memory in which channels vary fastest."""
    count, channels, height, width = mask.shape
    return mask.view(count, height, width, channels).permute(0, 3, 1, 2)


def choose_device(name: str) -> torch.device:
    """The torch device for `--device`: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        UsageError: not a device name.
        EngineUnavailableError: torch cannot use it here.
    """
    cuda = torch.cuda.is_available() and built_for(torch.cuda.get_arch_list(), torch.cuda.get_device_capability())
    if name == "auto":
        return torch.device("cuda" if cuda else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"{typed('--device')} is {name!r}; expected auto, cpu or cuda.") from error
    usable = {"cpu": True, "cuda": cuda, "mps": torch.backends.mps.is_available()}
    if not usable.get(device.type, False):
        raise EngineUnavailableError(
            f"{typed('--device', name)}: PyTorch {torch.__version__} finds no such device here. Use "
            f"{typed('--device cpu')}."
        )
    return device
