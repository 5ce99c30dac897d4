"""Fixtures that several test files share: a small but complete network, and a folder with a fitted run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from self2self.errors import as_option, speaking
from self2self.model.contract import Contract, mask_specs, quantise_keep

if TYPE_CHECKING:
    from self2self.model.network import Self2SelfNet

# Set before torch is loaded: on tensors this small, threads spend most of the time waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Some tests import ONNX Runtime themselves; self2self switches its telemetry off.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Runs that nobody named go to ./runs of each test, not to the cache folder of whoever runs the tests.
os.environ["SELF2SELF_CACHE"] = "."

# No deadlines: the speed of the machine says nothing about the tested code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

TINY_ENCODER = 4
TINY_DECODER = (6, 6, 6, 4, 4)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow tests first, so that processes that share the tests end together."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def messages_of_the_command_line() -> Iterator[None]:
    """Messages that the tests quote name options as the command line does; `tests/test_errors.py` has other words."""
    with speaking(as_option):
        yield


@dataclass(frozen=True)
class Fitted:
    """A network and the contract that describes it."""

    network: Self2SelfNet
    contract: Contract


MakeFitted = Callable[..., Fitted]


def build_fitted(
    channels: int = 3,
    encoder_width: int = TINY_ENCODER,
    decoder_widths: tuple[int, ...] = TINY_DECODER,
    drop_rate: float = 0.4,
    seed: int = 0,
) -> Fitted:
    """Build the network and contract of the fixture `make_fitted`; also for scripts in another process."""
    import torch

    from self2self.model.network import Self2SelfNet, initialise

    network = Self2SelfNet(channels, encoder_width, decoder_widths, quantise_keep(drop_rate) / 256)
    initialise(network, "kaiming", torch.Generator().manual_seed(seed))
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # Zero biases would hide a bias that is left out or added twice.
        for name, weight in network.named_parameters():
            if name.endswith("bias"):
                weight.uniform_(-0.2, 0.2, generator=source)
    specs = mask_specs(channels, encoder_width, decoder_widths, drop_rate, drop_rate)
    contract = Contract(
        channels, specs, recipe="fast", seed=seed, steps=7, image_sha256="ab" * 32, image_range=(3.0, 250.0)
    )
    return Fitted(network, contract)


@pytest.fixture(scope="session")
def make_fitted() -> MakeFitted:
    """A function that makes a network with random weights and its contract; tiny and RGB by default."""
    return build_fitted


@pytest.fixture(scope="session")
def tiny() -> Fitted:
    """The tiny RGB network; tests must not change it."""
    return build_fitted()


@pytest.fixture(scope="session")
def tiny_onnx(tiny: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny` as an ONNX file with dynamic batch and size; tests must not change it."""
    from self2self.export.to_onnx import to_onnx

    path = tmp_path_factory.mktemp("export") / "tiny.onnx"
    to_onnx(tiny.network, tiny.contract, path)
    return path


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image and a fitted and exported run; tests use copies of it (`work`)."""
    from tests.commands import FAST, run_cli, write_noisy

    folder = tmp_path_factory.mktemp("template")
    write_noisy(folder / "noisy.png")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for command in (["fit", "noisy.png", *FAST], ["export"]):
            run_cli(*command)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def work(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `template`, as the current folder."""
    shutil.copytree(template, tmp_path / "work")
    config = next((tmp_path / "work").glob("runs/*/config.json"))
    config.write_text(config.read_text().replace(str(template), str(tmp_path / "work")))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"
