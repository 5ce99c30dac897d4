"""Masks made on a device, with the CPU as the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from self2self.contract import MaskSpec
from self2self.masks import Stream, generator
from self2self.runtime.device_masks import DeviceMasks, pass_seed

SPECS = (MaskSpec("a", (3, "H", "W"), 154), MaskSpec("b", (5, "H/2", "W/2"), 256), MaskSpec("c", (1, "H", 3), 26))
AXES = {"H": 64, "W": 98}


def masks_of(first: int, count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    maker = DeviceMasks(SPECS, AXES, seed, "cpu")
    return maker.fill(maker.allocate(count), first, count)


def test_shapes_types_and_shares() -> None:
    masks = masks_of(0, 8)
    assert {name: tuple(mask.shape) for name, mask in masks.items()} == {
        "a": (8, 3, 64, 98),
        "b": (8, 5, 32, 49),
        "c": (8, 1, 64, 3),
    }
    for spec in SPECS:
        mask = masks[spec.name]
        assert mask.dtype == torch.bool
        share, count = float(mask.double().mean()), mask.numel()
        # Five standard deviations of the quantised probability, which no other 1/256 is within for "a".
        deviation = 5 * np.sqrt(spec.keep_probability * (1 - spec.keep_probability) / count)
        assert abs(share - spec.keep_probability) <= deviation


def test_every_byte_of_a_word_has_the_probability() -> None:
    spec = MaskSpec("m", (1024, "H", "W"), 128)
    maker = DeviceMasks([spec], {"H": 16, "W": 16}, 0, "cpu")
    shares = maker.fill(maker.allocate(1), 0, 1)["m"].view(-1, 8).double().mean(dim=0)
    assert torch.all((shares - 0.5).abs() < 0.015), shares


@pytest.mark.parametrize("batches", [(1, 1, 1, 1, 1), (5,), (2, 3), (4, 1)])
def test_a_pass_has_the_same_masks_in_every_batch(batches: tuple[int, ...]) -> None:
    expected = masks_of(0, 5)
    maker = DeviceMasks(SPECS, AXES, 0, "cpu")
    buffers, first = maker.allocate(max(batches)), 0
    for count in batches:
        for name, mask in maker.fill(buffers, first, count).items():
            assert torch.equal(mask, expected[name][first : first + count])
        first += count


def test_more_passes_than_are_drawn_at_a_time() -> None:
    maker = DeviceMasks(SPECS, AXES, 0, "cpu")
    many = maker.fill(maker.allocate(19), 2, 19)
    for index in (0, 7, 8, 18):
        for name, mask in masks_of(2 + index, 1).items():
            assert torch.equal(mask[0], many[name][index])


def test_masks_of_a_pass_do_not_share_numbers() -> None:
    specs = [MaskSpec("a", (1, "H", "W"), 128), MaskSpec("b", (1, "H", "W"), 128)]
    maker = DeviceMasks(specs, AXES, 0, "cpu")
    masks = maker.fill(maker.allocate(1), 0, 1)
    assert abs(float((masks["a"] == masks["b"]).double().mean()) - 0.5) < 0.05


def test_passes_and_seeds_differ() -> None:
    masks = masks_of(0, 3)["a"]
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks_of(0, 1, seed=1)["a"][0])
    assert len({pass_seed(seed, index) for seed in range(20) for index in range(50)}) == 1000
    assert all(0 <= pass_seed(0, index) < 2**63 for index in range(50))


def test_the_stream_is_not_one_of_the_hosts() -> None:
    host = [generator(0, 0, stream).integers(0, 2**63) for stream in Stream]
    assert len(set(host)) == len(Stream)
    assert Stream.DEVICE not in (Stream.ENSEMBLE, Stream.FIT, Stream.CROP)
