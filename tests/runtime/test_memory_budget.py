"""Checks the number of passes that fit into memory, for hosts, devices and engines that are built ahead."""

from __future__ import annotations

import numpy as np
import pytest

from self2self.model.contract import Contract
from self2self.runtime import memory_budget as budget
from self2self.runtime.engines.profiles import BATCHES, profile_for
from self2self.runtime.ensemble.device_engine import largest_device_batch
from tests.conftest import Fitted

AXES = {"H": 64, "W": 96}


def test_a_pass_takes_memory_for_every_element_of_its_masks(tiny: Fitted) -> None:
    elements = sum(int(np.prod(mask.shape(AXES))) for mask in tiny.contract.masks)
    assert budget.pass_bytes(tiny.contract, AXES) == 12 * elements


@pytest.mark.parametrize(("share", "passes"), [(0, 1), (0.9, 1), (5.5, 5), (6.01, 6)])
def test_passes_that_fit(tiny: Fitted, share: float, passes: int) -> None:
    one_pass = budget.pass_bytes(tiny.contract, AXES)
    assert budget.fitting_passes(one_pass, share * one_pass) == passes


def test_the_largest_batch_follows_the_free_memory_and_the_room(monkeypatch: pytest.MonkeyPatch, tiny: Fitted) -> None:
    def batch_with(free_bytes: int, length: int, room: int = 10**15) -> int:
        monkeypatch.setattr(budget, "free_memory_bytes", lambda: free_bytes)
        one_pass = budget.pass_bytes(contract, {"H": length, "W": length})
        return budget.largest_host_batch(one_pass, one_pass, room)

    contract = tiny.contract
    assert batch_with(0, 64) == 1
    one_pass = budget.pass_bytes(contract, {"H": 64, "W": 64})
    free = round(5.5 * one_pass / budget.HOST_SHARE)
    assert batch_with(free, 64) == 5
    assert batch_with(free, 128) == 1
    assert batch_with(free, 64, room=round(3.5 * one_pass)) == 3
    assert batch_with(free, 64, room=-1) == 1
    assert budget.largest_host_batch(5 * one_pass, one_pass, round(7.5 * one_pass)) == 1, "5.5 passes are free"
    assert budget.largest_host_batch(3 * one_pass, one_pass, round(7.5 * one_pass)) == 3


def test_devices_and_engines_built_ahead_count_in_the_same_way(tiny: Fitted) -> None:
    contract: Contract = tiny.contract
    memory = round(4.5 * budget.pass_bytes(contract, AXES) / budget.DEVICE_SHARE)
    assert largest_device_batch(contract, AXES, memory) == 4
    assert profile_for(contract, (64, 96), memory).batches == (1, 4, 4)
    assert largest_device_batch(contract, AXES, 10**15) == BATCHES[2]
