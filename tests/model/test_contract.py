from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from self2self.errors import FileFormatError, UsageError
from self2self.model.contract import (
    KEEP_LEVELS,
    METADATA_PREFIX,
    Contract,
    MaskSpec,
    mask_specs,
    quantise_keep,
)

PAPER = (96, 96, 96, 96, 96)
CONTRACT = Contract(
    3,
    mask_specs(3, 48, PAPER, 0.7, 0.4),
    recipe="paper",
    seed=2**40,
    steps=4000,
    image_sha256="0f" * 32,
    image_range=(12.0, 4095.5),
    whole_range=False,
    noisy_share=0.8,
    precision="fp16",
)


def test_paper_network_has_the_masks_of_the_table() -> None:
    shapes = [spec.shape({"H": 256, "W": 512}) for spec in CONTRACT.masks]
    assert shapes == [
        (3, 256, 512),
        (96, 16, 32), (96, 16, 32),
        (144, 32, 64), (96, 32, 64),
        (144, 64, 128), (96, 64, 128),
        (144, 128, 256), (96, 128, 256),
        (144, 256, 512), (96, 256, 512),
    ]  # fmt: skip


def test_input_names_are_in_graph_order() -> None:
    assert CONTRACT.input_names() == ["image", "input_mask", *(f"dropout_mask_{i}" for i in range(10))]


def test_keep_counts_of_input_and_decoder_are_separate() -> None:
    assert [spec.keep_count for spec in CONTRACT.masks] == [77] + [154] * 10


def test_narrow_widths_change_what_each_level_concatenates() -> None:
    channels = [spec.dims[0] for spec in mask_specs(3, 8, (7, 6, 5, 4, 3), 0.4, 0.4)[1:]]
    assert channels == [16, 7, 15, 6, 14, 5, 13, 4, 12, 3]


@pytest.mark.parametrize(("rate", "count"), [(0.0, 256), (0.4, 154), (0.5, 128), (0.7, 77), (0.9, 26), (0.997, 1)])
def test_keep_probability_is_rounded_to_the_nearest_level(rate: float, count: int) -> None:
    assert quantise_keep(rate) == count


@given(st.floats(0.0, 0.99))
def test_quantisation_is_off_by_at_most_half_a_level(rate: float) -> None:
    count = quantise_keep(rate)
    assert 1 <= count <= KEEP_LEVELS
    assert abs(count / KEEP_LEVELS - (1 - rate)) <= 0.5 / KEEP_LEVELS + 1e-12


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, math.inf, -math.inf, math.nan, 0.9999])
def test_impossible_drop_rates_are_refused_with_what_to_type(rate: float) -> None:
    with pytest.raises(UsageError, match=r"^drop rate .* for example --drop-rate 0\.\d\.$"):
        quantise_keep(rate)


def test_a_size_that_is_not_a_multiple_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^axis W has 40 elements; expected a multiple of 16\. Pad"):
        MaskSpec("m", (2, "H/16", "W/16"), 128).shape({"H": 64, "W": 40})


def test_masks_of_other_models_may_have_any_axes() -> None:
    spec = MaskSpec("attention", ("T", 8, "T/2"), 128)
    assert spec.shape({"T": 6}) == (6, 8, 3)
    assert spec.keep_probability == 0.5


def test_metadata_round_trip_is_exact() -> None:
    metadata = CONTRACT.to_metadata()
    assert all(key.startswith(METADATA_PREFIX) for key in metadata)
    assert Contract.from_metadata(metadata, "model.onnx") == CONTRACT


def test_unknown_keys_of_others_do_not_matter() -> None:
    assert Contract.from_metadata({**CONTRACT.to_metadata(), "author": "me"}, "m") == CONTRACT


def test_metadata_says_what_true_means() -> None:
    masks = json.loads(CONTRACT.to_metadata()["self2self.masks"])
    assert {mask["polarity"] for mask in masks} == {"true_keeps"}


def test_a_foreign_model_is_refused() -> None:
    with pytest.raises(FileFormatError, match=r"^m\.onnx: is not a self2self model .* self2self export$") as caught:
        Contract.from_metadata({"author": "me"}, "m.onnx")
    assert caught.value.exit_code == 6


def test_a_later_schema_is_refused_with_its_number() -> None:
    metadata = {**CONTRACT.to_metadata(), "self2self.schema_version": "99"}
    with pytest.raises(FileFormatError, match=r"^m\.onnx: has model schema 99; this self2self reads schema 1\."):
        Contract.from_metadata(metadata, "m.onnx")


KEYS = sorted(CONTRACT.to_metadata().keys() - {"self2self.schema_version"})


LATER_KEYS = {
    f"self2self.{name}"
    for name in ("image_range", "whole_range", "nodata", "mosaic", "neighbours", "noisy_share", "removes_impulses")
}


@pytest.mark.parametrize("key", sorted(set(KEYS) - LATER_KEYS))
def test_the_message_names_a_missing_key(key: str) -> None:
    metadata = CONTRACT.to_metadata()
    del metadata[key]
    with pytest.raises(
        FileFormatError, match=rf"^m\.onnx: its self2self metadata is damaged \('{key}'\)\. Export it again"
    ):
        Contract.from_metadata(metadata, "m.onnx")


def test_files_of_earlier_versions_without_range_and_share_can_be_read() -> None:
    metadata = {key: value for key, value in CONTRACT.to_metadata().items() if key not in LATER_KEYS}
    assert Contract.from_metadata(metadata, "m.onnx") == replace(
        CONTRACT, image_range=None, whole_range=True, noisy_share=0.0
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_range", "[1]"),
        ("image_range", "[2, 1]"),
        ("image_range", "[0, NaN]"),
        ("image_range", "255"),
        ("neighbours", "-1"),
        ("neighbours", "true"),
        ("image_range", '"12"'),
        ("whole_range", "1"),
        ("whole_range", "null"),
        ("noisy_share", "1.5"),
        ("noisy_share", "-0.1"),
        ("noisy_share", "NaN"),
        ("noisy_share", "true"),
        ("noisy_share", '"0.5"'),
        ("channels", "three"),
        ("channels", "0"),
        ("channels", "Infinity"),
        ("channels", "null"),
        ("size_multiple", "0"),
        ("size_multiple", "7"),
        ("size_multiple", "16"),
        ("size_multiple", "-32"),
        ("minimum_size", "-1"),
        ("minimum_size", "32"),
        ("keep_levels", "0"),
        ("keep_levels", "255"),
        ("keep_levels", '"256"'),
        ("value_range", "[0, 255]"),
        ("value_range", "1"),
        ("masks", ""),
        ("masks", "[]"),
        ("masks", "{}"),
        ("masks", '["input_mask"]'),
        ("masks", "[" * 100_000),
        ("masks", '[{"name": "input_mask", "dims": [3, "H", "W"]}]'),
        ("masks", '[{"name": "input_mask", "dims": [3, "H", "W"], "keep_count": 0}]'),
        ("masks", '[{"name": "input_mask", "dims": [3, "H", "W"], "keep_count": 257}]'),
        ("masks", '[{"name": "input_mask", "dims": [0, "H", "W"], "keep_count": 9}]'),
        ("masks", '[{"name": "input_mask", "dims": [3, "H/0", "W"], "keep_count": 9}]'),
        ("masks", '[{"name": "input_mask", "dims": [3, "H*2", "W"], "keep_count": 9}]'),
        ("masks", '[{"name": "input_mask", "dims": [3, "__import__(os)", "W"], "keep_count": 9}]'),
        ("masks", '[{"name": "input_mask", "dims": 5, "keep_count": 9}]'),
        ("masks", '[{"name": "input_mask", "dims": [3, "H", "W"], "keep_count": 9}]'),
        ("masks", '[{"name": "input_mask", "dims": [3, "H", "W"], "keep_count": 9, "polarity": "true_drops"}]'),
    ],
)  # fmt: skip
def test_damaged_values_are_a_file_format_error(key: str, value: str) -> None:
    metadata = {**CONTRACT.to_metadata(), METADATA_PREFIX + key: value}
    with pytest.raises(FileFormatError, match=r"^m\.onnx: its self2self metadata is damaged \("):
        Contract.from_metadata(metadata, "m.onnx")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(KEYS), JSON.map(json.dumps) | st.text(max_size=10))
def test_no_damage_escapes_as_another_exception(key: str, value: str) -> None:
    try:
        Contract.from_metadata({**CONTRACT.to_metadata(), key: value}, "m.onnx")
    except FileFormatError as error:
        assert "\n" not in str(error)


def test_contract_is_a_value() -> None:
    assert replace(CONTRACT) == CONTRACT
    assert hash(replace(CONTRACT)) == hash(CONTRACT)
    assert replace(CONTRACT, seed=1) != CONTRACT
