"""Clean crops for the start weights, from two tiny photographs."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

SIZE = 64


@pytest.fixture
def crops(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("clean_crops")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for index in range(2):
        small = Image.fromarray(rng.integers(0, 255, (13, 14, 3), np.uint8))
        small.resize((140, 130)).save(tmp_path / f"{index}.png")
    return tmp_path


def test_photographs_are_there_at_half_size_too(crops: ModuleType, folder: Path) -> None:
    assert {p.shape for p in crops.load_photographs([folder])} == {(3, 130, 140), (3, 65, 70)}
    assert {p.shape for p in crops.load_photographs([folder], parts=(2, 3))} == {(3, 65, 70), (3, 44, 47)}


def test_crops_of_all_kinds_are_reproducible_and_differ(crops: ModuleType, folder: Path) -> None:
    loaded = crops.load_photographs([folder])
    assert sum(crops.CROP_SHARES.values()) == pytest.approx(1)
    for make_crop in crops.CROP_SHARES:
        drawn = [make_crop(loaded, SIZE, np.random.default_rng(seed)) for seed in range(10)]
        assert {crop.shape for crop in drawn} == {(3, SIZE, SIZE)}
        assert np.array_equal(drawn[3], make_crop(loaded, SIZE, np.random.default_rng(3)))
        assert len({crop.tobytes() for crop in drawn}) > 5


def test_soft_crops_have_random_blur(crops: ModuleType) -> None:
    def detail(crop: np.ndarray) -> float:
        return float(np.abs(np.diff(crop)).mean() / crop.std())

    small = [np.random.default_rng(0).integers(0, 255, (3, 70, 80), np.uint8)]
    drawn = [crops.soft(small, SIZE, np.random.default_rng(seed)) for seed in range(30)]
    assert {(crop.shape, crop.dtype) for crop in drawn} == {((3, SIZE, SIZE), np.dtype(np.float32))}
    assert min(map(np.min, drawn)) >= 0
    assert max(map(np.max, drawn)) <= 1
    sharp = detail(small[0].astype(np.float32))
    details = [detail(crop) / sharp for crop in drawn]
    assert min(details) < 0.6
    assert max(details) > 0.95
    assert np.array_equal(drawn[3], crops.soft(small, SIZE, np.random.default_rng(3)))


def test_samples_are_in_the_range(crops: ModuleType, folder: Path) -> None:
    loaded = crops.load_photographs([folder])
    for seed in range(100):
        crop = crops.sample_clean(loaded, SIZE, np.random.default_rng(seed))
        assert (crop.shape, crop.dtype) == ((3, SIZE, SIZE), np.float32)
        assert crop.min() >= 0
        assert crop.max() <= 1


def test_stained_channels_are_independent_and_some_are_dark(crops: ModuleType, folder: Path) -> None:
    loaded = crops.load_photographs([folder])
    dark, correlations = 0, []
    for seed in range(60):
        crop = crops.stained(loaded, SIZE, np.random.default_rng(seed))
        dark += sum(np.ptp(channel) == 0 for channel in crop)
        lit = [channel.ravel() for channel in crop if np.ptp(channel) > 0]
        correlations += [np.corrcoef(lit[0], other)[0, 1] for other in lit[1:]]
    assert 20 < dark < 80
    assert abs(np.mean(correlations)) < 0.3


def test_saturated_crops_are_cut_off_until_two_levels_remain(crops: ModuleType, folder: Path) -> None:
    loaded = crops.load_photographs([folder])
    ends = []
    for seed in range(40):
        crop = np.clip(crops.saturated(loaded, SIZE, np.random.default_rng(seed)), 0, 1)
        ends.append(float(np.mean((crop == 0) | (crop == 1))))
    assert min(ends) < 0.5
    assert max(ends) > 0.9
