"""Computes the paper's image quality term: mean (100 - Q)^2 with the PaQ-2-PiQ score Q, by pyiqa.

PaQ-2-PiQ is a ResNet-18 that was trained to predict how people rate a photograph, from 0 to 100.
It is not part of this package: `pyiqa` and its weights have non-commercial licences.

As in the official Self2Self+ code, the network scores the raw prediction without clamping, so that
values outside [0, 1] have a gradient too. The caller removes the padding before.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from statistics import mean, median
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from self2self.errors import EngineUnavailableError, FileFormatError, UsageError, first_line, typed
from self2self.train.iqa_weights import URL, IqaWeights, load_tensors

BEST_SCORE = 100.0
INSTALL = "pip install pyiqa"
SMALLEST_SIDE = 64
"""Smallest image side for a meaningful score, in pixels: below it the features have one or two positions."""

_declared: list[torch.library.Library] = []
"""Libraries that declare operators by name alone; the operators vanish with the object."""


def check_usable(channels: int) -> None:
    """Check before the fit that the term can be used.

    Raises:
        UsageError: the image is neither grey nor RGB.
        EngineUnavailableError: pyiqa is not installed.
    """
    if channels not in (1, 3):
        raise UsageError(
            f"{typed('--iqa')} scores images with 1 or 3 channels; this one has {channels}. Fit without "
            f"{typed('--iqa')}."
        )
    if find_spec("pyiqa") is None:
        raise EngineUnavailableError(
            f"{typed('--iqa')} needs pyiqa, which is not installed. Install it: {INSTALL} (its licence is for "
            "non-commercial "
            f"use), or fit without {typed('--iqa')}."
        )


class IqaTerm:
    """Mean (100 - Q)^2 of predictions; a `steps.QualityTerm`.

    Attributes:
        score: mean Q, 0 to 100, of the calls that the last `summarise` covered; None before the first.
        step_seconds: median time of such a call in seconds, gradient included; None before the first.

    Args:
        weights: from `find_weights`.
        device: device of the predictions.

    Raises:
        EngineUnavailableError: pyiqa is missing, or differs from the known versions.
        InputError, FileFormatError: the weights cannot be used.
    """

    def __init__(self, weights: IqaWeights, device: torch.device) -> None:
        self._metric = paq2piq(load_tensors(weights), weights.path, device)
        self._scores: list[float] = []
        self._seconds: list[float] = []
        self.score: float | None = None
        self.step_seconds: float | None = None

    def __call__(self, prediction: Tensor) -> Tensor:
        """The term of a prediction, a scalar.

        The gradient with respect to the prediction is computed at once. So its time can be measured,
        and the memory of the scoring network is free again before the fitted network's backward pass.

        Args:
            prediction: [N, C, H, W] with 1 or 3 channels, nominally in [0, 1].
        """
        start = self._now(prediction)
        with torch.enable_grad():
            image = prediction.detach().requires_grad_()
            colours = image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image
            score = self._metric(colours.contiguous(memory_format=torch.channels_last))
            value = (BEST_SCORE - score).square().mean()
            (gradient,) = torch.autograd.grad(value, image)
        self._scores.append(score.detach().mean().item())
        self._seconds.append(self._now(prediction) - start)
        result: Tensor = _WithGradient.apply(prediction, value.detach(), gradient)  # type: ignore[no-untyped-call]
        return result

    def summarise(self) -> None:
        """Set `score` and `step_seconds` from the calls since the last summary; without calls they stay as they are."""
        if self._scores:
            self.score, self.step_seconds = mean(self._scores), median(self._seconds)
            self._scores.clear()
            self._seconds.clear()

    @staticmethod
    def _now(prediction: Tensor) -> float:
        if prediction.is_cuda:
            torch.cuda.synchronize(prediction.device)
        return time.perf_counter()


class _WithGradient(torch.autograd.Function):
    """A scalar whose gradient with respect to the prediction was computed before."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return outer[0] * gradient, None, None


def paq2piq(tensors: dict[str, Tensor], source: str, device: torch.device) -> nn.Module:
    """Pyiqa's PaQ-2-PiQ as a frozen loss.

    Args:
        tensors: its weights by name.
        source: file of the weights, for messages.
        device: where to build it.

    Raises:
        EngineUnavailableError: as for `random_paq2piq`.
        FileFormatError: the weights belong to another network.
    """
    metric = random_paq2piq(device)
    network: Any = metric.net
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise FileFormatError(
            f"{source}: its tensors are not those of pyiqa's PaQ-2-PiQ. Expected the file {URL}"
        ) from error
    network.to(memory_format=torch.channels_last)
    return metric.requires_grad_(False).eval()


def random_paq2piq(device: torch.device) -> nn.Module:
    """Pyiqa's PaQ-2-PiQ with random weights; no file is read and nothing is downloaded.

    Raises:
        EngineUnavailableError: pyiqa is missing, or differs from the known versions.
    """
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            import_torchvision()
            pyiqa = import_module("pyiqa")
            with _without_imagenet(import_module("pyiqa.archs.paq2piq_arch")):
                metric: nn.Module = pyiqa.create_metric("paq2piq", as_loss=True, device=device, pretrained=False)
        network: Any = metric.net
        if not import_module("torchvision.extension")._has_ops():
            network.roi_pool = WholeImagePool(network.roi_pool.output_size, network.roi_pool.spatial_scale)
        return metric
    except (ImportError, AttributeError, TypeError, RuntimeError) as error:
        raise EngineUnavailableError(
            f"{typed('--iqa')}: pyiqa cannot be used here ({type(error).__name__}: {first_line(error)}). "
            f"Install it anew: {INSTALL}, or fit without {typed('--iqa')}."
        ) from error


class WholeImagePool(nn.Module):
    """Replaces torchvision's RoIPool for boxes that are the whole image, without the compiled operator.

    The Linux wheels of torchvision on PyPI are compiled for CUDA, so their operators do not load with
    a CPU build of PyTorch. As in torchvision, bins have fractional borders and may overlap, and an
    empty bin gives 0.
    """

    def __init__(self, bins: tuple[int, int], scale: float) -> None:
        super().__init__()
        self._bins = bins
        self._scale = scale

    def forward(self, features: Tensor, boxes: list[Tensor]) -> Tensor:
        """Pool the features of whole images.

        Args:
            features: [N, C, h, w].
            boxes: N times [[0, 0, W, H]], in pixels.

        Returns:
            [N, C, rows, columns], the maximum of each bin.
        """
        _, _, width, height = boxes[0][0].tolist()
        spans = [
            self._spans(pixels, count, size)
            for pixels, count, size in zip((height, width), self._bins, features.shape[2:], strict=True)
        ]
        pooled = [
            features[:, :, rows, columns].flatten(2).max(2).values
            if rows.start < rows.stop and columns.start < columns.stop
            else features.new_zeros(features.shape[:2])
            for rows in spans[0]
            for columns in spans[1]
        ]
        return torch.stack(pooled, 2).reshape(*features.shape[:2], *self._bins)

    def _spans(self, pixels: float, count: int, size: int) -> list[slice]:
        """The positions of each of `count` bins along an axis of `pixels` pixels and `size` features."""
        # The box includes its last position, hence + 1. The floor of x + 0.5 rounds halves up, as C does.
        length = (math.floor(pixels * self._scale + 0.5) + 1) / count
        return [
            slice(min(size, math.floor(index * length)), min(size, math.ceil((index + 1) * length)))
            for index in range(count)
        ]


@contextlib.contextmanager
def _without_imagenet(arch: ModuleType) -> Iterator[None]:
    """Keep pyiqa from downloading ImageNet weights, which PaQ-2-PiQ's own weights would replace at once."""
    torchvision = arch.tv
    arch.tv = SimpleNamespace(  # type: ignore[attr-defined]
        models=SimpleNamespace(resnet18=lambda **_: torchvision.models.resnet18(weights=None))
    )
    try:
        yield
    finally:
        arch.tv = torchvision  # type: ignore[attr-defined]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress pyiqa's log messages."""
    logger = logging.getLogger("pyiqa")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def import_torchvision() -> None:
    """Import torchvision, also where its compiled operators do not load (see `WholeImagePool`).

    The import registers descriptions of two operators in any case, so these have to exist at least by name.
    """
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error) or _declared:
            raise
        library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        import_module("torchvision")
