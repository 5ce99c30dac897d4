"""Runs one optimiser step of a fit; on a GPU it replays the step as a CUDA graph.

A step launches some 700 kernels that run for microseconds each. On a fast GPU, launching them takes several times as
long as running them. A graph launches all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from self2self.errors import first_line
from self2self.imaging.clipped_noise import Clipping
from self2self.imaging.orientation import oriented, undo_orientation
from self2self.model.network import Self2SelfNet
from self2self.train.adam import Adam
from self2self.train.clipping import expected
from self2self.train.fused_forward import fastest_forward
from self2self.train.losses import masked_loss
from self2self.train.recipes import Recipe
from self2self.train.samples import TrainingSample

QualityTerm = Callable[[Tensor], Tensor]
"""Maps a prediction [1, C, H, W] to a scalar that falls as the picture looks better, such as the paper's
mean (100 - Q)^2 with the PaQ-2-PiQ score Q."""


class StepRunner:
    """Runs training steps, one operator after the other.

    Args:
        network: computes a prediction as `Self2SelfNet` does.
        optimiser: of the network's parameters, which it changes in place.
        recipe: gives the loss and the weight of the quality term.
        hidden_only: whether an error counts only where the step's mask hid the value.
        quality: a differentiable no-reference quality term, which gets the prediction without padding.
        clipping: how the noise of the target is cut off; None where clipping does not matter.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        optimiser: Adam,
        recipe: Recipe,
        hidden_only: bool,
        quality: QualityTerm | None = None,
        clipping: Clipping | None = None,
    ) -> None:
        self._network = network
        self._optimiser = optimiser
        self._recipe = recipe
        self._hidden_only = hidden_only
        self._quality = quality
        self._clipping = clipping

    def run_step(self, sample: TrainingSample, masks: Sequence[Tensor]) -> Tensor:
        """Take one step.

        Args:
            sample: input and target of the step.
            masks: bool [1, ...]; the mask of the input, then those of the decoder.

        Returns:
            The loss, a scalar.
        """
        input_image, target, loss_region, orientation, missing = sample
        input_mask, *dropout_masks = masks
        prediction = undo_orientation(
            self._network(oriented(input_image, orientation), input_mask, *dropout_masks), orientation
        )
        visible = undo_orientation(input_mask, orientation) if self._hidden_only else torch.zeros_like(input_mask)
        # What is not measured counts as little as what the network sees.
        uncounted = visible if missing is None else visible | missing
        loss = masked_loss(self._expected_target(prediction), target, uncounted, loss_region, self._recipe.loss)
        if self._quality is not None:
            rows, columns = loss_region
            loss = loss + self._recipe.quality_weight * self._quality(prediction[:, :, rows, columns])
        return self._update_weights(loss)

    def _update_weights(self, loss: Tensor) -> Tensor:
        """Take the optimiser's step for `loss`; returns the loss without its graph."""
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return loss.detach()

    def _expected_target(self, prediction: Tensor) -> Tensor:
        """The mean of the target's noisy values if the prediction is right."""
        return prediction if self._clipping is None else expected(self._clipping, prediction)


class StaticStepRunner(StepRunner):
    """Runs the same steps on tensors with fixed addresses, as a graph needs them; the loss differs by rounding.

    All steps run the same operators on other numbers: the target is brought into the orientation of the input, and a
    mask excludes the padding. There is no quality term.
    """

    _static_inputs: tuple[Tensor, ...] = ()

    def run_step(self, sample: TrainingSample, masks: Sequence[Tensor]) -> Tensor:
        """As `StepRunner.run_step`; the next step overwrites the loss."""
        self._copy_inputs(sample, masks)
        return self._run_static()

    def _copy_inputs(self, sample: TrainingSample, masks: Sequence[Tensor]) -> None:
        """Copy the data of a step into the static tensors, which the first step allocates."""
        input_image, target, (rows, columns), orientation, missing = sample
        counted = torch.zeros_like(target, dtype=torch.bool)
        counted[:, :, rows, columns] = True
        if missing is not None:
            counted &= ~missing
        inputs = (*(oriented(tensor, orientation) for tensor in (input_image, target, counted)), *masks)
        if not self._static_inputs:
            self._static_inputs = tuple(torch.empty_like(tensor) for tensor in inputs)
        for static, tensor in zip(self._static_inputs, inputs, strict=True):
            static.copy_(tensor)

    def _run_static(self) -> Tensor:
        """Take a step on the static tensors."""
        input_image, target, counted, input_mask, *dropout_masks = self._static_inputs
        prediction = self._network(input_image, input_mask, *dropout_masks)
        hidden = counted & ~input_mask if self._hidden_only else counted
        everywhere = slice(None), slice(None)
        loss = masked_loss(self._expected_target(prediction), target, ~hidden, everywhere, self._recipe.loss)
        return self._update_weights(loss)


class GraphStepRunner(StaticStepRunner):
    """Records the step as a CUDA graph after a warm-up and replays it; where recording fails, runs without a graph."""

    WARM_UP = 3
    """Steps before recording: libraries choose algorithms and allocate memory, and the optimiser makes its moments."""

    failure = ""
    """Why recording failed; empty where it has not."""
    _steps_taken = 0
    _graph: torch.cuda.CUDAGraph | None = None
    _loss: Tensor | None = None

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream()  # type: ignore[no-untyped-call]

    @property
    def recorded(self) -> bool:
        """Whether steps replay a graph by now."""
        return self._graph is not None

    def run_step(self, sample: TrainingSample, masks: Sequence[Tensor]) -> Tensor:
        """As `StaticStepRunner.run_step`."""
        self._copy_inputs(sample, masks)
        self._steps_taken += 1
        if self._graph is None and not self.failure and self._steps_taken > self.WARM_UP:
            self._record()
        if self._graph is not None and self._loss is not None:
            self._graph.replay()
            return self._loss
        # The warm-up runs on the stream that records later: gradients of another stream would make the graph wait.
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            loss = self._run_static()
        current.wait_stream(self._stream)
        return loss

    def _record(self) -> None:
        """Record the graph, or note why that failed."""
        self._optimiser.zero_grad()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                loss = self._run_static()
        except RuntimeError as error:
            # One such error is a lack of memory. Steps without a graph had enough of it.
            self.failure = first_line(error)
            self._optimiser.zero_grad()
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        else:
            self._graph, self._loss = graph, loss


def step_runner_for(
    network: Self2SelfNet,
    optimiser: Adam,
    recipe: Recipe,
    hidden_only: bool,
    quality: QualityTerm | None = None,
    clipping: Clipping | None = None,
) -> StepRunner:
    """The fastest step runner for the network's device; arguments as for `StepRunner`."""
    device = next(network.parameters()).device.type
    runner_class = GraphStepRunner if quality is None and device == "cuda" else StepRunner
    return runner_class(fastest_forward(network, recipe), optimiser, recipe, hidden_only, quality, clipping)
