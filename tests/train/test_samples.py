"""The part of an image that each step uses."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from self2self.model.contract import MINIMUM_SIZE, SIZE_MULTIPLE
from self2self.train import fit as fit_module
from self2self.train.fit import fit, new_state
from self2self.train.samples import CropSampler, TrainingSample
from self2self.train.steps import StaticStepRunner, StepRunner
from tests.train.test_fit import CPU, TINY, image_of


@settings(max_examples=40)
@given(height=st.integers(8, 150), width=st.integers(8, 150), crop=st.sampled_from([None, 64, 96]))
def test_crops_cover_the_image_evenly_and_padding_never_counts(height: int, width: int, crop: int | None) -> None:
    image = np.arange(height * width, dtype=np.float32).reshape(1, height, width)
    sampler = CropSampler(image, crop, seed=0)
    for step in range(5):
        window = sampler.window(step)
        crop_pixels = sampler.image[:, window.rows, window.columns]
        assert crop_pixels.shape[1:] == sampler.size
        assert all(side % SIZE_MULTIPLE == 0 and side >= MINIMUM_SIZE for side in sampler.size)
        counted = crop_pixels[0][window.loss_region]
        # Neighbours in the crop are neighbours in the image: a contiguous block, no reflected pixel.
        top, left = divmod(int(counted[0, 0]), width)
        assert np.array_equal(counted, image[0, top : top + counted.shape[0], left : left + counted.shape[1]])
        for axis, size in enumerate((height, width)):
            whole = crop is None or size <= crop
            assert counted.shape[axis] == (size if whole else crop)


def test_crops_differ_between_steps_and_reach_every_border() -> None:
    sampler = CropSampler(image_of(70, 70), 64, seed=3)
    starts = {(window.rows.start, window.columns.start) for window in map(sampler.window, range(300))}
    assert {row for row, _ in starts} == set(range(7))
    assert {column for _, column in starts} == set(range(7))


def test_orientations_are_drawn_evenly_and_only_squares_are_transposed() -> None:
    def drawn(orientations: int, *size: int) -> list[int]:
        sampler = CropSampler(image_of(*size), 64, 0, orientations)
        counts = np.bincount([sampler.window(step).orientation for step in range(400)], minlength=8)
        return [int(count) for count in counts]

    assert drawn(1, 70, 90) == [400] + [0] * 7
    assert all(70 < count < 130 for count in drawn(4, 70, 90)[:4])
    assert all(25 < count < 80 for count in drawn(8, 70, 90))
    # 40 pixels are padded to 64 and 100 are cropped to 64, which gives a square.
    assert all(drawn(8, 40, 100))
    # 40 pixels are padded to 64 and 90 to 96, so this window is not a square.
    oblong = CropSampler(image_of(40, 90), 96, 0, 8)
    assert oblong.size == (64, 96)
    assert {oblong.window(step).orientation for step in range(100)} == {0, 1, 2, 3}


def test_crops_avoid_places_where_hardly_anything_is_measured() -> None:
    missing = np.ones((200, 200), bool)
    missing[130:, 120:] = False
    sampler = CropSampler(image_of(200, 200), 64, seed=1, missing=missing)
    shares = [1 - missing[window.rows, window.columns].mean() for window in map(sampler.window, range(100))]
    everywhere = CropSampler(image_of(200, 200), 64, seed=1)
    by_chance = [1 - missing[window.rows, window.columns].mean() for window in map(everywhere.window, range(100))]
    assert np.mean(shares) > 2 * np.mean(by_chance)
    assert np.mean(np.array(shares) > 0.2) > 0.8
    assert sampler.window(5) == sampler.window(5)


def test_missing_pixels_count_for_nothing_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of a first step is the same whatever the target holds there, for plain and for static steps."""
    image = image_of(64, 64) + np.random.default_rng(0).normal(0, 0.1, (3, 64, 64)).astype(np.float32)
    missing = np.zeros((64, 64), bool)
    missing[:, 20:50] = True
    recipe = replace(TINY, steps=1, orientations=8, crop=64)

    def loss(runner_class: type[StepRunner], target: np.ndarray, missing: np.ndarray | None) -> float:
        class OtherTarget(runner_class):  # type: ignore[misc,valid-type]
            def run_step(self, sample: TrainingSample, masks: Sequence[Tensor]) -> Tensor:
                return super().run_step(sample._replace(target=torch.from_numpy(target)[None]), masks)

        monkeypatch.setattr(fit_module, "step_runner_for", lambda *arguments: OtherTarget(*arguments))
        return fit(image, recipe, new_state(recipe, 3, 0, CPU), missing=missing).loss

    changed = np.where(missing, 7, image).astype(np.float32)
    for runner_class in (StepRunner, StaticStepRunner):
        assert loss(runner_class, image, missing) == loss(runner_class, changed, missing)
        assert loss(runner_class, image, None) != loss(runner_class, changed, None)
        assert loss(runner_class, image, np.ones_like(missing)) == 0
