"""The decisions about a group of channels, which every block of it follows; `plan` makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from self2self.image_io.missing import Nodata
from self2self.image_io.value_range import ValueRange


@dataclass(frozen=True, slots=True)
class Scale:
    """How stored values are read, for all pages of a group.

    Attributes:
        value_range: the range that maps to [0, 1].
        nodata: value of pixels that hold no measurement; ``"none"`` for no value.
    """

    value_range: ValueRange
    nodata: Nodata


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """What is decided for the channels that are denoised together.

    Attributes:
        channels: first index along C, and the one after the last.
        scale: how stored values are read.
        model: SHA-256 of the model's file, in hex.
        engine: name of the engine; the same for all blocks, whatever machine they are on.
        sigma: noise that the fit found, in 8-bit grey levels; None if it did not look for it.
        page: page of the fit, from 1.
    """

    channels: tuple[int, int]
    scale: Scale
    model: str
    engine: str
    sigma: float | None
    page: int

    @property
    def channel_slice(self) -> slice:
        """The indices along C."""
        return slice(*self.channels)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> GroupPlan:
        """The inverse of `dataclasses.asdict` and JSON.

        Raises:
            KeyError, TypeError: the values are no plan.
        """
        stored = values["scale"]["value_range"]
        value_range = ValueRange(**{**stored, "extremes": tuple(stored["extremes"])})
        scale = Scale(value_range, values["scale"]["nodata"])
        return cls(**{**values, "channels": tuple(values["channels"]), "scale": scale})
