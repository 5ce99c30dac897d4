"""How many passes fit into memory: one estimate of what a pass takes, for hosts, devices and engines built ahead."""

from __future__ import annotations

import math
from collections.abc import Mapping

from self2self.machine.system import free_memory_bytes
from self2self.model.contract import Contract

BYTES_PER_MASK_ELEMENT = 12
"""Peak memory of a run for each mask element, the mask itself included, rounded up.

Measured as the growth of the resident set from 128x128 with eight passes to 512x512 with one:
ONNX Runtime 9.4 to 10.6 and PyTorch 8 to 14 for the wide and the narrow decoder. Nearly all of the
network's activations have masks; only a very narrow network needs more (PyTorch 18). MNN takes 10.5, 12 and
16 at 128x128, for the wide, the narrow and a very narrow one; an engine that holds less of a large image at
once says so (`Engine.pass_bytes`). Not measured on a GPU, where masks and float32 activations are the same.
"""
HOST_SHARE = 0.25
"""How much of the host's free memory a batch may take; more passes a run gain little on a CPU."""
DEVICE_SHARE = 0.5
"""How much of a device's memory a batch may take."""


def pass_bytes(contract: Contract, axes: Mapping[str, int], per_element: float = BYTES_PER_MASK_ELEMENT) -> int:
    """Memory of one pass over data of `axes`, for example ``{"H": 64, "W": 96}``.

    Args:
        contract: says which masks a pass has.
        axes: of the data.
        per_element: bytes for each mask element.
    """
    return int(per_element * sum(math.prod(mask.shape(axes)) for mask in contract.masks))


def fitting_passes(one_pass: int, room: float) -> int:
    """The most passes of `one_pass` bytes at a time that fit into `room` bytes, and at least 1."""
    return max(1, int(room / one_pass))


def largest_host_batch(one_pass: int, further_pass: int, room: int) -> int:
    """The most passes at a time that fit into `HOST_SHARE` of the free memory and into `room`, and at least 1.

    Args:
        one_pass: bytes of one pass alone.
        further_pass: bytes of each further one.
        room: bytes.
    """
    return fitting_passes(further_pass, min(HOST_SHARE * free_memory_bytes(), room) - one_pass + further_pass)
