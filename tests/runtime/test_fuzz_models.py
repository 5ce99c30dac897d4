"""Mutated models: each is refused in one line, or loads as the same network; no traceback, in 10 s and 1 GB.

    FUZZ=5000 python -m pytest tests/runtime/test_fuzz_models.py    # the seed is FUZZ_SEED

Mutations are of bytes, of fields of the metadata, and of the graph. A case that once failed is kept in `tests/corpus/`.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from self2self.errors import FileFormatError
from self2self.model.graph import note_weights
from self2self.runtime.model import load_model
from tests import limited
from tests.limited import try_all

pytestmark = limited.needs_fork

SEED = int(os.environ.get("FUZZ_SEED", "0"))
CASES = int(os.environ.get("FUZZ", "1000"))
CORPUS = limited.CORPUS / "models"
Record = Callable[[str, object], None]

ABSURD = [0, 1, -1, 4, 6, 2**31, 2**63, 1e400, 0.5, None, True, "", "Q", "²", [], {}, [[[]]], "9" * 5000, float("nan")]
"""Values of a field of the metadata."""
OPERATORS = ["Mul", "Loop", "If", "Tile", "Identity", "Expand", "Convulsion", ""]


def flip_bytes(data: bytes, source: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(source.randint(1, 8)):
        changed[source.randrange(len(changed))] = source.randrange(256)
    return bytes(changed)


def cut(data: bytes, source: random.Random) -> bytes:
    first, last = sorted(source.randrange(len(data)) for _ in range(2))
    return source.choice([data[:last], data[first:], data[:first] + data[last:], data + data[first:last]])


def of_model(change: Callable[[onnx.ModelProto, random.Random], None]) -> Callable[[bytes, random.Random], bytes]:
    def mutate(data: bytes, source: random.Random) -> bytes:
        model = onnx.load_model_from_string(data)
        change(model, source)
        # An attacker also writes the digests.
        note_weights(model)
        mutated: bytes = model.SerializeToString()
        return mutated

    return mutate


def change_metadata(model: onnx.ModelProto, source: random.Random) -> None:
    entry = source.choice(model.metadata_props)
    value = json.loads(entry.value)
    if isinstance(value, list) and value and isinstance(value[0], dict) and source.random() < 0.8:
        mask = source.choice(value)
        key = source.choice(sorted(mask))
        if isinstance(mask[key], list) and source.random() < 0.8:
            mask[key][source.randrange(len(mask[key]))] = source.choice(ABSURD)
        else:
            mask[key] = source.choice(ABSURD)
    else:
        value = source.choice(ABSURD)
    entry.value = json.dumps(value)


def change_node(model: onnx.ModelProto, source: random.Random) -> None:
    nodes = model.graph.node
    node = source.choice(nodes)
    names = [name for other in nodes for name in other.output]
    match source.randrange(5):
        case 0:
            node.op_type = source.choice([name for name in OPERATORS if name != node.op_type])
        case 1:
            node.input[source.randrange(len(node.input))] = source.choice(names) + source.choice(["", "x"])
        case 2:
            nodes.insert(source.randrange(len(nodes)), node)
        case 3:
            nodes.remove(node)
        case 4:
            node.attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT, f=source.random())


def change_tensor(model: onnx.ModelProto, source: random.Random) -> None:
    tensor = source.choice(model.graph.initializer)
    match source.randrange(4):
        case 0:
            tensor.dims.append(source.choice([0, 2, -1, 2**62]))
        case 1:
            tensor.data_type = source.choice([kind for kind in range(24) if kind != tensor.data_type])
        case 2:
            tensor.external_data.add(key="location", value="../../secret")
        case 3:
            tensor.name += "x"


def change_value(model: onnx.ModelProto, source: random.Random) -> None:
    value = source.choice([*model.graph.input, *model.graph.output])
    shape = value.type.tensor_type.shape
    match source.randrange(3):
        case 0:
            value.type.tensor_type.elem_type = source.choice([0, 2, 8, 10, 99])
        case 1:
            # Of the image's axes, only the batch may already have this length.
            source.choice(shape.dim[1:]).dim_value = source.choice([7, 2**40, -5])
        case 2:
            shape.dim.add().dim_value = 3


MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bytes": flip_bytes,
    "cut": cut,
    "metadata": of_model(change_metadata),
    "node": of_model(change_node),
    "tensor": of_model(change_tensor),
    "value": of_model(change_value),
}
NEVER_THE_SAME = ("node", "tensor", "value")
"""Mutations after which no model is that of the exporter."""


def try_to_load(path: Path) -> bool:
    """Load a file that may be anything; false if it is refused in one line."""
    try:
        load_model(path)
    except FileFormatError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 2000
        return False
    return True


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_mutated_models(mutation: str, tiny_onnx: Path, tmp_path: Path, record_property: Record) -> None:
    data = tiny_onnx.read_bytes()

    def mutated(name: str) -> bytes:
        return MUTATIONS[mutation](data, random.Random(name))

    names = [f"{mutation} {SEED} {case}" for case in range(-(-CASES // len(MUTATIONS)))]
    tried = try_all(names, mutated, try_to_load, tmp_path / "mutated.onnx")
    tried.report(record_property, "models")
    if mutation in NEVER_THE_SAME:
        assert tried.accepted == 0


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.onnx")), ids=lambda path: path.name)
def test_what_once_failed(path: Path) -> None:
    try_to_load(path)
