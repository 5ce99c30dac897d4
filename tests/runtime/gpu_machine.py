"""A simulated machine with an NVIDIA GPU; each test chooses the installed packages."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from self2self.machine.nvidia import Gpu

CARD = Gpu("NVIDIA RTX 4090", (8, 9), 24 * 2**30, (13, 0))


def installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let only the packages `names` appear to be installed."""

    def distribution(name: str) -> object:
        if name not in names:
            raise PackageNotFoundError(name)
        return object()

    monkeypatch.setattr("importlib.metadata.distribution", distribution)
