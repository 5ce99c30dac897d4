"""One optimiser step of a fit, and on a GPU the same step as a CUDA graph.

A step launches some 700 kernels that take microseconds each, and telling a fast GPU what to do takes several times as
long as doing it. A graph holds them all and is told once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from self2self.errors import first_line
from self2self.imaging.orientation import oriented, undo_orientation
from self2self.model.network import Self2SelfNet
from self2self.train.adam import Adam
from self2self.train.clipping import Clipping
from self2self.train.fused_forward import fastest_forward
from self2self.train.losses import masked_loss
from self2self.train.recipes import Recipe
from self2self.train.samples import TrainingSample

QualityTerm = Callable[[Tensor], Tensor]
"""[1, C, H, W] prediction to a scalar that falls as the picture looks better, such as the paper's
mean (100 - Q)^2 with the PaQ-2-PiQ score Q."""


class StepRunner:
    """Steps, one operator after the other.

    Args:
        network: computes a prediction as `Self2SelfNet` does.
        optimiser: of its parameters, which are changed in place.
        recipe: gives the loss.
        hidden_only: whether an error counts only where the step's mask hid the value.
        quality: a differentiable no-reference quality term, weighted by the recipe; it sees no padding.
        clipping: how the noise of what is wanted is cut off; None where that does not matter.
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
        """One step.

        Args:
            sample: what it learns from.
            masks: bool [1, ...], the input's and the decoder's.

        Returns:
            the loss, a scalar.
        """
        seen, wanted, inside, orientation = sample
        input_mask, *dropout_masks = masks
        prediction = undo_orientation(
            self._network(oriented(seen, orientation), input_mask, *dropout_masks), orientation
        )
        known = undo_orientation(input_mask, orientation) if self._hidden_only else torch.zeros_like(input_mask)
        loss = masked_loss(self._expected(prediction), wanted, known, inside, self._recipe.loss)
        if self._quality is not None:
            loss = loss + self._recipe.quality_weight * self._quality(prediction[:, :, inside[0], inside[1]])
        return self._learn(loss)

    def _learn(self, loss: Tensor) -> Tensor:
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return loss.detach()

    def _expected(self, prediction: Tensor) -> Tensor:
        """What the noisy values are on average if the prediction is right."""
        return prediction if self._clipping is None else self._clipping.expected(prediction)


class StaticStepRunner(StepRunner):
    """The same steps on tensors that stay where they are, as a graph needs them; the loss differs by rounding.

    The orientation is undone on what the prediction is compared with, and padding is left out by weights, so that all
    steps are the same operators on other numbers. There is no quality term.
    """

    _static: tuple[Tensor, ...] = ()

    def run_step(self, sample: TrainingSample, masks: Sequence[Tensor]) -> Tensor:
        """As `StepRunner.run_step`; the loss is overwritten by the next step."""
        self._copy_in(sample, masks)
        return self._run_static()

    def _copy_in(self, sample: TrainingSample, masks: Sequence[Tensor]) -> None:
        seen, wanted, (rows, columns), orientation = sample
        counts = torch.zeros_like(wanted, dtype=torch.bool)
        counts[:, :, rows, columns] = True
        given = (oriented(seen, orientation), oriented(wanted, orientation), oriented(counts, orientation), *masks)
        if not self._static:
            self._static = tuple(torch.empty_like(tensor) for tensor in given)
        for still, tensor in zip(self._static, given, strict=True):
            still.copy_(tensor)

    def _run_static(self) -> Tensor:
        seen, wanted, counts, input_mask, *dropout_masks = self._static
        prediction = self._network(seen, input_mask, *dropout_masks)
        hidden = counts & ~input_mask if self._hidden_only else counts
        whole = slice(None), slice(None)
        loss = masked_loss(self._expected(prediction), wanted, ~hidden, whole, self._recipe.loss)
        return self._learn(loss)


class GraphStepRunner(StaticStepRunner):
    """The same as a CUDA graph, recorded after some steps; where that fails, steps go on without one."""

    WARM_UP = 3
    """Steps before the graph: libraries choose algorithms and take memory, and the optimiser makes its moments."""

    failure = ""
    """Why there is no graph."""
    _taken = 0
    _graph: torch.cuda.CUDAGraph | None = None
    _loss: Tensor | None = None

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream()  # type: ignore[no-untyped-call]

    @property
    def recorded(self) -> bool:
        """Whether steps run as a graph by now."""
        return self._graph is not None

    def run_step(self, sample: TrainingSample, masks: Sequence[Tensor]) -> Tensor:
        """As `StaticStepRunner.run_step`."""
        self._copy_in(sample, masks)
        self._taken += 1
        if self._graph is None and not self.failure and self._taken > self.WARM_UP:
            self._record()
        if self._graph is not None and self._loss is not None:
            self._graph.replay()
            return self._loss
        # What is recorded later may have run on no other stream, or its gradients would wait for that one.
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            loss = self._run_static()
        current.wait_stream(self._stream)
        return loss

    def _record(self) -> None:
        self._optimiser.zero_grad()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                loss = self._run_static()
        except RuntimeError as error:
            # Running out of memory is one of these; without the graph there was enough of it.
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
    """What takes the steps fastest on the network's device; arguments as for `StepRunner`."""
    device = next(network.parameters()).device.type
    kind = GraphStepRunner if quality is None and device == "cuda" else StepRunner
    return kind(fastest_forward(network, recipe), optimiser, recipe, hidden_only, quality, clipping)
