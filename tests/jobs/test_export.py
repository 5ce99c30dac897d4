"""The profile that `export --engine` requests, and the ONNX file that it makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from self2self.jobs import EngineOptions, engine_job, export_job
from self2self.jobs import export as exporting
from self2self.jobs.observer import Observer
from self2self.runtime.engines.profiles import Profile
from self2self.runtime.engines.tensorrt import cache as engine_cache
from self2self.runtime.model import Model, load_model
from self2self.train.run_folder import Run
from tests.runtime.fakes import fake_model


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_engine_exports_the_model_that_it_needs(work: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    run = Run(next(work.glob("runs/*")))
    run.onnx_path.unlink()
    used: list[Path] = []
    notes: list[str] = []
    monkeypatch.setattr(engine_cache, "request_for", lambda library, path, *rest, **options: used.append(path))
    monkeypatch.setattr(engine_cache, "load_or_build", lambda request, *rest, **options: request)
    # After two steps, a model in half precision would be refused.
    monkeypatch.setattr(exporting, "precision_job", lambda run, name: export_job(run, run.onnx_path_for(name)))
    for _ in range(2):
        engine_job(run, EngineOptions("trt", precision=precision), observer=Observer(note=notes.append))
    path = run.onnx_path_for(precision)
    assert load_model(path).path == path
    assert used == [path, path]
    assert notes == [f"{path}: is exported first."]


def test_an_engine_is_built_for_the_size_that_the_model_pads_to(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fake_model()
    requested: list[Profile] = []

    def engine_for(contract: dict[str, int]) -> Profile:
        made = Model(model.path, replace(model.contract, **contract))
        monkeypatch.setattr(exporting, "load_model", lambda path: made)
        engine_job(run, EngineOptions("trt"), observer=Observer())
        return requested.pop()

    def request_for(library: Any, path: Any, contract: Any, profile: Profile, **options: Any) -> None:
        requested.append(profile)

    run = cast(Run, SimpleNamespace(config=lambda: None))
    monkeypatch.setattr(exporting, "_made_or_exported_path", lambda run, precision, observer: model.path)
    monkeypatch.setattr(exporting, "read_fitted_image", lambda config: SimpleNamespace(pixels=np.zeros((3, 70, 130))))
    monkeypatch.setattr(engine_cache, "request_for", request_for)
    monkeypatch.setattr(engine_cache, "load_or_build", lambda request, *rest, **options: request)
    assert engine_for({}).optimum == (96, 160)
    assert engine_for({"size_multiple": 48, "minimum_size": 96}).optimum == (96, 144)
