"""Packages for BioImage.IO."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from self2self.export.bioimageio import export_bioimageio
from tests.conftest import Fitted
from tests.export.test_dtmodel import plain_of

MakeFitted = Callable[..., Fitted]
RANGE = (100.0, 900.0)


@pytest.fixture
def package(make_fitted: MakeFitted, tmp_path: Path) -> Path:
    plain, path = plain_of(make_fitted(2)), tmp_path / "cells.bioimageio.zip"
    export_bioimageio(plain.network, replace(plain.contract, image_range=RANGE), path, "cells")
    return path


def test_the_description_leads_from_stored_values_to_denoised_stored_values(package: Path) -> None:
    with zipfile.ZipFile(package) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    description = json.loads(files["rdf.yaml"])
    weights = description["weights"]["onnx"]
    assert hashlib.sha256(files[weights["source"]]).hexdigest() == weights["sha256"]
    (source,), (target,) = description["inputs"], description["outputs"]
    stored = np.load(io.BytesIO(files[source["test_tensor"]["source"]]))
    assert RANGE[0] <= stored.min() < stored.max() <= RANGE[1]

    values = stored
    for step in source["preprocessing"]:
        if step["id"] == "scale_linear":
            values = values * step["kwargs"]["gain"] + step["kwargs"]["offset"]
        elif step["id"] == "clip":
            values = values.clip(step["kwargs"]["min"], step["kwargs"]["max"])
    session = ort.InferenceSession(files["model.onnx"], providers=["CPUExecutionProvider"])
    (denoised,) = session.run([target["id"]], {source["id"]: values.astype(np.float32)})
    (back,) = target["postprocessing"]
    expected = np.load(io.BytesIO(files[target["test_tensor"]["source"]]))
    np.testing.assert_allclose(denoised * back["kwargs"]["gain"] + back["kwargs"]["offset"], expected, atol=0.01)


@pytest.mark.slow
def test_bioimageio_core_accepts_the_package(package: Path) -> None:
    core = pytest.importorskip("bioimageio.core", reason="needs bioimageio.core: pip install bioimageio.core")
    summary = core.test_model(package)
    assert summary.status == "passed", summary.format()
