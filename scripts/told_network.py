"""The network whose biases follow a noise level that it is told, and the files of its weights.

Beside weight and bias every convolution has a slope, of the bias's shape. At level L its bias is bias + L * slope. For
one level, bias and slope fold into an ordinary bias (`self2self.train.start_weights`). In training every sample has a
level of its own, and so a bias of its own.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from self2self.model.network import Self2SelfNet
from self2self.train.fused_forward import FusedTrainingForward
from self2self.train.start_weights import SLOPE


def add_slopes(network: Self2SelfNet) -> None:
    """Give every convolution a slope, a parameter that starts from zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_parameter(SLOPE, nn.Parameter(torch.zeros_like(module.bias)))


class ToldForward(FusedTrainingForward):
    """The forward pass of a network with slopes, for samples of known noise level.

    Args:
        network: gives the parameters, and gets their gradients.
        levels: float32 [N], the noise level of each sample, in `GREY_LEVELS_PER_UNIT`.
        dtype: type of activations and products: float32 or bfloat16.
    """

    def __init__(self, network: Self2SelfNet, levels: Tensor, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(network, dtype)
        self._levels = levels[:, None]

    def parameters_of(self, convolution: nn.Module) -> tuple[Tensor, Tensor]:
        """The weight, and the bias [N, outputs] of each sample."""
        return convolution.weight, convolution.bias + self._levels * convolution.slope


def load_weights(path: Path, network: Self2SelfNet) -> None:
    """Load start weights of any float type; slopes that the file lacks stay as they are.

    Raises:
        SystemExit: they are not the weights of such a network.
    """
    own = network.state_dict()
    stored = {name: tensor.float() for name, tensor in load_file(path).items()}
    weights = own | stored
    if {name: tensor.shape for name, tensor in weights.items()} != {name: tensor.shape for name, tensor in own.items()}:
        raise SystemExit(f"{path}: holds other weights than those of this network for three channels")
    missing = [name for name in own.keys() - stored.keys() if not name.endswith(SLOPE)]
    if missing:
        raise SystemExit(f"{path}: lacks {min(missing)}")
    network.load_state_dict(weights)


def save_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write weights as float16, which halves the file and changes no prediction visibly; biases and slopes float32."""
    types = {name: torch.float16 if name.endswith("weight") else torch.float32 for name in tensors}
    write_tensors(path, {name: tensor.to(types[name]) for name, tensor in tensors.items()})


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a .safetensors file, which is there as a whole or not at all."""
    temporary = path.with_suffix(".part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    temporary.replace(path)
