"""The network in integers of 8 bits, for CPUs that multiply those fastest (VNNI).

A pass is rounded, the mean of many is not, as with bfloat16 (`rounded`); `integer_layers` says how.
A layer runs in strips of rows: what it makes in float32 stays in the cache until it is bytes.
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
from self2self.runtime.engines.torch_cpu.bf16_network import SETS
from self2self.runtime.engines.torch_cpu.int8_layers import LARGEST_BYTE, Gated, Int8Layer, Int8Weights, Quantisation
from self2self.runtime.engines.windows import SideBySide, in_turn

if TYPE_CHECKING:
    from self2self.model.network import Self2SelfNet

STRIP_VALUES = 800_000
"""Values that a convolution makes of a strip, about: 3.2 MB in float32."""


def as_bytes(values: Tensor) -> Tensor:
    """`values`, float32, rounded to the nearest of 0 to 255; may change them."""
    quantize = getattr(torch, "quantize_per_tensor", None)
    if quantize is None:
        # PyTorch means to lose it; this takes three times as long.
        return values.round_().clamp_(0, LARGEST_BYTE).to(torch.uint8)
    quantized = quantize(values, 1.0, 0, torch.quint8)
    # Its memory as it is, which `int_repr` would copy.
    return torch.empty(0, dtype=torch.uint8).set_(quantized.untyped_storage(), 0, quantized.shape, quantized.stride())


def _without_warnings() -> None:
    """Let PyTorch say now, and unheard, what it says once: that `as_bytes` calls what it means to lose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        as_bytes(torch.zeros(1))


class _Zeros:
    """The bytes of 0 for a row of pixels, [1, C, 1, W], channels last: so they are added to whole rows at a time."""

    def __init__(self, steps: Quantisation, width: int) -> None:
        row = steps.zero.view(1, -1, 1, 1).repeat(1, 1, 1, width).contiguous(memory_format=torch.channels_last)
        self.floats, self.bytes = row, row.to(torch.uint8)


class Int8Network:
    """`Self2SelfNet` for single passes over one image.

    Args:
        network: float32, on the CPU.
        image: float32 [1, C, H, W].
        specs: of the network's masks.
        workers: strips that may be computed at the same time.
        side_by_side: how.
        strip_values: as `STRIP_VALUES`.
        sets: as `SETS`.
    """

    def __init__(
        self,
        network: Self2SelfNet,
        image: Tensor,
        specs: Sequence[MaskSpec],
        workers: int,
        side_by_side: SideBySide,
        strip_values: int = STRIP_VALUES,
        sets: int = SETS,
    ) -> None:
        self._network, self._specs, self._count = network, specs, sets
        self._workers, self._side_by_side = workers, side_by_side
        self._strip_values = strip_values
        self._image: Tensor | None = None
        _without_warnings()
        self.use_image(image)

    def use_image(self, image: Tensor) -> None:
        """Exchange the image, float32 [1, C, H, W]; all layers are made anew, unless it is the one before, mirrored."""
        laid_out = self._image
        if laid_out is None or not any(
            torch.equal(oriented(laid_out, index), image) for index in range(MIRROR_ORIENTATIONS)
        ):
            with torch.inference_mode():
                made = Int8Weights(self._network, image, self._specs, self._count)
                zeros = {name: _Zeros(steps, made.sizes[name][1]) for name, steps in made.steps.items()}
            self._made, self._zeros, self._image = made, zeros, image.clone()
        self._planes = torch.cat([torch.ones_like(image), image], dim=1).contiguous(memory_format=torch.channels_last)

    def __call__(self, masks: Sequence[Tensor], index: int, *, shared: bool) -> Tensor:
        """One pass.

        Args:
            masks: bool [1, ...] as for `Self2SelfNet`; fastest with channels last.
            index: of the pass, which tells the set of weights that it takes.
            shared: whether the workers share the strips of a layer, which otherwise take their turn.

        Returns:
            float32 [1, C, H, W].
        """
        if not self._made.finite:
            return torch.full_like(self._planes[:, self._network.channels :], torch.nan)
        layers = self._made.sets[index % self._count]
        input_mask, *dropout = masks
        bits = [mask.view(torch.uint8).contiguous(memory_format=torch.channels_last) for mask in dropout]
        run = self._side_by_side if shared else in_turn
        frame = pad_and_join((self._planes,), as_factors(input_mask.repeat(1, 2, 1, 1), torch.float32))
        frame = self._gated("stem", self._made.stem, frame, run)
        skips: list[Tensor] = []
        for level, gated in enumerate(layers.encoder):
            frame = self._gated(f"encoder.{level}", gated, frame, run, pools=level < LEVELS, skips=skips)
        x = skips.pop()
        for level, (first, second) in enumerate(layers.decoder):
            frame = self._masked(level, first, x, skips.pop(), bits[2 * level : 2 * level + 2], run)
            # Freed here and not below: the last two frames are what a pass has to hold.
            del x
            last = level == LEVELS - 1
            x = self._activated(f"decoder_second.{level}", second, frame, run, frames=last)
        return layers.head(x)

    # A frame is bytes with a reflected border, [1, C, H + 2, W + 2], which a convolution reads. What a decoder joins is
    # kept as its difference from the byte of 0, modulo 256: so 0 and 1 mask it as factors.

    def _gated(
        self,
        name: str,
        layers: Gated,
        frame: Tensor,
        run: SideBySide,
        *,
        pools: bool = False,
        skips: list[Tensor] | None = None,
    ) -> Tensor:
        """A gated convolution: its frame, pooled or as it is; its differences from 0 are added to `skips`."""
        feature, gate = layers
        zeros = self._zeros[name]
        channels, (height, width) = zeros.bytes.shape[1], _inside(frame)
        factor = 2 if pools else 1
        out = _frame(channels, height // factor, width // factor)
        differences = None
        if skips is not None:
            differences = _bytes(channels, height, width)
            skips.append(differences)

        def compute(rows: slice) -> None:
            padded = _padded(frame, rows)
            x = F.leaky_relu_(feature(padded), NEGATIVE_SLOPE).mul_(gate(padded).sigmoid_())
            x = as_bytes(x.add_(zeros.floats))
            if differences is not None:
                torch.sub(x, zeros.bytes, out=differences[:, :, rows])
            if pools:
                even, odd = (torch.maximum(x[:, :, row::2, ::2], x[:, :, row::2, 1::2]) for row in (0, 1))
                x = torch.maximum(even, odd)
            _inner(out, slice(rows.start // factor, rows.stop // factor)).copy_(x)

        self._over_strips(compute, height, channels * width, run)
        reflect_border(out)
        return out

    def _joined(self, level: int, below: Tensor, skip: Tensor, mask: Tensor, rows: slice) -> Tensor:
        """The frame of `rows` of `below`, enlarged, and of `skip`, both masked.

        By strips, because the frame of all rows would be the most that a pass has to hold.
        """
        zeros = self._zeros[f"decoder.{level}.joined"]
        split = below.shape[1]
        _, channels, height, width = mask.shape
        first, last = max(0, rows.start - 1), min(height, rows.stop + 1)
        above, under = first < rows.start, last > rows.stop
        out = _frame(channels, rows.stop - rows.start, width)
        inner = out[:, :, 1 - above : out.shape[2] - 1 + under, 1:-1]
        inner[:, :split] = upsample_rows(below, slice(first, last))
        inner[:, split:] = skip[:, :, first:last]
        inner.mul_(mask[:, :, first:last]).add_(zeros.bytes)
        reflect_border(out, above=above, below=under)
        return out

    def _masked(
        self, level: int, layer: Int8Layer, below: Tensor, skip: Tensor, masks: Sequence[Tensor], run: SideBySide
    ) -> Tensor:
        """A decoder's first convolution, of what it joins, with its activation: the frame of the masked result."""
        before, after = masks
        zeros = self._zeros[f"decoder_first.{level}"]
        _, channels, height, width = after.shape
        out = _frame(channels, height, width)

        def compute(rows: slice) -> None:
            joined = self._joined(level, below, skip, before, rows)
            x = _active(layer, joined, zeros).sub_(zeros.bytes).mul_(after[:, :, rows])
            torch.add(x, zeros.bytes, out=_inner(out, rows))

        self._over_strips(compute, height, channels * width, run)
        reflect_border(out)
        return out

    def _activated(self, name: str, layer: Int8Layer, frame: Tensor, run: SideBySide, *, frames: bool) -> Tensor:
        """A convolution with its activation: its frame, or its differences from 0."""
        zeros = self._zeros[name]
        channels, (height, width) = zeros.bytes.shape[1], _inside(frame)
        out = _frame(channels, height, width) if frames else _bytes(channels, height, width)

        def compute(rows: slice) -> None:
            x = _active(layer, _padded(frame, rows), zeros)
            if frames:
                _inner(out, rows).copy_(x)
            else:
                torch.sub(x, zeros.bytes, out=out[:, :, rows])

        self._over_strips(compute, height, channels * width, run)
        if frames:
            reflect_border(out)
        return out

    def _over_strips(self, compute: Callable[[slice], None], height: int, row_values: int, run: SideBySide) -> None:
        strips = self._strips(height, row_values)
        workers = min(self._workers, len(strips))

        def work(first: int) -> None:
            with torch.inference_mode():
                for rows in strips[first::workers]:
                    compute(rows)

        run(work, workers)

    def _strips(self, height: int, row_values: int) -> list[slice]:
        """Rows of an image of `height`, each of so many values; in pairs, where there is a number of pairs."""
        unit = 2 - height % 2
        count = min(height // unit, max(1, round(height * row_values / self._strip_values)))
        edges = [unit * (height // unit * index // count) for index in range(count + 1)]
        return [slice(first, last) for first, last in pairwise(edges)]


def _active(layer: Int8Layer, padded: Tensor, zeros: _Zeros) -> Tensor:
    """A convolution's activated result, as bytes."""
    return as_bytes(F.leaky_relu_(layer(padded), NEGATIVE_SLOPE).add_(zeros.floats))


def _bytes(channels: int, height: int, width: int) -> Tensor:
    return torch.empty((1, channels, height, width), dtype=torch.uint8, memory_format=torch.channels_last)


def _frame(channels: int, height: int, width: int) -> Tensor:
    return _bytes(channels, height + 2, width + 2)


def _inside(frame: Tensor) -> tuple[int, int]:
    """Height and width without the border."""
    return frame.shape[2] - 2, frame.shape[3] - 2


def _inner(frame: Tensor, rows: slice) -> Tensor:
    """`rows` without the border."""
    return frame[:, :, rows.start + 1 : rows.stop + 1, 1:-1]


def _padded(frame: Tensor, rows: slice) -> Tensor:
    """`rows` with the border that a convolution takes."""
    return frame[:, :, rows.start : rows.stop + 2]
