from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import combinations, islice, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from self2self.model import masks
from self2self.model.contract import MaskSpec, mask_specs
from self2self.model.masks import PASSES_PER_BLOCK, PIECE_SIZE, BoolArray, Draws, MaskMaker, Stream, generator

AXES = {"H": 64, "W": 96}
TINY = mask_specs(3, 4, (6, 6, 6, 4, 4), 0.7, 0.4)
WORD = 2**64 - 1


def sfc64_bytes(*seed_words: int) -> Iterator[int]:
    """Yield the bytes of Chris Doty-Humphrey's sfc64, computed in plain integers; only the seed's hash is numpy's."""
    a, b, c = map(int, np.random.SeedSequence(seed_words).generate_state(3, np.uint64))
    counter = 1
    word_number = 0
    while True:
        word = (a + b + counter) & WORD
        counter = (counter + 1) & WORD
        a = b ^ (b >> 11)
        b = (c + (c << 3)) & WORD
        c = (((c << 24) | (c >> 40)) + word) & WORD
        word_number += 1
        # The first twelve words only mix the seed.
        if word_number > 12:
            yield from word.to_bytes(8, "little")


def slow_masks(
    specs: Sequence[MaskSpec],
    seed: int,
    index: int,
    stream: int = 0,
    place: int = 0,
    draws: Draws = Draws.OWN,
    largest_cache: int = 5 * 2**23,
) -> dict[str, BoolArray]:
    """Make the masks of one pass, element by element: each piece of each mask has its own stream."""
    masks = {}
    before = 0
    for number, spec in enumerate(specs):
        shape = spec.shape(AXES)
        size = int(np.prod(shape))
        drawn: list[int] = []
        for piece in range(-(-size // PIECE_SIZE)):
            count = min(PIECE_SIZE, size - piece * PIECE_SIZE)
            before += count
            shared = draws is Draws.PAIRED and before <= largest_cache
            block, position = divmod(index, 127) if shared else (index, 0)
            words = (seed, stream, block, place, number)
            ours = list(islice(sfc64_bytes(*words, piece), count))
            if position:
                offset = 254 * position + position**2 % 127
                pad = islice(sfc64_bytes(*words, 2**32 - 1), offset, offset + count)
                ours = [one ^ other for one, other in zip(ours, pad, strict=True)]
            drawn += ours
        masks[spec.name] = np.array([byte < spec.keep_count for byte in drawn]).reshape(shape)
    return masks


def digest(masks: dict[str, BoolArray]) -> str:
    return hashlib.sha256(
        b"".join(name.encode() + np.packbits(mask).tobytes() for name, mask in masks.items())
    ).hexdigest()


PINNED = {
    (0, 0, 0, Draws.OWN): "048cf1de960dfe187807667438e9ac3d478a1fcd9fb4f24ee0f91f1939548a3e",
    (0, 499, 0, Draws.OWN): "dc035d0f4861b6b485ec1c90ee9e125ac99c9e013b2087eff15103f40fcf9c68",
    (2**40 + 1, 17, 1, Draws.OWN): "1e4ef7604c99b98ad7813cc2eaa4c2c0ce8327b3396dc3f0201e966ecbfb57a3",
    (0, 0, 0, Draws.PAIRED): "048cf1de960dfe187807667438e9ac3d478a1fcd9fb4f24ee0f91f1939548a3e",
    (0, 499, 0, Draws.PAIRED): "8bd2b04b5c41d331f63789d85c2d0ea3da978ebc590af4cd0930b87a40b17207",
    (2**40 + 1, 2000, 0, Draws.PAIRED): "b729ff608eaa3a4a7f815b36691304bcc2060b170f93dee182844ee08d5e9e16",
}


@pytest.mark.parametrize("key", PINNED)
def test_masks_are_those_of_an_independent_formulation_and_never_change(key: tuple[int, int, int, Draws]) -> None:
    seed, index, stream, draws = key
    maker = MaskMaker(TINY, AXES, seed, Stream(stream), draws=draws)
    ours = {name: m[0] for name, m in maker.make(index, 1).items()}
    slow = slow_masks(TINY, seed, index, stream, draws=draws)
    for name, mask in slow.items():
        np.testing.assert_array_equal(ours[name], mask, err_msg=name)
    assert digest(slow) == digest(ours) == PINNED[key]


def test_sizes_that_are_no_multiple_of_a_word() -> None:
    specs = [MaskSpec("a", (3, 3), 100), MaskSpec("b", (5,), 200), MaskSpec("c", (), 128)]
    ours = MaskMaker(specs, {}, 5).make(2, 1)
    for name, mask in slow_masks(specs, 5, 2).items():
        np.testing.assert_array_equal(ours[name][0], mask, err_msg=name)


def test_a_mask_without_dimensions_drops_whole_passes() -> None:
    mask = MaskMaker([MaskSpec("path", (), 128)], {}, 0).make(0, 1000)["path"]
    assert mask.shape == (1000,)
    assert 400 < mask.sum() < 600


@given(
    seed=st.integers(0, 2**64),
    first=st.integers(0, 10_000),
    splits=st.lists(st.integers(1, 3), min_size=1, max_size=4),
    draws=st.sampled_from(Draws),
)
def test_masks_do_not_depend_on_batch_size(seed: int, first: int, splits: list[int], draws: Draws) -> None:
    total = sum(splits)
    whole = MaskMaker(TINY, AXES, seed, draws=draws).make(first, total)
    maker = MaskMaker(TINY, AXES, seed, draws=draws)
    done = 0
    for count in splits:
        part = maker.make(first + done, count)
        for name, mask in part.items():
            np.testing.assert_array_equal(mask, whole[name][done : done + count])
        done += count


@pytest.mark.parametrize("draws", Draws)
def test_masks_do_not_depend_on_order(draws: Draws) -> None:
    forward, backward = (MaskMaker(TINY, AXES, 3, draws=draws) for _ in range(2))
    kept = {i: {n: m.copy() for n, m in forward.make(i, 1).items()} for i in (0, 1, 2, 9, 10, 126, 127, 128)}
    for index in reversed(kept):
        for name, mask in backward.make(index, 1).items():
            np.testing.assert_array_equal(mask, kept[index][name])


def test_arrays_are_contiguous_and_reused() -> None:
    maker = MaskMaker(TINY, AXES, 0)
    first = maker.make(0, 2)
    assert all(mask.flags.c_contiguous and mask.dtype == np.bool_ for mask in first.values())
    assert list(first) == [spec.name for spec in TINY]
    assert [mask.shape for mask in first.values()] == [(2, *spec.shape(AXES)) for spec in TINY]
    second = maker.make(2, 1)
    assert all(np.shares_memory(first[name], second[name]) for name in first)


@pytest.mark.parametrize("keep_count", [1, 26, 77, 128, 154, 255])
def test_true_means_kept_at_the_quantised_rate(keep_count: int) -> None:
    size = 1_000_000
    kept = int(MaskMaker([MaskSpec("m", (size,), keep_count)], {}, 11).make(0, 1)["m"].sum())
    probability = keep_count / 256
    sigma = (size * probability * (1 - probability)) ** 0.5
    assert abs(kept - size * probability) < 5 * sigma


@pytest.mark.parametrize("largest_cache", [0, 2500, 4340])
@pytest.mark.parametrize("draws", [Draws.OWN, Draws.PAIRED])
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_large_masks_are_made_in_pieces_by_any_number_of_threads(
    threads: int, draws: Draws, largest_cache: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "compute_threads", lambda: threads)
    # The slow formulation needs small pieces to be fast enough for a test.
    for name, elements in (
        ("PIECE_SIZE", 1000),
        ("_SMALLEST_THREADED_BATCH", 3000),
        ("_CHUNK_SIZE", 256),
        ("_LARGEST_CACHE", largest_cache),
    ):
        monkeypatch.setattr(masks, name, elements)
    monkeypatch.setitem(globals(), "PIECE_SIZE", 1000)
    specs = [MaskSpec("a", (3, 1111), 100), MaskSpec("b", (1000,), 200), MaskSpec("c", (7,), 256)]
    maker = MaskMaker(specs, {}, 5, draws=draws)
    maker.place = 3
    for first in (0, 126):
        made = {name: mask.copy() for name, mask in maker.make(first, 2).items()}
        for row in range(2):
            slow = slow_masks(specs, 5, first + row, place=3, draws=draws, largest_cache=largest_cache)
            for name, mask in slow.items():
                np.testing.assert_array_equal(made[name][row], mask, err_msg=name)


def test_keep_level_256_keeps_everything_and_changes_no_other_mask() -> None:
    def made(keep_count: int) -> dict[str, BoolArray]:
        return MaskMaker([MaskSpec("a", (1000,), keep_count), MaskSpec("b", (1000,), 100)], {}, 0).make(0, 2)

    assert made(256)["a"].all()
    np.testing.assert_array_equal(made(256)["b"], made(128)["b"])


def test_passes_masks_seeds_and_streams_are_independent() -> None:
    size = 200_000
    specs = [MaskSpec("a", (size,), 128), MaskSpec("b", (size,), 128)]
    samples = []
    for seed in (0, 1):
        for stream in Stream:
            masks = MaskMaker(specs, {}, seed, stream).make(0, 2)
            samples += [masks[name][row] for name in masks for row in range(2)]
    assert len(samples) == 8 * len(Stream)
    sigma = 0.5 / size**0.5
    for one, other in combinations(samples, 2):
        assert abs(np.mean(one == other) - 0.5) < 5 * sigma


def test_neighbours_are_independent() -> None:
    mask = MaskMaker([MaskSpec("m", (1_000_000,), 154)], {}, 4).make(0, 1)["m"][0].astype(float) - 154 / 256
    variance = float((mask**2).mean())
    for lag in (1, 2, 7, 8, 9, 64, 256):
        correlation = float((mask[lag:] * mask[:-lag]).mean()) / variance
        assert abs(correlation) < 5e-3, lag


def test_big_masks_equal_one_draw_of_raw_words_a_piece() -> None:
    channels, height, width = 9, 512, 640
    mask = MaskMaker([MaskSpec("big", (channels, "H", "W"), 77)], {"H": height, "W": width}, 8).make(3, 1)["big"][0]
    pieces = -(-channels * height * width // PIECE_SIZE)
    assert pieces == 3
    words = [
        np.random.SFC64(np.random.SeedSequence((8, 0, 3, 0, 0, i))).random_raw(PIECE_SIZE // 8) for i in range(pieces)
    ]
    expected = np.concatenate(words).astype("<u8").view(np.uint8)[: mask.size] < 77
    np.testing.assert_array_equal(mask.reshape(-1), expected)


def test_generator_is_a_function_of_seed_index_and_stream() -> None:
    def draw(seed: int, index: int, stream: Stream) -> int:
        return int(generator(seed, index, stream).integers(2**62))

    assert draw(1, 2, Stream.FIT) == draw(1, 2, Stream.FIT)
    drawn = {draw(seed, index, stream) for seed in range(3) for index in range(3) for stream in Stream}
    assert len(drawn) == 9 * len(Stream)


def test_global_random_state_is_neither_read_nor_changed() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr,call-overload]  # noqa: NPY002
    MaskMaker(TINY, AXES, 0).make(0, 1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index,call-overload]  # noqa: NPY002


def balanced_masks(specs: Sequence[MaskSpec], first: int, count: int) -> dict[str, BoolArray]:
    made = MaskMaker(specs, AXES, 3, draws=Draws.BALANCED).make(first, count)
    return {name: mask.copy() for name, mask in made.items()}


def test_balanced_masks_are_those_of_an_independent_formulation() -> None:
    spec = MaskSpec("a", (5, 7), 205)
    for index in (0, 1, 9, 10, 27):
        source = sfc64_bytes(3, 0, index // PASSES_PER_BLOCK, 0, 0, 0)
        drawn = [next(source) for _ in range(35)]
        shift = int(index % PASSES_PER_BLOCK * 256 / PASSES_PER_BLOCK)
        expected = np.array([(byte + shift) % 256 < 205 for byte in drawn]).reshape(5, 7)
        np.testing.assert_array_equal(balanced_masks([spec], index, 1)["a"][0], expected)


@given(keep=st.integers(1, 256))
@settings(max_examples=40)
def test_a_block_drops_every_element_equally_often(keep: int) -> None:
    kept = balanced_masks([MaskSpec("a", (64, 64), keep)], 2 * PASSES_PER_BLOCK, PASSES_PER_BLOCK)["a"].sum(0)
    # Shifts are whole bytes, so the count may be off by one even if ten times the keep probability is a whole number.
    assert np.abs(kept - PASSES_PER_BLOCK * keep / 256).max() < 1 + PASSES_PER_BLOCK / 256
    assert kept.mean() == pytest.approx(PASSES_PER_BLOCK * keep / 256, abs=0.05)


@pytest.mark.parametrize("drop_rate", [0.1, 0.2, 0.4, 0.7, 0.9])
def test_the_recipes_drop_rates_are_whole_tenths(drop_rate: float) -> None:
    spec = mask_specs(3, 4, (6, 6, 6, 4, 4), drop_rate, drop_rate)[0]
    kept = balanced_masks([spec], 0, PASSES_PER_BLOCK)[spec.name].sum(0)
    assert np.mean(kept == round(PASSES_PER_BLOCK * (1 - drop_rate))) > 0.97


def test_each_balanced_pass_alone_is_a_fair_draw() -> None:
    """Kept share, neighbours and blocks are independent; only passes of the same block depend on each other."""
    spec = MaskSpec("a", (3, "H", "W"), 154)
    passes = balanced_masks([spec], 0, 3 * PASSES_PER_BLOCK)["a"].astype(float)
    size, keep = passes[0].size, 154 / 256
    assert np.abs(passes.mean((1, 2, 3)) - keep).max() < 5 * np.sqrt(keep * (1 - keep) / size)
    centred = (passes - keep) / np.sqrt(keep * (1 - keep))
    for mask in centred:
        for axis in range(3):
            neighbours = np.mean(mask * np.roll(mask, 1, axis))
            assert abs(neighbours) < 5 / np.sqrt(size)
    for one, other in combinations(centred[[3, 11, 25]], 2):
        assert abs(np.mean(one * other)) < 5 / np.sqrt(size)
    # Within a block the passes depend on each other, and negatively on the whole.
    within = centred[:PASSES_PER_BLOCK].reshape(PASSES_PER_BLOCK, -1)
    assert np.corrcoef(within).sum() == pytest.approx(0, abs=0.1)


def test_balanced_masks_do_not_depend_on_the_batch() -> None:
    together = balanced_masks(TINY, 4, 14)
    for index in range(4, 18):
        for name, mask in balanced_masks(TINY, index, 1).items():
            np.testing.assert_array_equal(mask[0], together[name][index - 4])


def test_the_first_balanced_pass_of_a_block_is_an_independent_one() -> None:
    plain = MaskMaker(TINY, AXES, 3).make(2, 1)
    for name, mask in balanced_masks(TINY, 2 * PASSES_PER_BLOCK, 1).items():
        np.testing.assert_array_equal(mask, plain[name])


@pytest.mark.parametrize("kept", [0, 1, 2])
@pytest.mark.parametrize("threads", [1, 5])
def test_bytes_are_drawn_once_where_they_can_be_kept(kept: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of passes, blocks and tile positions does not matter."""
    specs = [MaskSpec("a", ("H", "W"), 100), MaskSpec("b", (9,), 200)]
    monkeypatch.setattr(masks, "_LARGEST_CACHE", (0, 64 * 96 + 8, 64 * 96 + 9)[kept])
    monkeypatch.setattr(masks, "_SMALLEST_THREADED_BATCH", 0)
    monkeypatch.setattr(masks, "compute_threads", lambda: threads)
    streams: list[tuple[int, ...]] = []
    seeded = masks.bit_generator
    monkeypatch.setattr(masks, "bit_generator", lambda *words: streams.append(words) or seeded(*words))
    for draws in Draws:
        maker = MaskMaker(specs, AXES, 4, draws=draws)
        for place, first, count in [(0, 3, 4), (0, 8, 6), (7, 8, 6), (7, 1, 1), (0, 25, 20), (0, 3, 1)]:
            maker.place = place
            made = {name: mask.copy() for name, mask in maker.make(first, count).items()}
            for row in range(count):
                fresh = MaskMaker(specs, AXES, 4, draws=draws)
                fresh.place = place
                for name, mask in fresh.make(first + row, 1).items():
                    np.testing.assert_array_equal(made[name][row], mask[0])
        streams.clear()
        for index in range(1030, 1040):
            maker.make(index, 1)
        fresh_ones = 10 * (2 - kept)
        # Each paired mask has one more stream, for its pad.
        shared_ones = {Draws.OWN: 10 * kept, Draws.PAIRED: 2 * kept, Draws.BALANCED: kept}[draws]
        assert len(streams) == fresh_ones + shared_ones


class OneHot:
    """Replacement for random bytes: of all bytes that are drawn, only the highest bit of one byte is set."""

    def __init__(self, chosen: int) -> None:
        self.chosen = chosen
        self.drawn = 0

    def bytes_of(self, _: object, count: int) -> NDArray[np.uint8]:
        place = self.chosen - self.drawn
        self.drawn += count
        return np.where(np.arange(count) == place, np.uint8(128), np.uint8(0))


def rank_over_two_elements(matrix: NDArray[np.bool_]) -> int:
    rank = 0
    rows = list(matrix.copy())
    while rows:
        pivot = rows.pop()
        if pivot.any():
            rank += 1
            column = int(pivot.argmax())
            rows = [row ^ pivot if row[column] else row for row in rows]
    return rank


def test_paired_masks_are_pairwise_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof is algebra: with a keep probability of one half, masks are linear in the drawn bits, and linear maps of
    fair bits are independent if their rank is full.
    """
    for name, value in (("_PASSES_PER_PAIRED_BLOCK", 5), ("_PAD_OFFSETS", [0, 1, 4, 9, 11]), ("PIECE_SIZE", 6)):
        monkeypatch.setattr(masks, name, value)
    specs = [MaskSpec("a", (6,), 128), MaskSpec("b", (12,), 128)]
    pads = 2 * (6 + 11)
    columns = []
    for chosen in range(18 + pads):
        monkeypatch.setattr(masks, "_bytes_of", OneHot(chosen).bytes_of)
        made = MaskMaker(specs, {}, 0, draws=Draws.PAIRED).make(0, 5)
        columns.append(~np.concatenate([made["a"], made["b"]], axis=1))
    drawn_to_passes = np.stack(columns, axis=-1)
    assert drawn_to_passes.shape == (5, 18, 18 + pads)
    # The first two pieces, one of each mask, are independent of all of another pass, and so is the last piece.
    for one, other in permutations(drawn_to_passes, 2):
        assert rank_over_two_elements(one) == 18
        for pieces in (slice(0, 12), slice(12, 18)):
            assert rank_over_two_elements(np.concatenate([one, other[pieces]])) == 18 + len(other[pieces])


@pytest.mark.parametrize("draws", [Draws.OWN, Draws.PAIRED])
def test_the_variance_of_a_mean_of_paired_passes_is_that_of_independent_ones(draws: Draws) -> None:
    """This holds for sums of single elements and of products of elements, neighbours and others."""
    size, seeds, passes = 256, 1500, 8
    sums = np.empty((seeds, passes))
    for seed in range(seeds):
        mask = MaskMaker([MaskSpec("m", (size,), 128)], {}, seed, draws=draws).make(1, passes)["m"] * 2.0 - 1
        alone = mask[:, :64].sum(1)
        together = (mask[:, :-1] * mask[:, 1:]).sum(1) + (mask[:, :-64] * mask[:, 64:]).sum(1)
        sums[seed] = alone + together + (mask[:, :-128] * mask[:, 64:-64] * mask[:, 128:]).sum(1)
    of_one = 64 + 255 + 192 + 128
    assert np.mean(sums**2) == pytest.approx(of_one, rel=0.1)
    assert passes * np.mean(sums.mean(1) ** 2) == pytest.approx(of_one, rel=0.2)


def test_no_two_pairs_of_offsets_are_equally_far_apart() -> None:
    differences = [other - one for one, other in combinations(masks._PAD_OFFSETS, 2)]
    assert min(differences) > 0
    assert len(set(differences)) == len(differences)


def test_the_error_of_a_mean_of_paired_passes_varies_as_that_of_independent_ones() -> None:
    """Spread over seeds, for sums of single elements. Offsets at equal distances would give eight times as much."""
    size, seeds, passes = 4096, 200, 100

    def errors(draws: Draws) -> NDArray[np.float64]:
        makers = (MaskMaker([MaskSpec("m", (size,), 128)], {}, seed, draws=draws) for seed in range(seeds))
        return np.array([np.square(maker.make(0, passes)["m"].mean(0) * 2 - 1).mean() for maker in makers])

    own, paired = errors(Draws.OWN), errors(Draws.PAIRED)
    assert own.mean() == pytest.approx(1 / passes, rel=0.01)
    assert paired.mean() == pytest.approx(1 / passes, rel=0.01)
    assert paired.std() < 1.5 * own.std()


def test_paired_passes_are_uncorrelated_wherever_the_pad_moves_to() -> None:
    size = 200_000
    passes = MaskMaker([MaskSpec("m", (size,), 128)], {}, 2, draws=Draws.PAIRED).make(0, 200)["m"]
    chosen = passes[[0, 1, 2, 3, 17, 126, 127, 128, 199]]
    sigma = 0.5 / size**0.5
    for one, other in combinations(chosen, 2):
        for lag in (0, 1, 254, 255):
            assert abs(np.mean(one[lag:] == other[: size - lag]) - 0.5) < 5 * sigma
            assert abs(np.mean(other[lag:] == one[: size - lag]) - 0.5) < 5 * sigma
