"""Traces the network with `torch.onnx`; the graph of `self2self.model.graph` has to equal the result."""

from __future__ import annotations

import warnings
from typing import Any

import onnx
import torch

from self2self.export.to_onnx import dtype_of, host_copy
from self2self.model.contract import PREDICTION, Contract
from self2self.model.graph import OPSET_VERSION
from self2self.model.network import Self2SelfNet


class InPrecision(torch.nn.Module):
    """The network, computing in `dtype`, with float32 inputs and outputs."""

    def __init__(self, twin: Self2SelfNet, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = twin.to(dtype)
        self.dtype = dtype

    def forward(self, image: torch.Tensor, *masks: torch.Tensor) -> torch.Tensor:
        prediction: torch.Tensor = self.network(image.to(self.dtype), *masks)
        return prediction.float()


def traced(network: Self2SelfNet, contract: Contract) -> onnx.ModelProto:
    twin = host_copy(network)
    # The exporter would merge equal weights.
    drawn = torch.Generator().manual_seed(0)
    for weight in twin.parameters():
        weight.normal_(generator=drawn)
    axes = {"H": 64, "W": 96}
    inputs = [torch.zeros(1, contract.channels, 64, 96)]
    inputs += [torch.ones(2, *spec.shape(axes), dtype=torch.bool) for spec in contract.masks]
    dtype = dtype_of(contract.precision)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            twin if dtype == torch.float32 else InPrecision(twin, dtype).eval(),
            tuple(inputs),
            dynamo=True,
            opset_version=OPSET_VERSION,
            input_names=contract.input_names(),
            output_names=[PREDICTION],
            external_data=False,
            verbose=False,
        )
    model: onnx.ModelProto = program.model_proto
    return model
