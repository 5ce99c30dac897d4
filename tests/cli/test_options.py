"""Parsing of options that are more than a number or a name."""

from __future__ import annotations

import pytest

from self2self.cli.options import parse_batches, parse_memory, parse_side, parse_size
from self2self.errors import UsageError


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


def test_sizes() -> None:
    assert parse_size("512x768") == parse_side("512X768") == (512, 768)
    assert parse_side("256") == (256, 256)
    assert parse_size(None) is None


@pytest.mark.parametrize("text", ["", "x", "256x", "x256", "2x3x4", "-1x2", "²x3", "1 x 2", "²"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(UsageError, match=r"--max is .*; expected HEIGHTxWIDTH, for example --max 512x768\."):
        parse_size(text, "--max")
    with pytest.raises(UsageError, match=r"--size is .*; expected a side or HEIGHTxWIDTH, for example --size 256\."):
        parse_side(text)


def test_batches() -> None:
    assert parse_batches("1,8,32") == (1, 8, 32)
    for text in ("1,8", "1,8,32,64", "1,8,²", "1,8,-2", "a,b,c"):
        with pytest.raises(UsageError, match="expected three numbers"):
            parse_batches(text)
