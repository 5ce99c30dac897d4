"""The settings of the last run, which the widget starts with, also in the next session."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from self2self.errors import Self2SelfError
from self2self.jobs.fit_config import LARGEST_STRENGTH
from self2self.machine.files import atomic_write

SCOPES = ("plane", "planes", "each")
"""What is denoised: the plane in view; all planes with one fit; all planes with a fit for each."""
LARGEST_SEED = 2**31 - 1
LARGEST_PASSES = 10_000
LIMITS = {"strength": LARGEST_STRENGTH, "passes": LARGEST_PASSES, "seed": LARGEST_SEED}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user has chosen, apart from what belongs to one image.

    Attributes:
        scope: one of `SCOPES`.
        uncertainty: whether the standard deviation over the passes becomes a layer.
        strength: factor of the denoising, from 0 to 2.
        passes: number of passes; 0 if the program chooses.
        scratch: whether the fit sees nothing but the image, instead of starting from weights fitted to others.
        seed: of the fit and of the masks.
    """

    scope: str = "plane"
    uncertainty: bool = False
    strength: float = 1.0
    passes: int = 0
    scratch: bool = False
    seed: int = 0


def settings_file() -> Path:
    """The file in the user's configuration folder; it need not exist."""
    import platformdirs

    return platformdirs.user_config_path("self2self", appauthor=False) / "napari.json"


def load_settings() -> Settings:
    """The settings of the last run; the usual one for each that is missing or wrong."""
    try:
        stored = json.loads(settings_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Settings()
    if not isinstance(stored, dict):
        return Settings()
    usual = asdict(Settings())
    usable = {
        name: type(default)(stored[name])
        for name, default in usual.items()
        if name in stored and _is_usable(name, stored[name], default)
    }
    return Settings(**usable)


def save_settings(settings: Settings) -> None:
    """Keep the settings for the next session; where the folder cannot be written, they are those of this session."""
    path = settings_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(asdict(settings), indent=1).encode())
    except (OSError, Self2SelfError):
        # Not worth a message: the run itself does not need the file.
        return


def _is_usable(name: str, value: Any, default: Any) -> bool:
    if name == "scope":
        return value in SCOPES
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    number = isinstance(value, int) or (isinstance(value, float) and isinstance(default, float))
    return number and 0 <= value <= LIMITS[name]
