"""Verification finds files that differ from PyTorch, and leaves no wrong file behind."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
import torch

from self2self.errors import FileFormatError, OutputError, VerificationError
from self2self.export import export_model
from self2self.export.verify import Verification, verify, verify_file

ROOT = Path(__file__).parents[2]
FIXED = (64, 128)
verify_module = importlib.import_module("self2self.export.verify")
to_onnx_module = importlib.import_module("self2self.export.to_onnx")


@pytest.fixture
def prepared_model(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """The model that `export_model` gets instead of building one, which takes seconds; tests may tamper with it."""
    model = onnx.load(tiny_onnx)
    monkeypatch.setattr(to_onnx_module, "build_model", lambda *_: model)
    return model


@pytest.fixture
def fixed(tiny, tiny_onnx: Path) -> onnx.ModelProto:
    """The tiny network with the fixed size `FIXED`; tests may tamper with it."""
    model = onnx.load(tiny_onnx)
    to_onnx_module._fix_size(model.graph, tiny.contract, FIXED)
    return model


def watched_shapes(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """A list to which the shapes of all predictions of PyTorch for a comparison are appended."""
    shapes: list[tuple[int, ...]] = []
    run = module._run_torch

    def noted(network: Any, inputs: dict[str, Any]) -> Any:
        predictions = run(network, inputs)
        shapes.append(predictions.shape)
        return predictions

    monkeypatch.setattr(module, "_run_torch", noted)
    return shapes


def check_file(model: onnx.ModelProto, tiny, folder: Path) -> Verification:
    path = folder / "fixed.onnx"
    onnx.save(model, path)
    return verify_file(tiny.network, tiny.contract, path, size=FIXED)


def tamper(model: onnx.ModelProto, amount: float) -> None:
    for entry in model.graph.initializer:
        if entry.name == "head.bias":
            array = onnx.numpy_helper.to_array(entry) + amount
            entry.CopyFrom(onnx.numpy_helper.from_array(array.astype("float32"), entry.name))


def test_an_unchanged_file_is_close_to_pytorch(tiny, tiny_onnx: Path) -> None:
    result = verify(tiny.network, tiny.contract, tiny_onnx)
    assert 0 <= result.rms_difference <= result.max_difference <= 1e-4
    assert result.seconds > 0


@pytest.mark.parametrize(("size", "batch", "seed"), [((96, 64), 1, 5), ((64, 128), 3, 2**40)])
def test_size_batch_and_seed_are_free(tiny, tiny_onnx: Path, size: tuple[int, int], batch: int, seed: int) -> None:
    assert verify(tiny.network, tiny.contract, tiny_onnx, size=size, batch=batch, seed=seed).max_difference <= 1e-4


def test_the_message_has_the_difference_and_the_tolerance(tiny, tiny_onnx: Path) -> None:
    with pytest.raises(
        VerificationError, match=r"differ from PyTorch's by .*; expected at most .*e-12\. .* self2self export"
    ):
        verify(tiny.network, tiny.contract, tiny_onnx, tolerance=1e-12)


def test_another_network_is_noticed(make_fitted, tiny, tiny_onnx: Path) -> None:
    with pytest.raises(VerificationError, match="differ from PyTorch"):
        verify(make_fitted(seed=1).network, tiny.contract, tiny_onnx)


def test_rounding_is_judged_by_the_size_of_the_predictions(
    make_fitted, prepared_model: onnx.ModelProto, tmp_path: Path
) -> None:
    # Predictions are as large after a few steps at a high drop rate; float32 has only seven digits.
    fitted = make_fitted()
    with torch.no_grad():
        fitted.network.head.weight *= 1e4
    for entry in prepared_model.graph.initializer:
        if entry.name == "head.weight":
            entry.CopyFrom(onnx.numpy_helper.from_array(fitted.network.head.weight.detach().numpy(), entry.name))
    onnx.save(prepared_model, tmp_path / "model.onnx")
    assert verify(fitted.network, fitted.contract, tmp_path / "model.onnx").max_difference > 1e-4


def test_the_message_about_a_diverged_network_says_to_fit_again(make_fitted, tiny, tiny_onnx: Path) -> None:
    network = make_fitted().network
    with torch.no_grad():
        network.head.bias[0] = math.nan
    with pytest.raises(
        VerificationError, match=r"^tiny: the fitted network itself .* self2self fit IMAGE --force$"
    ) as caught:
        verify(network, tiny.contract, tiny_onnx, source="tiny")
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("amount", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_noticed(tiny, prepared_model, tmp_path: Path, amount: float) -> None:
    tamper(prepared_model, amount)
    onnx.save(prepared_model, tmp_path / "model.onnx")
    with pytest.raises(VerificationError, match=r"differ from PyTorch's by (nan|inf);"):
        verify(tiny.network, tiny.contract, tmp_path / "model.onnx")


def test_a_file_that_cannot_be_run_is_an_error_of_one_line(tiny, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(
        FileFormatError, match=r"model\.onnx: ONNX Runtime cannot run it \(.*self2self export"
    ) as caught:
        verify(tiny.network, tiny.contract, path)
    assert "\n" not in str(caught.value)


def test_a_file_with_a_fixed_size_runs_once_at_it_and_several_times_at_a_small_one(
    fixed: onnx.ModelProto, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = watched_shapes(verify_module, monkeypatch)
    found = check_file(fixed, tiny, tmp_path)
    assert 0 <= found.rms_difference <= found.max_difference <= 1e-4
    assert shapes == [(3, 3, 96, 64), (1, 3, *FIXED)]
    # Without the fixed sizes ignored, the file does not run at another size.
    with pytest.raises(VerificationError, match="ONNX Runtime cannot run it"):
        verify(tiny.network, tiny.contract, tmp_path / "fixed.onnx", size=(96, 64))


def test_a_file_with_free_sizes_runs_at_one_size(tiny, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = watched_shapes(verify_module, monkeypatch)
    verify_file(tiny.network, tiny.contract, tiny_onnx)
    assert shapes == [(3, 3, 96, 64)]


@pytest.mark.parametrize("name", ["input_mask", "dropout_mask_0", "dropout_mask_9"])
def test_passes_with_masks_of_other_passes_are_found_in_a_file_with_a_fixed_size(
    name: str, fixed: onnx.ModelProto, tiny, tmp_path: Path
) -> None:
    for node in fixed.graph.node:
        node.input[:] = ["reversed" if used == name else used for used in node.input]
    for key, value in (("start", -1), ("end", -(2**31)), ("axis", 0)):
        fixed.graph.initializer.append(onnx.helper.make_tensor(key, onnx.TensorProto.INT64, [1], [value]))
    fixed.graph.node.insert(0, onnx.helper.make_node("Slice", [name, "start", "end", "axis", "start"], ["reversed"]))
    # A batch of one, as in the pass at the fixed size, cannot show the error.
    onnx.save(fixed, tmp_path / "model.onnx")
    assert verify(tiny.network, tiny.contract, tmp_path / "model.onnx", size=FIXED, batch=1).max_difference <= 1e-4
    with pytest.raises(VerificationError, match="differ from PyTorch's"):
        check_file(fixed, tiny, tmp_path)


def test_a_fixed_batch_is_found_in_a_file_with_a_fixed_size(fixed: onnx.ModelProto, tiny, tmp_path: Path) -> None:
    for value in fixed.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(VerificationError, match="ONNX Runtime cannot run it"):
        check_file(fixed, tiny, tmp_path)


def test_a_wrong_fixed_size_of_a_mask_is_found(fixed: onnx.ModelProto, tiny, tmp_path: Path) -> None:
    (mask,) = (value for value in fixed.graph.input if value.name == "dropout_mask_3")
    mask.type.tensor_type.shape.dim[3].dim_value *= 2
    with pytest.raises(VerificationError, match="ONNX Runtime cannot run it"):
        check_file(fixed, tiny, tmp_path)


def test_a_size_inside_the_graph_is_found(fixed: onnx.ModelProto, tiny, tmp_path: Path) -> None:
    *_, last = (node for node in fixed.graph.node if node.op_type == "Resize")
    fixed.graph.initializer.append(onnx.helper.make_tensor("sizes", onnx.TensorProto.INT64, [2], FIXED))
    last.input[:] = [last.input[0], "", "", "sizes"]
    last.attribute.append(onnx.helper.make_attribute("axes", [2, 3]))
    with pytest.raises(VerificationError, match="ONNX Runtime cannot run it"):
        check_file(fixed, tiny, tmp_path)


def test_export_model_writes_a_verified_file(tiny, prepared_model, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    result = export_model(tiny.network, tiny.contract, path)
    assert isinstance(result, Verification)
    assert result.max_difference <= 1e-4
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    assert onnx.load(path) == prepared_model


def test_tampered_weights_leave_no_file(tiny, prepared_model, tmp_path: Path) -> None:
    tamper(prepared_model, 1e-3)
    with pytest.raises(
        VerificationError, match=r"model\.onnx: its predictions differ from PyTorch's by 0\.001;"
    ) as caught:
        export_model(tiny.network, tiny.contract, tmp_path / "model.onnx")
    assert "partial" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_tampered_weights_leave_the_previous_file(tiny, prepared_model, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"previous")
    tamper(prepared_model, 1e-3)
    with pytest.raises(VerificationError):
        export_model(tiny.network, tiny.contract, path)
    assert path.read_bytes() == b"previous"
    assert len(list(tmp_path.iterdir())) == 1


def test_ctrl_c_leaves_no_file(tiny, prepared_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("self2self.export.verify.verify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_model(tiny.network, tiny.contract, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_an_error(tiny, prepared_model, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"model\.onnx: cannot be written"):
        export_model(tiny.network, tiny.contract, tmp_path / "missing" / "model.onnx")


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_full_disk_leaves_no_file(tiny_onnx: Path, tmp_path: Path) -> None:
    script = f"""
        import resource
        import onnx
        from self2self.errors import ResourceError
        from self2self.export import export_model, to_onnx

        to_onnx.build_model = lambda *_: onnx.load({str(tiny_onnx)!r})
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            export_model(None, None, {str(tmp_path / "model.onnx")!r})
        except ResourceError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "model.onnx: no space left to write it; nothing was changed." in done.stdout
    assert not list(tmp_path.iterdir())
