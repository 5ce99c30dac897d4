"""The bookkeeping of a command with very many images."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from self2self.jobs.image_batch import ImageBatch
from self2self.jobs.observer import Observer
from self2self.jobs.output_options import OutputOptions


def seconds_before_the_last_image(folder: Path, count: int) -> float:
    """CPU seconds of the bookkeeping for `count` images, of which all but the last are done."""
    images = [folder / f"{number:05}.png" for number in range(count)]
    start = time.process_time()
    outputs = OutputOptions(output=folder)
    outputs.check(images)
    batch = ImageBatch(images, outputs)
    for path in images:
        if not batch.skips(path, Observer()):
            batch.begin(path, Observer())
    return time.process_time() - start


@pytest.mark.slow
def test_ten_thousand_images_take_seconds_and_not_minutes(tmp_path: Path) -> None:
    (tmp_path / "00000.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for number in range(1, 10_000):
        (tmp_path / f"{number:05}.png").hardlink_to(tmp_path / "00000.png")
    assert seconds_before_the_last_image(tmp_path, 10_000) < 10
