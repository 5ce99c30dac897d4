"""Texts of options that are more than a number or a name."""

from __future__ import annotations

import pytest

from self2self.errors import UsageError
from self2self.options import parse_memory


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 * 10**9),
        ("2 gb", 2 * 10**9),
        ("512MiB", 512 * 2**20),
        ("1.5GiB", 3 * 2**29),
        ("64kB", 64000),
        ("1TB", 10**12),
        ("1000000", 10**6),
        ("7B", 7),
        (None, None),
    ],
)
def test_memory(text: str | None, size: int | None) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "2G B", "2XB", "0", "0.1B", "lots", "2G", "1e9"])
def test_wrong_memory(text: str) -> None:
    with pytest.raises(UsageError, match=r"--memory is .*; expected a size such as 2GB, 512MB or 1\.5GiB\."):
        parse_memory(text)
