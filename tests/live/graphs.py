"""Live models that are written without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from self2self.live.contract import Kind, LiveContract, LiveInput, LiveMask, LiveOutput

WEIGHTS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
KEEP = 0.75


def contract(kind: Kind = "value", *, separable: bool = True) -> LiveContract:
    """Of ``output = (tanh(x) * mask / KEEP) @ WEIGHTS`` and ``features = tanh(x)``."""
    mask = LiveMask("mask", "drop", "dropout", "mask", round(KEEP * 65536), ("batch", 4), batched=True)
    outputs = (LiveOutput("output", kind, True), LiveOutput("features", "value", True))
    inputs = (LiveInput("x", "float32", ("batch", 4)),)
    return LiveContract(inputs, outputs, (mask,), {"batch": ("x", 0)}, "batch", separable)


def graph() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Tanh", ["x"], ["features"]),
        helper.make_node("Cast", ["mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["kept", "keep"], ["scaled"]),
        helper.make_node("Mul", ["features", "scaled"], ["dropped"]),
        helper.make_node("MatMul", ["dropped", "weights"], ["output"]),
    ]
    made = helper.make_graph(
        nodes,
        "live",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("mask", TensorProto.BOOL, ["batch", 4]),
        ],
        [
            helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 4]),
        ],
        [numpy_helper.from_array(WEIGHTS, "weights"), numpy_helper.from_array(np.float32(KEEP), "keep")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def write(path: Path, described: Any = None, model: Any = None) -> Path:
    model = graph() if model is None else model
    helper.set_model_props(model, (described or contract()).to_metadata())
    path.write_bytes(model.SerializeToString())
    return path


def outputs(x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The output in NumPy, float64."""
    return (np.tanh(x.astype(np.float64)) * mask / KEEP) @ WEIGHTS.astype(np.float64)
