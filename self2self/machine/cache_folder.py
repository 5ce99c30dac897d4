"""The folder for what a command keeps on its own account and a user never names: the runs of fits."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "SELF2SELF_CACHE"
"""Environment variable with another folder; a relative one counts from the working directory."""


def cache_folder() -> Path:
    """The folder that the user has chosen by `VARIABLE`, or else the system's folder for caches of this user.

    It need not exist.
    """
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("self2self", appauthor=False)
