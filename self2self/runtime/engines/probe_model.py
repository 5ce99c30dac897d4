"""Makes a tiny model to try engines on: the graph of an export with a few random weights.

PyTorch may be missing on a machine that only runs models, so the model is made without it. The reference implementation
of the onnx package, in plain numpy, computes the expected predictions: no engine is compared with another engine. For a
user's own model it would take minutes, so there PyTorch is the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from self2self.model.contract import IMAGE, PREDICTION, Contract, mask_specs
from self2self.model.graph import IR_VERSION, OPSET_VERSION, network_graph
from self2self.model.layers import network_layers
from self2self.model.masks import BoolArray, MaskMaker
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.model import load_model

if TYPE_CHECKING:
    import onnx

CHANNELS, ENCODER, DECODER = 1, 2, (4, 4, 4, 2, 2)
SIZE, PASSES, SEED, DROP_RATE = 64, 2, 0, 0.4


@dataclass(frozen=True, slots=True)
class Case:
    """A model, inputs for it, and the predictions that an engine has to compute.

    Attributes:
        model: the ONNX file.
        image: float32 [1, C, H, W].
        masks: the masks of `PASSES` passes, bool, by name.
        expected: predictions, float32 [N, C, H, W].
    """

    model: bytes
    image: FloatArray
    masks: dict[str, BoolArray]
    expected: FloatArray


def make_case() -> Case:
    """The tiny model with an image, masks and the expected predictions."""
    from onnx.reference import ReferenceEvaluator

    model = build_probe()
    random = np.random.default_rng(SEED)
    image: FloatArray = random.random((1, CHANNELS, SIZE, SIZE), dtype=np.float32)
    maker = MaskMaker(probe_contract().masks, {"H": SIZE, "W": SIZE}, SEED)
    masks = maker.make(0, PASSES)
    inputs: dict[str, Any] = {IMAGE: image, **masks}
    expected: Any = ReferenceEvaluator(model).run([PREDICTION], inputs)
    return Case(model.SerializeToString(), image, masks, np.asarray(expected[0], np.float32))


def case_of(path: Path) -> Case:
    """The exported model at `path` with a noise image, masks, and PyTorch's predictions in float32.

    Raises:
        InputError, FileFormatError: the model cannot be loaded.
        EngineUnavailableError: PyTorch does not work here.
    """
    from self2self.runtime.engines.torch_cpu.reference import TorchEngine

    model = load_model(path)
    height, width = model.size or (model.contract.minimum_size,) * 2
    image = np.random.default_rng(SEED).random((1, model.contract.channels, height, width), dtype=np.float32)
    masks = MaskMaker(model.contract.masks, {"H": height, "W": width}, SEED).make(0, PASSES)
    with TorchEngine(model, image) as reference:
        return Case(path.read_bytes(), image, masks, reference.run(masks))


def probe_contract() -> Contract:
    """The contract of the tiny model."""
    return Contract(CHANNELS, mask_specs(CHANNELS, ENCODER, DECODER, DROP_RATE, DROP_RATE), recipe="fast")


def build_probe() -> onnx.ModelProto:
    """The tiny model, with free batch and size."""
    from onnx import TensorProto, helper, numpy_helper

    contract = probe_contract()
    layers = network_layers(CHANNELS, ENCODER, DECODER)
    graph = network_graph(contract, layers, TensorProto.FLOAT)
    random = np.random.default_rng(SEED)
    for name, shape in (entry for layer in layers for entry in layer.weights.items()):
        if name.endswith(".weight"):
            # This spread keeps the size of the activations.
            array = random.normal(0, np.sqrt(2 / (9 * shape[1])), shape)
        else:
            array = random.uniform(-0.2, 0.2, shape)
        graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET_VERSION)], ir_version=IR_VERSION)
    helper.set_model_props(model, contract.to_metadata())
    return model
