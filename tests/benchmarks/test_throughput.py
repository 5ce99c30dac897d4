"""The throughput benchmark itself, on a network that is too small to say anything about speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import measure, throughput
from self2self.runtime.engine import engine_statuses
from self2self.train.network import Self2SelfNet

TINY = "--size 64 --channels 1 --passes 3 --rounds 2 --encoder-width 4 --decoder-width 4"


def test_a_tiny_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "IDLE_SECONDS", 0.0)
    path = tmp_path / "result.json"
    monkeypatch.setattr("sys.argv", ["throughput.py", *TINY.split(), "-o", str(path)])
    throughput.main()
    text = path.read_text()
    result = json.loads(text)
    assert result["command"] == f"python -m benchmarks.throughput {TINY} -o result.json"
    assert str(tmp_path) not in text
    assert result["environment"]["cpus"] >= 1
    assert result["environment"]["versions"]["torch"] == torch.__version__
    (entry,) = result["sizes"]
    assert entry["size"] == 64
    assert entry["matrix_product_gflops"]["median"] > 0
    working = [status.name for status in engine_statuses() if status.works]
    assert list(entry["engines"]) == working
    for row in (entry["plain"], *entry["engines"].values()):
        rate = row["passes_per_second"]
        assert 0 < rate["min"] <= rate["p10"] <= rate["median"] <= rate["p90"] <= rate["max"]
        assert row["ms_per_pass"]["min"] == pytest.approx(1000 / rate["max"])
        assert row["share_of_matrix_product"] > 0
    for row in entry["engines"].values():
        assert row["batch"] in (1, 2, 3, 4, 8)
        assert row["prepare_seconds"] > 0
        assert 0 < row["mask_share"]["median"] < 1
        assert row["ratio_to_plain"]["min"] <= row["ratio_to_plain"]["median"] <= row["ratio_to_plain"]["max"]
        assert set(row["parts_ms_per_pass"]) == {"masks", "run", "reduce"}
    table = capsys.readouterr().out
    assert "64x64" in table
    assert all(f"\n{name} " in table for name in ("plain", *working))


@pytest.mark.parametrize("wrong", ["--size 100", "--size 32", "--passes 0", "--rounds 0"])
def test_wrong_options(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        throughput.main([*wrong.split(), "-o", "x.json"])
    assert caught.value.code == 2
    assert "expected" in capsys.readouterr().err


def test_spread() -> None:
    assert measure.spread([3.0, 1.0, 2.0]) == pytest.approx(
        {"median": 2.0, "p10": 1.2, "p90": 2.8, "min": 1.0, "max": 3.0}
    )


def test_operations_of_the_papers_network() -> None:
    """About 0.68 MFLOP a pixel."""
    network = Self2SelfNet(3).to("meta")
    image = torch.empty(1, 3, 64, 64, device="meta")
    shapes = [(96, 4), (96, 4), (144, 8), (96, 8), (144, 16), (96, 16), (144, 32), (96, 32), (144, 64), (96, 64)]
    masks = [torch.empty(1, width, side, side, dtype=torch.bool, device="meta") for width, side in shapes]
    gflop = measure.convolution_gflop(network, image, image, *masks)
    assert gflop == pytest.approx(0.68e-3 * 64 * 64, rel=0.02)
    assert not any(layer._forward_hooks for layer in network.modules())
