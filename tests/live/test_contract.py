from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from self2self.errors import FileFormatError
from self2self.live.contract import LiveContract
from self2self.model.contract import Contract, MaskSpec
from tests.live.graphs import contract


def changed(key: str, change: Any) -> dict[str, str]:
    metadata = contract().to_metadata()
    value = json.loads(metadata[f"self2self.{key}"])
    return {**metadata, f"self2self.{key}": json.dumps(change(value))}


def test_what_is_written_is_read() -> None:
    for written in (contract(), contract("logits"), replace(contract(), separable=False)):
        assert LiveContract.from_metadata(written.to_metadata(), "m.onnx") == written


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("masks", lambda masks: []),
        ("masks", lambda masks: [{**masks[0], "keep_count": 65536}]),
        ("masks", lambda masks: [{**masks[0], "keep_count": None}]),
        ("masks", lambda masks: [{**masks[0], "draw": "cauchy"}]),
        ("masks", lambda masks: [{**masks[0], "dims": ["batch*__import__('os')", 4]}]),
        ("masks", lambda masks: [{**masks[0], "dims": [-1]}]),
        ("masks", lambda masks: [{**masks[0], "name": "x"}]),
        ("masks", lambda masks: masks * 2),
        ("masks", lambda masks: [{"name": "mask"}]),
        ("masks", lambda masks: 3),
        ("axes", lambda axes: {"batch": ["x", 1]}),
        ("axes", lambda axes: {"batch": ["y", 0]}),
        ("axes", lambda axes: {}),
        ("batch", lambda batch: "height"),
        ("batch", lambda batch: None),
        ("inputs", lambda inputs: [{**inputs[0], "dtype": "object"}]),
        ("inputs", lambda inputs: [{**inputs[0], "dims": ["batch", "free"]}]),
        ("outputs", lambda outputs: [{**outputs[0], "kind": "picture"}]),
        ("separable", lambda separable: 1),
        ("keep_levels", lambda levels: 256),
    ],
)
def test_damaged_metadata_are_refused(key: str, change: Any) -> None:
    with pytest.raises(FileFormatError, match=r"m\.onnx: its self2self metadata is damaged"):
        LiveContract.from_metadata(changed(key, change), "m.onnx")


def test_other_files_are_told_what_they_are() -> None:
    denoiser = Contract(1, (MaskSpec("input_mask", (1, "H", "W"), 200),)).to_metadata()
    with pytest.raises(FileFormatError, match=r"is a denoiser.*self2self infer m\.onnx"):
        LiveContract.from_metadata(denoiser, "m.onnx")
    with pytest.raises(FileFormatError, match="no self2self metadata"):
        LiveContract.from_metadata({}, "m.onnx")
    with pytest.raises(FileFormatError, match="schema 3; this self2self reads schema 2"):
        LiveContract.from_metadata({**contract().to_metadata(), "self2self.schema_version": "3"}, "m.onnx")
    with pytest.raises(FileFormatError, match=r"no denoiser.*self2self predict m\.onnx"):
        Contract.from_metadata(contract().to_metadata(), "m.onnx")
