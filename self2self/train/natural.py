"""The start weights that ship with the package.

They were fitted to openly licensed photographs (docs/model-card.md), so a fit that starts from
them has seen images other than the user's; ``--init scratch`` has not.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from self2self.errors import UsageError

if TYPE_CHECKING:
    import torch

FOLDER = Path(__file__).parent.parent / "weights"
FILES = {1: FOLDER / "natural-grey.safetensors", 3: FOLDER / "natural-rgb.safetensors"}


def has_natural_weights(channels: int) -> bool:
    """Whether start weights for images of so many channels ship with the package."""
    return channels in FILES and FILES[channels].is_file()


def natural_weights(channels: int) -> dict[str, torch.Tensor]:
    """Start weights by name, in the precision in which they are stored.

    Raises:
        UsageError: there are none for so many channels.
    """
    if not has_natural_weights(channels):
        raise UsageError(f"--init natural has no weights for {channels} channels. Use --init scratch.")
    from self2self.train.checkpoint import read_tensors

    return read_tensors(FILES[channels])[0]
