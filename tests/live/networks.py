"""Small networks, one for each kind of draw, and what of them has to be found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """A convolution with batch normalisation and dropout of channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), nn.Dropout2d(0.3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = Block(3, 4), Block(4, 8), Block(12, 4)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        top = self.first(x)
        low = self.second(F.max_pool2d(top, 2))
        return self.head(self.last(torch.cat([F.interpolate(low, scale_factor=2.0), top], 1)))


class Functional(nn.Module):
    """Dropout as a function, always on, and in place after an activation in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.dropout(torch.relu_(self.first(x)), 0.1, training=True, inplace=True)
        return self.second(F.dropout(F.dropout(x, 0.25, self.training), 0.5))


class Called(nn.Module):
    """One module called three times, and one with a rate of 0."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.none, self.linear = nn.Dropout(0.2), nn.Dropout(0.0), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = self.none(self.drop(torch.tanh(self.linear(x))))
        return x


class Alpha(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
        self.alpha, self.feature = nn.AlphaDropout(0.1), nn.FeatureAlphaDropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.feature(F.selu(self.alpha(F.selu(self.first(x))))))


class Depth(nn.Module):
    """Stochastic depth, as in timm and torchvision (bernoulli_), and as in older code (floor of rand)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x + self.layers[0](x) + self.layers[1](x + self.layers[0](x))
        keep = x.new_empty((x.shape[0], 1)).bernoulli_(0.8)
        keep.div_(0.8)
        x = x + self.layers[0](x) * keep
        noise = 0.7 + torch.rand((x.shape[0], 1), dtype=x.dtype)
        noise.floor_()
        return x + self.layers[1](x).div(0.7) * noise


class DropBlock(nn.Module):
    """Blocks around few random centres: True of the mask is a centre, so its probability is small."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        if self.training:
            centres = torch.empty_like(x).bernoulli_(0.02)
            keep = 1 - F.max_pool2d(centres, 3, stride=1, padding=1)
            x = x * keep * (keep.numel() / keep.sum().add(1e-7))
        return x


class Attention(nn.Module):
    """Fused attention: with a boolean mask, and causal with fewer keys than queries."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        query, key, value = self.inner(x).view(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
        p = 0.2 if self.training else 0.0
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=keep[:, None, None], dropout_p=p)
        x = F.scaled_dot_product_attention(x, key[:, :1], value[:, :1], dropout_p=p, is_causal=True, enable_gqa=True)
        return self.out(x.transpose(1, 2).flatten(2))


class Weights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, weights = self.attention(x, x, x, need_weights=True)
        return values, weights


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.layers = kind(4, 6, 3, dropout=0.3, **options)
        self.out = nn.Linear(12 if options.get("bidirectional") else 6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.layers(x)[0])


class DropConnect(nn.Module):
    """Drops weights, so that all samples share a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, F.dropout(self.weight, 0.3, self.training))


class Noise(nn.Module):
    """A variational layer, uniform noise in place, and Gumbel softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear(x)
        x = x + 0.1 * torch.randn_like(x) + torch.empty_like(x).uniform_(-0.5, 0.25)
        return F.gumbel_softmax(x, tau=0.7)


class Probabilities(nn.Module):
    """Bernoulli draws whose probabilities are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.bernoulli(torch.sigmoid(self.linear(x)))


class GatedByParent(nn.Module):
    """A parent that calls its dropout in training alone, beside a normalisation that must not change."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(6), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        return self.drop(x) if self.training else x


class Windows(nn.Module):
    """Attention over windows: axis 0 of the mask is the batch times the number of windows."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.linear = nn.Dropout(0.25), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        samples, length, width = x.shape
        windows = self.drop(self.linear(x.reshape(samples * (length // 2), 2, width)))
        return windows.reshape(samples, length, width)


class Returned(nn.Module):
    """Outputs in a dictionary; one of them does not depend on any draw."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.drop, self.head = nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> dict[str, torch.Tensor]:
        features = torch.tanh(self.body(x)) + shift
        return {"features": features, "logits": self.head(self.drop(features))}


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


@dataclass(frozen=True)
class Case:
    """A network.

    Attributes:
        make: makes it.
        inputs: example inputs.
        draws: site and operator of each draw, in order.
        dynamic: of `export_live`.
        separable: whether samples have rows of their own.
        injected: whether `reference` can give PyTorch these draws.
    """

    make: Callable[[], nn.Module]
    inputs: tuple[torch.Tensor, ...]
    draws: Sequence[tuple[str, str]]
    dynamic: dict[str, Sequence[int]] = field(default_factory=dict)
    separable: bool = True
    injected: bool = True


SDPA = "scaled_dot_product_attention"
_LAYER = [("self_attn", SDPA), ("dropout1", "dropout"), ("dropout", "dropout"), ("dropout2", "dropout")]
_GENERATOR = torch.Generator().manual_seed(1)


def numbers(*shape: int) -> torch.Tensor:
    """Normal random numbers that are the same in every run of the tests."""
    return torch.randn(shape, generator=_GENERATOR)


CASES = {
    "unet": Case(
        UNet,
        (numbers(1, 3, 8, 8),),
        [(f"{name}.layers.3", "feature_dropout") for name in ("first", "second", "last")],
        {"x": (0, 2, 3)},
    ),
    "functional": Case(Functional, (numbers(2, 4),), [("", "dropout")] * 3),
    "called": Case(Called, (numbers(4, 8),), [("drop", "dropout")] * 3),
    "alpha": Case(Alpha, (numbers(2, 3, 8, 8),), [("alpha", "alpha_dropout"), ("feature", "feature_alpha_dropout")]),
    "depth": Case(Depth, (numbers(2, 6),), [("", "bernoulli"), ("", "rand")]),
    "dropblock": Case(DropBlock, (numbers(2, 3, 16, 16),), [("", "bernoulli")], separable=False),
    "attention": Case(
        Attention,
        (numbers(2, 5, 8), torch.tensor([[True] * 5, [True, True, True, False, False]])),
        [("", SDPA)] * 2,
        {"x": (0, 1), "keep": (0, 1)},
    ),
    "weights": Case(Weights, (numbers(2, 5, 8),), [("attention", "dropout")]),
    "encoder": Case(
        encoder,
        (numbers(2, 6, 8),),
        [(f"layers.{layer}.{name}", kind) for layer in (0, 1) for name, kind in _LAYER],
        {"src": (0, 1)},
    ),
    "lstm": Case(
        lambda: Recurrent(nn.LSTM, batch_first=True), (numbers(2, 5, 4),), [("layers", "lstm")] * 2, {"x": (0, 1)}
    ),
    "gru": Case(
        lambda: Recurrent(nn.GRU, bidirectional=True, batch_first=True),
        (numbers(2, 5, 4),),
        [("layers", "gru")] * 2,
    ),
    "dropconnect": Case(DropConnect, (numbers(2, 8),), [("", "dropout")]),
    "noise": Case(Noise, (numbers(2, 6),), [("", "randn_like"), ("", "uniform"), ("", "exponential")]),
    "probabilities": Case(Probabilities, (numbers(2, 6),), [("", "bernoulli")], injected=False),
    "rrelu": Case(
        lambda: nn.Sequential(nn.Linear(4, 4), nn.RReLU()), (numbers(2, 4),), [("1", "rrelu")], injected=False
    ),
    "gated": Case(GatedByParent, (numbers(2, 6),), [("drop", "dropout")]),
    "windows": Case(Windows, (numbers(2, 6, 4),), [("drop", "dropout")], {"x": (0, 1)}),
    "returned": Case(Returned, (numbers(2, 5), numbers(8)), [("drop", "dropout")], {"shift": ()}),
}
