"""Estimates the memory of a pass, and how many passes fit.

Hosts, devices and TensorRT's profiles all use this one estimate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from self2self.machine.system import free_memory_bytes
from self2self.model.contract import Contract

BYTES_PER_MASK_ELEMENT = 12
"""Peak memory of a run for each mask element, the mask itself included, rounded up.

Measured as the growth of the resident set from 128x128 with eight passes to 512x512 with one: ONNX Runtime takes 9.4
to 10.6 bytes and PyTorch 8 to 14, for the wide and the narrow decoder. Nearly all activations of the network have
masks; only a very narrow network needs more (PyTorch 18). MNN takes 10.5, 12 and 16 bytes at 128x128, for the wide, the
narrow and a very narrow decoder. An engine that holds only a part of a large image at a time overrides
`Engine.pass_bytes`. The figure was not measured on a GPU, where masks and float32 activations have the same sizes.
"""
HOST_SHARE = 0.25
"""Share of the host's free memory that a batch may take; larger batches gain little on a CPU."""
DEVICE_SHARE = 0.5
"""Share of a device's memory that a batch may take."""


def pass_bytes(contract: Contract, axes: Mapping[str, int], per_element: float = BYTES_PER_MASK_ELEMENT) -> int:
    """Estimate the memory of one pass, in bytes.

    Args:
        contract: lists the masks of a pass.
        axes: lengths of the data's axes, for example ``{"H": 64, "W": 96}``.
        per_element: bytes for each mask element.
    """
    return int(per_element * sum(math.prod(mask.shape(axes)) for mask in contract.masks))


def fitting_passes(one_pass: int, room: float) -> int:
    """The largest number of passes, `one_pass` bytes each, that fit into `room` bytes; at least 1."""
    return max(1, int(room / one_pass))


def largest_host_batch(one_pass: int, further_pass: int, room: int) -> int:
    """The largest batch that fits into `HOST_SHARE` of the free memory and into `room`; at least 1.

    Args:
        one_pass: bytes of a batch of one pass.
        further_pass: bytes of each further pass of the batch.
        room: bytes that the batch may take.
    """
    return fitting_passes(further_pass, min(HOST_SHARE * free_memory_bytes(), room) - one_pass + further_pass)
