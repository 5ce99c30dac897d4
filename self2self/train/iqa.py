"""The paper's image quality term: mean (100 - Q)^2 with the PaQ-2-PiQ score Q, by pyiqa.

PaQ-2-PiQ is a ResNet-18 that was trained to tell how people would rate a photograph, from 0 to
100. It is not part of this package: `pyiqa` and its weights have non-commercial licences.

As in the official Self2Self+ code the score is that of the raw prediction, not clamped, so that
values outside [0, 1] have a gradient too. What the padding added is cut off before.
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

from self2self.errors import EngineUnavailableError, FileFormatError, UsageError, first_line
from self2self.train.iqa_weights import URL, IqaWeights, load_tensors

BEST_SCORE = 100.0
INSTALL = "pip install pyiqa"
SMALLEST_SIDE = 64
"""Pixels; below it the features of the score's network are a single place or two."""

_declared: list[torch.library.Library] = []
"""Operators that exist as names alone; they vanish with the object."""


def check_usable(channels: int) -> None:
    """Refuse early what the term cannot do.

    Raises:
        UsageError: neither a grey nor an RGB image.
        EngineUnavailableError: pyiqa is not installed.
    """
    if channels not in (1, 3):
        raise UsageError(f"--iqa scores images with 1 or 3 channels; this one has {channels}. Fit without --iqa.")
    if find_spec("pyiqa") is None:
        raise EngineUnavailableError(
            f"--iqa needs pyiqa, which is not installed. Install it: {INSTALL} (its licence is for non-commercial "
            "use), or fit without --iqa."
        )


class IqaTerm:
    """Mean (100 - Q)^2 of predictions; a `fit.QualityTerm`.

    Attributes:
        score: mean Q, 0 to 100, of the calls before the last `look`; None before there was any.
        step_seconds: median time of such a call, gradient included.

    Args:
        weights: from `find_weights`.
        device: where the predictions are.

    Raises:
        EngineUnavailableError: pyiqa is missing, or unlike the versions that are known.
        InputError, FileFormatError: the weights cannot be used.
    """

    def __init__(self, weights: IqaWeights, device: torch.device) -> None:
        self._metric = paq2piq(load_tensors(weights), weights.path, device)
        self._scores: list[float] = []
        self._seconds: list[float] = []
        self.score: float | None = None
        self.step_seconds: float | None = None

    def __call__(self, prediction: Tensor) -> Tensor:
        """[N, C, H, W] with 1 or 3 channels, nominally in [0, 1], to a scalar.

        The gradient is computed here and now, so that its time can be told apart and the memory
        of the score's network is free again before that of the fit is asked for its gradients.
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

    def look(self) -> None:
        """Set `score` and `step_seconds` from the calls since the last look; if there was none, they stay."""
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
    """A scalar whose gradient with respect to the prediction is known already."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return outer[0] * gradient, None, None


def paq2piq(tensors: dict[str, Tensor], source: str, device: torch.device) -> nn.Module:
    """PaQ-2-PiQ of pyiqa as a loss, frozen, with these weights.

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
    """The same before it has weights; nothing is read and nothing fetched.

    Raises:
        EngineUnavailableError: pyiqa is missing, or unlike the versions that are known.
    """
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            _import_torchvision()
            pyiqa = import_module("pyiqa")
            with _without_imagenet(import_module("pyiqa.archs.paq2piq_arch")):
                metric: nn.Module = pyiqa.create_metric("paq2piq", as_loss=True, device=device, pretrained=False)
        network: Any = metric.net
        if not import_module("torchvision.extension")._has_ops():
            network.roi_pool = WholeImagePool(network.roi_pool.output_size, network.roi_pool.spatial_scale)
        return metric
    except (ImportError, AttributeError, TypeError, RuntimeError) as error:
        raise EngineUnavailableError(
            f"--iqa: pyiqa cannot be used here ({type(error).__name__}: {first_line(error)}). "
            f"Install it anew: {INSTALL}, or fit without --iqa."
        ) from error


class WholeImagePool(nn.Module):
    """torchvision's RoIPool of boxes that are the whole image, without its compiled operator.

    The wheels of torchvision on PyPI for Linux are compiled for CUDA and do not load beside a CPU
    build of PyTorch. As there, bins have fractional borders, may overlap, and an empty one gives 0.
    """

    def __init__(self, bins: tuple[int, int], scale: float) -> None:
        super().__init__()
        self._bins = bins
        self._scale = scale

    def forward(self, features: Tensor, boxes: list[Tensor]) -> Tensor:
        """[N, C, h, w] and N times [[0, 0, W, H]] in pixels, to [N, C, rows, columns]."""
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
        # The box's last place counts as inside it, hence one more; C rounds halves up.
        length = (math.floor(pixels * self._scale + 0.5) + 1) / count
        return [
            slice(min(size, math.floor(index * length)), min(size, math.ceil((index + 1) * length)))
            for index in range(count)
        ]


@contextlib.contextmanager
def _without_imagenet(arch: ModuleType) -> Iterator[None]:
    """Keep pyiqa from downloading ImageNet weights, which the real ones would replace at once."""
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
    """Hold back pyiqa's log of what it builds."""
    logger = logging.getLogger("pyiqa")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _import_torchvision() -> None:
    """Import torchvision, also where its compiled operators do not load (see `WholeImagePool`).

    It describes two of them unconditionally, so they have to exist at least by name.
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
