"""Masks made on a device, with the CPU as the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Protocol

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from self2self.model.contract import MaskSpec
from self2self.model.masks import Stream, generator
from self2self.runtime.ensemble.device_masks import KERNELS, DeviceMasks, pass_seed
from tests.runtime.kernels_on_the_cpu import needs_compiler, on_the_cpu

SPECS = (MaskSpec("a", (3, "H", "W"), 154), MaskSpec("b", (5, "H/2", "W/2"), 256), MaskSpec("c", (1, "H", 3), 26))
AXES = {"H": 64, "W": 98}
UInts = NDArray[np.uint64]


class Maker(Protocol):
    """Creates a `DeviceMasks` for one generator and one memory order."""

    def __call__(
        self, specs: Sequence[MaskSpec], axes: Mapping[str, int], seed: int, place: int = 0
    ) -> DeviceMasks: ...


@pytest.fixture(
    params=[
        pytest.param((name, order), id=f"{name}, channels {'last' if order else 'first'}", marks=marks)
        for name, marks in (("torch", ()), ("kernel", needs_compiler))
        for order in (False, True)
    ]
)
def make(request: pytest.FixtureRequest) -> Maker:
    name, order = request.param

    def made(specs: Sequence[MaskSpec], axes: Mapping[str, int], seed: int, place: int = 0) -> DeviceMasks:
        return DeviceMasks(specs, axes, seed, "cpu", place, order, on_the_cpu(KERNELS) if name == "kernel" else None)

    return made


def masks_of(make: Maker, first: int, count: int, seed: int = 0, place: int = 0) -> dict[str, torch.Tensor]:
    maker = make(SPECS, AXES, seed, place)
    return maker.fill(maker.allocate(count), first, count)


def test_masks_have_the_shapes_types_and_shares_of_their_specs(make: Maker) -> None:
    masks = masks_of(make, 0, 8)
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


def test_every_byte_of_a_word_has_the_probability(make: Maker) -> None:
    spec = MaskSpec("m", (1024, "H", "W"), 128)
    maker = make([spec], {"H": 16, "W": 16}, 0)
    shares = maker.fill(maker.allocate(1), 0, 1)["m"].reshape(-1, 8).double().mean(dim=0)
    assert torch.all((shares - 0.5).abs() < 0.015), shares


@pytest.mark.parametrize("batches", [(1, 1, 1, 1, 1), (5,), (2, 3), (4, 1)])
def test_a_pass_has_the_same_masks_in_every_batch(make: Maker, batches: tuple[int, ...]) -> None:
    expected = masks_of(make, 0, 5)
    maker = make(SPECS, AXES, 0)
    buffers, first = maker.allocate(max(batches)), 0
    for count in batches:
        for name, mask in maker.fill(buffers, first, count).items():
            assert torch.equal(mask, expected[name][first : first + count])
        first += count


def test_more_passes_than_are_drawn_at_a_time(make: Maker) -> None:
    maker = make(SPECS, AXES, 0)
    many = maker.fill(maker.allocate(19), 2, 19)
    for index in (0, 7, 8, 18):
        for name, mask in masks_of(make, 2 + index, 1).items():
            assert torch.equal(mask[0], many[name][index])


def test_masks_of_a_pass_do_not_share_numbers(make: Maker) -> None:
    specs = [MaskSpec("a", (1, "H", "W"), 128), MaskSpec("b", (1, "H", "W"), 128)]
    maker = make(specs, AXES, 0)
    masks = maker.fill(maker.allocate(1), 0, 1)
    assert abs(float((masks["a"] == masks["b"]).double().mean()) - 0.5) < 0.05


def test_passes_seeds_and_tiles_differ(make: Maker) -> None:
    masks = masks_of(make, 0, 3)["a"]
    others = [masks[1], masks[2], masks_of(make, 0, 1, seed=1)["a"][0], masks_of(make, 0, 1, place=1)["a"][0]]
    agreeing = [float((masks[0] == other).double().mean()) for other in others]
    expected = SPECS[0].keep_probability ** 2 + (1 - SPECS[0].keep_probability) ** 2
    assert all(abs(share - expected) < 0.03 for share in agreeing), agreeing


def philox(counter: UInts, key: tuple[int, int]) -> UInts:
    """Philox4x32-10 of counters [..., 4], after the paper; each element holds a 32-bit word in 64 bits."""
    low = np.uint64(0xFFFFFFFF)
    first, second = np.uint64(key[0]), np.uint64(key[1])
    for _ in range(10):
        c0, c1, c2, c3 = np.moveaxis(counter, -1, 0)
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        counter = np.stack(
            [(p1 >> np.uint64(32)) ^ c1 ^ first, p1 & low, (p0 >> np.uint64(32)) ^ c3 ^ second, p0 & low], axis=-1
        )
        first, second = (first + np.uint64(0x9E3779B9)) & low, (second + np.uint64(0xBB67AE85)) & low
    return counter


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_reference_philox_gives_the_known_answers_of_its_authors(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert philox(np.array(counter, np.uint64), key).tolist() == list(expected)


@needs_compiler
@pytest.mark.parametrize("order", [False, True])
def test_the_kernel_compares_the_bytes_of_philox(order: bool) -> None:
    maker = DeviceMasks(SPECS, AXES, 5, "cpu", 9, order, on_the_cpu(KERNELS))
    masks = maker.fill(maker.allocate(3), 70, 3)
    key = np.random.SeedSequence((5, int(Stream.DEVICE), 9)).generate_state(2, np.uint32)
    for number, spec in enumerate(SPECS):
        for row in range(3):
            mask = masks[spec.name][row]
            in_memory = (mask.permute(1, 2, 0) if order else mask).flatten().numpy()
            counter = np.zeros((-(-len(in_memory) // 16), 4), np.uint64)
            counter[:, 0] = np.arange(len(counter))
            counter[:, 1:3] = number, 70 + row
            drawn = philox(counter, (int(key[0]), int(key[1]))).astype("<u4").view(np.uint8).ravel()[: len(in_memory)]
            assert np.array_equal(in_memory, drawn < spec.keep_count), (spec.name, row)


def test_torchs_generator_has_a_seed_of_its_own_for_each_pass() -> None:
    assert len({pass_seed(seed, index) for seed in range(20) for index in range(50)}) == 1000
    assert all(0 <= pass_seed(0, index) < 2**63 for index in range(50))


def test_a_whole_image_has_the_seeds_of_the_tile_at_the_top_left() -> None:
    """Seeds without a place are the same, because NumPy fills the entropy up to four words with zeros."""
    for seed, index in product((0, 1, 2**31, 2**32 - 1), repeat=2):
        word = np.random.SeedSequence((seed, Stream.DEVICE, index)).generate_state(1, np.uint64)[0]
        assert pass_seed(seed, index) == int(word) >> 1


def test_the_stream_of_the_device_differs_from_those_of_the_host() -> None:
    host = [generator(0, 0, stream).integers(0, 2**63) for stream in Stream]
    assert len(set(host)) == len(Stream)
    assert Stream.DEVICE not in (Stream.ENSEMBLE, Stream.FIT, Stream.CROP)
