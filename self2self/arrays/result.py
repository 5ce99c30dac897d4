"""The result of denoising an array, which shows itself in a notebook."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.arrays.axes import Layout
from self2self.arrays.channels import joined
from self2self.imaging.noise import center_crop
from self2self.jobs.in_memory import PagesResult
from self2self.jobs.page_cache import PageRecord

SHOWN_SIDE = 320
"""Largest side of the pictures in a notebook, in pixels: the middle of the image, pixel by pixel."""
SHOWN_PERCENTILES = (0.2, 99.8)
"""Percentiles of the noisy picture that are black and white in the notebook."""


@dataclass(frozen=True, slots=True, eq=False)
class Denoised:
    """A denoised array.

    Attributes:
        image: the denoised array: shape, dtype, units and mask of the input. Values of integer types are rounded.
        uncertainty: float32 of the same shape, standard deviation over the passes, in the units of the input; 0 where
            nothing is measured. None if it was not asked for.
        sigma: standard deviation of the noise that was found, in the units of the input; of channels that were fitted
            apart, the largest (`sigmas`).
        sigmas: the same for each fit.
        axes: the letter of each axis, as it was given or guessed.
        pages: how each page was made; first all pages of the first channel that was fitted apart.
        seconds: time of the call.
        notes: lines that the user should know, such as what kind of noise was found.
        noisy: the input.
    """

    image: NDArray[Any]
    uncertainty: NDArray[np.float32] | None
    sigmas: tuple[float, ...]
    axes: str
    pages: tuple[PageRecord, ...]
    seconds: float
    notes: tuple[str, ...]
    noisy: NDArray[Any] = field(repr=False)

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise that was found, in the units of the input; the largest of all fits."""
        return max(self.sigmas)

    @property
    def summary(self) -> str:
        """One line for people: the noise that was found, and the time."""
        levels = ", ".join(f"{sigma:.3g}" for sigma in self.sigmas)
        return f"noise found: \N{GREEK SMALL LETTER SIGMA} {levels} (in the units of the image); {self.seconds:.1f} s"

    def __repr__(self) -> str:
        return f"<Denoised {self.image.dtype} {self.image.shape}, axes {self.axes}; {self.summary}>"

    def _repr_html_(self) -> str:
        """The middle of the first page before and after, as pictures in the page itself, and the summary."""
        from self2self.report.pictures import picture

        before, after = (_shown(Layout(self.axes, array.shape), array) for array in (self.noisy, self.image))
        finite = before[np.isfinite(before)]
        black, white = np.percentile(finite, SHOWN_PERCENTILES) if finite.size else (0.0, 1.0)
        figures = []
        for title, pixels in (("before", before), ("after", after)):
            shown = picture(np.nan_to_num((pixels - black) / max(white - black, np.finfo(np.float64).tiny)))
            figures.append(
                f'<figure style="display:inline-block;margin:0 1em 0 0"><img src="{shown.address}" alt="{title}" '
                f'width="{shown.width}" height="{shown.height}"><figcaption>{title}</figcaption></figure>'
            )
        lines = [self.summary, *self.notes]
        return "<div>" + "".join(figures) + "".join(f"<p>{escape(line)}</p>" for line in lines) + "</div>"


def denoised(
    results: list[PagesResult], layout: Layout, array: NDArray[Any], notes: list[str], seconds: float
) -> Denoised:
    """Give the results of all groups of channels the axes of the input.

    Args:
        results: of each group (`channels.groups_of`).
        layout: of the input.
        array: the input.
        notes: as `Denoised.notes`.
        seconds: time of the call.
    """
    pages = layout.pages_of(np.ma.getdata(array))
    deviations = [result.deviations for result in results if result.deviations is not None]
    image = layout.array_of(joined([result.values for result in results], pages))
    return Denoised(
        image=_masked_like(array, image.astype(array.dtype, copy=False)),
        uncertainty=_masked_like(array, layout.array_of(joined(deviations, pages))) if deviations else None,
        sigmas=tuple(result.noise.sigma * result.noise_unit for result in results),
        axes=layout.axes,
        pages=tuple(page for result in results for page in result.pages),
        seconds=seconds,
        notes=tuple(notes),
        noisy=array,
    )


def _masked_like(array: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """`values` with the mask of `array`, if it has one."""
    return np.ma.array(values, mask=array.mask) if isinstance(array, np.ma.MaskedArray) else values


def _shown(layout: Layout, array: NDArray[Any]) -> NDArray[np.float64]:
    """The middle of the first page, float64 (C, H, W): grey or RGB, without alpha."""
    first = layout.pages_of(array)[0]
    channels = first[..., 0] if layout.colours == 1 else np.moveaxis(first[0], 2, 0)
    shown = channels[:3] if len(channels) >= 3 else channels[:1]
    return np.ma.filled(center_crop(shown, SHOWN_SIDE).astype(np.float64), np.nan)
