"""The engine `torch`: PyTorch on the CPU, the reference, and for machines where no faster engine works.

It runs the network definition of the fit (`model.network`) with the weights of the model file. So it needs nothing
but that file, as every engine.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from self2self.errors import EngineUnavailableError, FileFormatError, Obstacle, first_line, pytorch_memory, typed
from self2self.model.layers import CONVOLUTIONS, widths_of
from self2self.model.masks import BoolArray
from self2self.model.plain import with_mask_channels
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.engines.registry import is_installed
from self2self.runtime.model import Model

if TYPE_CHECKING:
    import onnx

    from self2self.model.network import Self2SelfNet


class TorchEngine(Engine):
    """Eager PyTorch on the CPU."""

    name = "torch"
    runs_plain = True
    copy_seconds: float = 0.0
    _network: Any = None
    _image: Any = None

    @classmethod
    def version(cls) -> str:
        """PyTorch's version."""
        if not is_installed("torch"):
            raise EngineUnavailableError.of(
                cls.name,
                Obstacle.NOT_INSTALLED,
                "PyTorch is not installed",
                "Install it: pip install torch.",
            )
        try:
            import torch
        except (ImportError, OSError) as error:
            raise EngineUnavailableError.of(
                cls.name,
                Obstacle.DOES_NOT_LOAD,
                f"PyTorch does not load ({first_line(error)})",
                "Install it again: pip install --force-reinstall torch.",
            ) from error
        return f"PyTorch {torch.__version__}"

    def prepare(self) -> None:
        """Make the network from the weights of the graph's convolutions."""
        import torch

        self._network = network_of(self.model)
        self._network.to(memory_format=torch.channels_last)
        self._use_image()

    def _use_image(self) -> None:
        import torch

        if self._network is not None:
            self._image = torch.from_numpy(self.image).contiguous(memory_format=torch.channels_last)

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        """As `Engine.run`: one forward pass of the whole batch; the result is a new array."""
        import torch

        ordered = (torch.from_numpy(masks[spec.name]) for spec in self.model.contract.mask_inputs)
        with pytorch_memory(), torch.inference_mode():
            output = self._network(self._image, *ordered)
            start = time.perf_counter()
            predictions: FloatArray = output.contiguous().numpy()
            self.copy_seconds += time.perf_counter() - start
        return predictions

    def provider(self) -> str:
        """Always the CPU."""
        return "PyTorch CPU"

    def close(self) -> None:
        """Free the network."""
        self._network = self._image = None


def network_of(model: Model) -> Self2SelfNet:
    """The exported network with its weights, in float32, in evaluation mode, on the CPU.

    Raises:
        FileFormatError: the file does not contain the network's weights.
    """
    import torch

    from self2self.model.network import Self2SelfNet

    contract = model.contract
    try:
        arrays = _state_dict_of(model.engine_proto().graph)
        if contract.plain:
            arrays = with_mask_channels(arrays)
        widths = widths_of({name: array.shape for name, array in arrays.items()})
        network = Self2SelfNet(contract.channels, *widths, contract.masks[-1].keep_probability)
        network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise FileFormatError(
            f"{model.path}: does not carry the network's weights ({first_line(error)}). "
            f"Use {typed('--engine ort')}, or export it again: self2self export --force"
        ) from error
    return network.eval()


def _state_dict_of(graph: onnx.GraphProto) -> dict[str, NDArray[np.float32]]:
    """The network's ``state_dict``, read from the convolutions of `graph` in their order.

    The names of initialisers do not identify the weights. An exporter may merge equal weights, such as the zero biases
    of a new network, leave out a bias of zeros, or rename the weights that it converts.

    Raises:
        ValueError: the graph has another number of convolutions.
        KeyError: a weight is not an initialiser.
    """
    from onnx import numpy_helper

    arrays = {entry.name: entry for entry in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    if len(convolutions) != len(CONVOLUTIONS):
        raise ValueError(f"{len(convolutions)} convolutions; expected {len(CONVOLUTIONS)}")
    weights = {}
    for layer, node in zip(CONVOLUTIONS, convolutions, strict=True):
        weight, *bias = (numpy_helper.to_array(arrays[name]).astype(np.float32) for name in node.input[1:])
        weights[f"{layer}.weight"] = weight
        weights[f"{layer}.bias"] = bias[0] if bias else np.zeros(len(weight), np.float32)
    return weights
