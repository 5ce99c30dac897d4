"""The network in 8-bit integers, for CPUs with VNNI.

Each pass has rounding errors, and the mean of many passes has almost none, as in bfloat16 (`bf16_network`).
`int8_layers` explains the quantisation. A layer runs in strips of rows, so that its float32 results stay in the cache
until they are rounded to bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from self2self.imaging.orientation import MIRROR_ORIENTATIONS, oriented
from self2self.model.channels_last import as_factors, pad_and_join, reflect_border, upsample_rows
from self2self.model.contract import MaskSpec
from self2self.model.layers import LEVELS, NEGATIVE_SLOPE
from self2self.runtime.engines.torch_cpu.bf16_network import WEIGHT_SETS
from self2self.runtime.engines.torch_cpu.int8_layers import (
    LARGEST_BYTE,
    GatedPair,
    Int8Layer,
    Int8Weights,
    Quantisation,
)
from self2self.runtime.engines.windows import SideBySide, in_turn

if TYPE_CHECKING:
    from self2self.model.network import Self2SelfNet

STRIP_VALUES = 800_000
"""Approximate number of values in a convolution's result for a strip: 3.2 MB in float32."""


def as_bytes(values: Tensor) -> Tensor:
    """`values`, float32, rounded to the nearest integer and clipped to 0 to 255: uint8. May overwrite `values`."""
    quantize = getattr(torch, "quantize_per_tensor", None)
    if quantize is None:
        # PyTorch plans to remove `quantize_per_tensor`. This alternative takes three times as long.
        return values.round_().clamp_(0, LARGEST_BYTE).to(torch.uint8)
    quantized = quantize(values, 1.0, 0, torch.quint8)
    # A view of its memory; `int_repr` would copy it.
    return torch.empty(0, dtype=torch.uint8).set_(quantized.untyped_storage(), 0, quantized.shape, quantized.stride())


def _silence_quantisation_warning() -> None:
    """Trigger PyTorch's warning about the deprecated call in `as_bytes` now and ignore it: PyTorch warns only once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        as_bytes(torch.zeros(1))


class _ZeroRow:
    """The bytes of the value 0 for a row of pixels, [1, C, 1, W], channels last.

    They are repeated for the whole row, because adding long rows is faster.
    """

    def __init__(self, quantisation: Quantisation, width: int) -> None:
        row = quantisation.zero.view(1, -1, 1, 1).repeat(1, 1, 1, width).contiguous(memory_format=torch.channels_last)
        self.floats, self.bytes = row, row.to(torch.uint8)


class Int8Network:
    """`Self2SelfNet` in 8-bit integers, for single passes over one image.

    Args:
        network: the network in float32, on the CPU.
        image: float32 [1, C, H, W].
        specs: the network's masks; none for passes without masks.
        workers: maximum number of strips that are computed at the same time.
        side_by_side: runs the workers.
        strip_values: see `STRIP_VALUES`.
        sets: number of weight sets; see `bf16_network.WEIGHT_SETS`.
        whole: as for `use_image`.
    """

    # Two forms of activations. A frame is uint8 [1, C, H + 2, W + 2] with a reflected border, as a convolution reads
    # it. What a decoder level concatenates are offsets, uint8 [1, C, H, W]: bytes minus the byte of the value 0, modulo
    # 256. A mask of 0 and 1 multiplies them.

    def __init__(
        self,
        network: Self2SelfNet,
        image: Tensor,
        specs: Sequence[MaskSpec],
        workers: int,
        side_by_side: SideBySide,
        strip_values: int = STRIP_VALUES,
        sets: int = WEIGHT_SETS,
        whole: Tensor | None = None,
    ) -> None:
        self._network, self._specs, self._set_count = network, specs, sets
        self._workers, self._side_by_side = workers, side_by_side
        self._strip_values = strip_values
        self._image: Tensor | None = None
        """The image that the layers were made for; None before the first."""
        _silence_quantisation_warning()
        self.use_image(image, whole)

    def use_image(self, image: Tensor, whole: Tensor | None = None) -> None:
        """Replace the image, float32 [1, C, H, W].

        Args:
            image: the image to predict.
            whole: float32 [1, C, H, W] of any size, of which `image` is a tile; the layers are made for it, and kept
                for all of its tiles. None where `image` is no tile: all layers are made again, unless it mirrors the
                image before.
        """
        if not self._fits(image, whole):
            made_for = image.clone() if whole is None else whole
            with torch.inference_mode():
                size = image.shape[2], image.shape[3]
                weights = Int8Weights(self._network, made_for, self._specs, self._set_count, size)
                zero_rows = {
                    name: _ZeroRow(quantisation, weights.sizes[name][1])
                    for name, quantisation in weights.quantisations.items()
                }
            # Assigned together, so that an error leaves the image before and its layers in place.
            self._weights, self._zero_rows, self._image = weights, zero_rows, made_for
        self._planes = torch.cat([torch.ones_like(image), image], dim=1).contiguous(memory_format=torch.channels_last)

    def _fits(self, image: Tensor, whole: Tensor | None) -> bool:
        """Whether the layers were made for `whole`, or without it for `image` or a mirrored copy."""
        before = self._image
        if before is None or whole is not None:
            return before is not None and before is whole
        return any(torch.equal(oriented(before, index), image) for index in range(MIRROR_ORIENTATIONS))

    def __call__(self, masks: Sequence[Tensor], index: int, *, shared: bool) -> Tensor:
        """Compute one pass.

        Args:
            masks: bool [1, ...], as for `Self2SelfNet`; fastest in the memory format channels last. None for no masks.
            index: index of the pass; it selects the weight set.
            shared: whether the workers share the strips of a layer. Otherwise one strip follows the other.

        Returns:
            float32 [1, C, H, W]; NaN everywhere if the network is not finite.
        """
        if not self._weights.finite:
            return torch.full_like(self._planes[:, self._network.channels :], torch.nan)
        weights = self._weights.weight_sets[index % self._set_count]
        factors = [mask.view(torch.uint8).contiguous(memory_format=torch.channels_last) for mask in masks[1:]]
        run = self._side_by_side if shared else in_turn
        kept = as_factors(masks[0].repeat(1, 2, 1, 1), torch.float32) if masks else None
        frame = pad_and_join((self._planes,), kept)
        frame = self._gated_convolution("stem", self._weights.stem, frame, run)
        skips: list[Tensor] = []
        for level, gated in enumerate(weights.encoder):
            name, pool = f"encoder.{level}", level < LEVELS
            frame = self._gated_convolution(name, gated, frame, run, pool=pool, skips=skips)
        x = skips.pop()
        for level, (first, second) in enumerate(weights.decoder):
            frame = self._first_in_decoder(level, first, x, skips.pop(), factors[2 * level : 2 * level + 2], run)
            # Freed before the next convolution: the peak memory of a pass is that of the last two frames.
            del x
            last = level == LEVELS - 1
            x = self._second_in_decoder(level, second, frame, run, as_frame=last)
        return weights.head(x)

    def _gated_convolution(
        self,
        name: str,
        layers: GatedPair,
        frame: Tensor,
        run: SideBySide,
        *,
        pool: bool = False,
        skips: list[Tensor] | None = None,
    ) -> Tensor:
        """A gated convolution with its activation.

        Args:
            name: name of the module.
            layers: feature and gate.
            frame: what they read: uint8, or float32 for the first convolution.
            run: runs the workers.
            pool: whether the result is max-pooled.
            skips: a list to which the offsets of the result are appended, before pooling.

        Returns:
            the frame of the result.
        """
        feature, gate = layers
        zero_row = self._zero_rows[name]
        channels, (height, width) = zero_row.bytes.shape[1], _inner_size(frame)
        factor = 2 if pool else 1
        out = _empty_frame(channels, height // factor, width // factor)
        offsets = None
        if skips is not None:
            offsets = _empty_bytes(channels, height, width)
            skips.append(offsets)

        def compute(rows: slice) -> None:
            padded = _padded_rows(frame, rows)
            x = F.leaky_relu_(feature(padded), NEGATIVE_SLOPE).mul_(gate(padded).sigmoid_())
            x = as_bytes(x.add_(zero_row.floats))
            if offsets is not None:
                torch.sub(x, zero_row.bytes, out=offsets[:, :, rows])
            if pool:
                even, odd = (torch.maximum(x[:, :, row::2, ::2], x[:, :, row::2, 1::2]) for row in (0, 1))
                x = torch.maximum(even, odd)
            _inner_rows(out, slice(rows.start // factor, rows.stop // factor)).copy_(x)

        self._over_strips(compute, height, channels * width, run)
        reflect_border(out)
        return out

    def _joined_frame(self, level: int, below: Tensor, skip: Tensor, mask: Tensor | None, rows: slice) -> Tensor:
        """The frame of a strip that a decoder level reads: upsampled `below` and `skip`, concatenated and masked.

        It is made strip by strip, because a frame of all rows would be the largest array of a pass.

        Args:
            level: decoder level.
            below: offsets of the level below, uint8 [1, C, H / 2, W / 2].
            skip: offsets of the skip connection, uint8 [1, C, H, W].
            mask: factors 0 and 1 for the channels of both, uint8 [1, sum of C, H, W]; None masks nothing.
            rows: the strip.
        """
        zero_row = self._zero_rows[f"decoder.{level}.joined"]
        split = below.shape[1]
        _, skipped, height, width = skip.shape
        channels = split + skipped
        first, last = max(0, rows.start - 1), min(height, rows.stop + 1)
        above, under = first < rows.start, last > rows.stop
        out = _empty_frame(channels, rows.stop - rows.start, width)
        inner = out[:, :, 1 - above : out.shape[2] - 1 + under, 1:-1]
        inner[:, :split] = upsample_rows(below, slice(first, last))
        inner[:, split:] = skip[:, :, first:last]
        if mask is not None:
            inner.mul_(mask[:, :, first:last])
        inner.add_(zero_row.bytes)
        reflect_border(out, above=above, below=under)
        return out

    def _first_in_decoder(
        self, level: int, layer: Int8Layer, below: Tensor, skip: Tensor, masks: Sequence[Tensor], run: SideBySide
    ) -> Tensor:
        """The first convolution of a decoder level, with its activation: the masked frame of the result.

        Args:
            level: decoder level.
            layer: the convolution.
            below: offsets of the level below, uint8 [1, C, H / 2, W / 2].
            skip: offsets of the skip connection, uint8 [1, C, H, W].
            masks: factors 0 and 1, uint8, for the convolution's input and for its result; none for no masks.
            run: runs the workers.
        """
        before, after = masks or (None, None)
        zero_row = self._zero_rows[f"decoder_first.{level}"]
        channels, (height, width) = zero_row.bytes.shape[1], skip.shape[2:]
        out = _empty_frame(channels, height, width)

        def compute(rows: slice) -> None:
            joined = self._joined_frame(level, below, skip, before, rows)
            x = _activated(layer, joined, zero_row)
            if after is None:
                _inner_rows(out, rows).copy_(x)
            else:
                torch.add(x.sub_(zero_row.bytes).mul_(after[:, :, rows]), zero_row.bytes, out=_inner_rows(out, rows))

        self._over_strips(compute, height, channels * width, run)
        reflect_border(out)
        return out

    def _second_in_decoder(
        self, level: int, layer: Int8Layer, frame: Tensor, run: SideBySide, *, as_frame: bool
    ) -> Tensor:
        """The second convolution of a decoder level, with its activation: the frame of the result, or its offsets."""
        zero_row = self._zero_rows[f"decoder_second.{level}"]
        channels, (height, width) = zero_row.bytes.shape[1], _inner_size(frame)
        out = _empty_frame(channels, height, width) if as_frame else _empty_bytes(channels, height, width)

        def compute(rows: slice) -> None:
            x = _activated(layer, _padded_rows(frame, rows), zero_row)
            if as_frame:
                _inner_rows(out, rows).copy_(x)
            else:
                torch.sub(x, zero_row.bytes, out=out[:, :, rows])

        self._over_strips(compute, height, channels * width, run)
        if as_frame:
            reflect_border(out)
        return out

    def _over_strips(self, compute: Callable[[slice], None], height: int, row_values: int, run: SideBySide) -> None:
        """Run `compute` for each strip of an image of `height` rows."""
        strips = self._strips(height, row_values)
        workers = min(self._workers, len(strips))

        def work(first: int) -> None:
            with torch.inference_mode():
                for rows in strips[first::workers]:
                    compute(rows)

        run(work, workers)

    def _strips(self, height: int, row_values: int) -> list[slice]:
        """Cut `height` rows of `row_values` each into strips; they have an even number of rows if `height` is even."""
        unit = 2 - height % 2
        count = min(height // unit, max(1, round(height * row_values / self._strip_values)))
        edges = [unit * (height // unit * index // count) for index in range(count + 1)]
        return [slice(first, last) for first, last in pairwise(edges)]


def _activated(layer: Int8Layer, padded: Tensor, zero_row: _ZeroRow) -> Tensor:
    """A convolution with its activation, as bytes."""
    return as_bytes(F.leaky_relu_(layer(padded), NEGATIVE_SLOPE).add_(zero_row.floats))


def _empty_bytes(channels: int, height: int, width: int) -> Tensor:
    return torch.empty((1, channels, height, width), dtype=torch.uint8, memory_format=torch.channels_last)


def _empty_frame(channels: int, height: int, width: int) -> Tensor:
    return _empty_bytes(channels, height + 2, width + 2)


def _inner_size(frame: Tensor) -> tuple[int, int]:
    """Height and width without the border."""
    return frame.shape[2] - 2, frame.shape[3] - 2


def _inner_rows(frame: Tensor, rows: slice) -> Tensor:
    """`rows` without the border."""
    return frame[:, :, rows.start + 1 : rows.stop + 1, 1:-1]


def _padded_rows(frame: Tensor, rows: slice) -> Tensor:
    """`rows` with the border that a 3x3 convolution needs."""
    return frame[:, :, rows.start : rows.stop + 2]
