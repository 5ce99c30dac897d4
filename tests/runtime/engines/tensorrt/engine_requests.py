"""Requests for engines that several tests use, and stand-ins for the steps that need a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from self2self.runtime.engines.profiles import Profile
from self2self.runtime.engines.tensorrt.builder import TENSORRT_RTX
from self2self.runtime.engines.tensorrt.cache import Request, request_for
from tests.conftest import Fitted

DYNAMIC = Profile((64, 64), (64, 96), (128, 160), (1, 2, 4))
FIXED = Profile.fixed((64, 96), (1, 2, 4))


def keep(data: bytes) -> bytes:
    """Stands in for loading an engine, which needs a GPU."""
    return data


class Notes(list[str]):
    """Collects the notes to the user."""

    def __call__(self, text: str) -> None:
        self.append(text)


def wanted(path: Path, fitted: Fitted, profile: Profile = FIXED, **options: Any) -> Request:
    return request_for(TENSORRT_RTX, path, fitted.contract, profile, **options)
