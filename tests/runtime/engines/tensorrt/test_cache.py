"""Checks engines on disk: the JSON files that describe them, which are used, and which are built again."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from self2self.errors import EngineUnavailableError, UsageError
from self2self.export.to_onnx import to_onnx
from self2self.runtime.engines.profiles import BATCHES, Profile
from self2self.runtime.engines.tensorrt.builder import Built, named_capabilities
from self2self.runtime.engines.tensorrt.cache import Loaded, find_covering, load_or_build
from self2self.runtime.engines.tensorrt.engine_file import EngineFile
from tests.commands import run_cli
from tests.conftest import Fitted, MakeFitted
from tests.runtime.engines.tensorrt.engine_requests import DYNAMIC, FIXED, Notes, keep, wanted

trt = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install tensorrt-rtx")


def test_the_side_file_says_what_the_engine_is(model: Path, tiny: Fitted) -> None:
    request, notes = wanted(model, tiny), Notes()
    loaded = load_or_build(request, keep, notes)
    assert loaded.built
    assert notes == []
    assert loaded.path == model.parent / "engines" / "model.trt-rtx.any.64x96-b1-2-4.engine"
    assert loaded.path.read_bytes() == loaded.engine
    side = json.loads(Path(f"{loaded.path}.json").read_text())
    assert side["key"]["library"] == "tensorrt_rtx"
    assert side["key"]["library_version"] == trt.__version__
    assert side["key"]["profile"] == FIXED.to_json()
    assert side["key"]["precision"] == "fp32"
    assert side["engine_bytes"] == loaded.path.stat().st_size
    assert side["layer_count"] > 100
    assert side["build_seconds"] > 0
    assert side["key_sha256"] == request.key.sha256()
    assert EngineFile.read(Path(f"{loaded.path}.json")) == loaded.info
    assert sorted(p.name for p in loaded.path.parent.iterdir()) == [loaded.path.name, f"{loaded.path.name}.json"]
    again = load_or_build(request, keep, notes)
    assert not again.built
    assert again.engine == loaded.engine
    assert notes == []


def test_the_command_builds_beside_the_model(work: Path) -> None:
    first = json.loads(run_cli("export", "--engine", "trt-rtx", "--json").stdout)
    assert first["built"]
    assert first["key"]["profile"]["batches"] == [1, 16, 64]
    assert Path(first["output"]).is_file()
    again = run_cli("export", "--engine", "trt-rtx").stdout
    assert "there already" in again
    options = ["--min", "64x64", "--size", "64x96", "--max", "128x128", "--batch", "1,2,4", "--capability", "8.6"]
    other = run_cli("export", "--engine", "trt-rtx", *options).stdout
    assert "64x64-64x96-128x128-b1-2-4.engine: built in" in other


def test_named_compute_capabilities(model: Path, tiny: Fitted) -> None:
    assert {"7.5", "8.0", "8.6", "8.9", "12.0"} <= named_capabilities(trt).keys()
    loaded = load_or_build(wanted(model, tiny, capabilities=("8.9", "8.6")), keep, Notes())
    assert loaded.path.name == "model.trt-rtx.8-6-8-9.64x96-b1-2-4.engine"
    assert loaded.info.key.capabilities == ("8.6", "8.9")
    with pytest.raises(UsageError, match=r"has no compute capability 9\.0; expected some of: 7\.5, 8\.0"):
        wanted(model, tiny, capabilities=("9.0",))


@pytest.mark.parametrize(
    ("profile", "fixed", "text"),
    [
        (Profile.fixed((60, 96)), None, r"for 60x96; expected multiples of 32 from 64 up, for example 64x96"),
        (Profile.fixed((32, 96)), None, r"for 32x96; expected multiples of 32 from 64 up"),
        (Profile((128, 64), (64, 64), (128, 64)), None, "heights of the engine are 128, 64, 128; expected least, best"),
        (Profile((64, 64), (64, 96), (64, 64)), None, "widths of the engine are 64, 96, 64"),
        (Profile.fixed((64, 96), (4, 2, 8)), None, "batches of the engine are 4, 2, 8"),
        (Profile.fixed((64, 96), (0, 1, 8)), None, "least batch is 0; expected at least 1"),
        (Profile.fixed((64, 128)), (64, 96), "for 64x128: the model is fixed to 64x96"),
    ],
)
def test_wrong_profiles_are_refused(
    profile: Profile, fixed: tuple[int, int] | None, text: str, model: Path, tiny: Fitted
) -> None:
    with pytest.raises(UsageError, match=text):
        wanted(model, tiny, profile, fixed_size=fixed)
    assert not (model.parent / "engines").exists()


def test_an_engine_of_an_older_export_is_really_built_again(make_fitted: MakeFitted, model: Path, tiny: Fitted) -> None:
    old, notes = load_or_build(wanted(model, tiny), keep, Notes()), Notes()
    other = make_fitted(seed=9)
    to_onnx(other.network, other.contract, model)
    new = load_or_build(wanted(model, other), keep, notes)
    assert new.built
    assert new.path == old.path
    assert new.info.key.model_sha256 != old.info.key.model_sha256
    assert "another version of the model" in notes[0]


# The following tests use the bytes of one build, because a build takes a second.


@pytest.fixture(scope="module")
def finished(tiny: Fitted, tiny_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded[bytes]:
    """One engine, whose bytes stand in for every other build."""
    model = tmp_path_factory.mktemp("engine") / "model.onnx"
    model.write_bytes(tiny_onnx.read_bytes())
    return load_or_build(wanted(model, tiny), keep, Notes())


@pytest.fixture
def quick_build(finished: Loaded[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace every build by the bytes of `finished`, because a build takes a second."""
    built = Built(finished.engine, finished.info.layer_count, finished.info.build_seconds)
    monkeypatch.setattr("self2self.runtime.engines.tensorrt.cache.build", lambda *_, **__: built)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def tamper(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit_side(path: Path) -> None:
        side = Path(f"{path}.json")
        values = json.loads(side.read_text())
        change(values)
        side.write_text(json.dumps(values))

    return edit_side


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (cut, "bytes, not"),
    "empty": (lambda path: path.write_bytes(b""), "it has 0 bytes, not"),
    "tampered": (tamper, "its bytes were changed"),
    "engine missing": (lambda path: path.unlink(), "it cannot be read"),
    "side file missing": (lambda path: Path(f"{path}.json").unlink(), ".engine.json is missing"),
    "side file damaged": (lambda path: Path(f"{path}.json").write_text("{"), ".engine.json is damaged"),
    "side file of another kind": (lambda path: Path(f"{path}.json").write_text("[]"), ".engine.json is damaged"),
    "other library version": (
        edit(lambda v: v["key"].update(library_version="0.9")),
        "it was built for library version 0.9, not ",
    ),
    "foreign GPU": (edit(lambda v: v["key"].update(gpu="H100 9.0")), "it was built for GPU H100 9.0, not none"),
    "other precision": (edit(lambda v: v["key"].update(precision="fp16")), "precision fp16, not fp32"),
    "other shapes": (
        edit(lambda v: v["key"]["profile"].update(batches=[1, 1, 1])),
        "it was built for shapes 64x96-b1, not 64x96-b1-2-4",
    ),
    "stale": (
        lambda path: edit(lambda v: v["key"].update(model_sha256="0"))(path),
        "it was built from another version of the model",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_unusable_engines_are_built_again(case: str, model: Path, tiny: Fitted, quick_build: None) -> None:
    damage, text = DAMAGE[case]
    request, notes = wanted(model, tiny), Notes()
    path = load_or_build(request, keep, notes).path
    damage(path)
    loaded = load_or_build(request, keep, notes)
    assert loaded.built
    assert len(notes) == 1, notes
    assert text in notes[0]
    assert notes[0].startswith(f"{path}: ")
    assert notes[0].endswith("building it again.")
    assert "\n" not in notes[0]
    assert not load_or_build(request, keep, notes).built
    assert len(notes) == 1


def test_an_engine_that_the_library_refuses_is_built_again(model: Path, tiny: Fitted, quick_build: None) -> None:
    request, notes = wanted(model, tiny), Notes()
    load_or_build(request, keep, notes)
    answers = [None, b"good"]
    assert load_or_build(request, lambda _: answers.pop(0), notes).engine == b"good"
    assert "TensorRT-RTX refuses to load it; building it again." in notes[0]
    with pytest.raises(EngineUnavailableError, match=r"refuses the engine that it has just built.*--engine ort"):
        load_or_build(request, lambda _: None, notes)


def test_an_engine_that_cannot_be_kept_is_used_all_the_same(model: Path, tiny: Fitted, quick_build: None) -> None:
    (model.parent / "engines").write_text("a file where the folder should be")
    notes = Notes()
    loaded = load_or_build(wanted(model, tiny), keep, notes)
    assert loaded.built
    assert "cannot be kept and will be built again next time" in notes[0]


def test_an_engine_for_a_range_serves_the_sizes_in_it(model: Path, tiny: Fitted, quick_build: None) -> None:
    ahead = load_or_build(wanted(model, tiny, DYNAMIC), keep, Notes())
    one_size = wanted(model, tiny, Profile.fixed((96, 128), (1, 8, 32)))
    found = find_covering(one_size, (96, 128), "8.9")
    assert found is not None
    assert found.engine_path == ahead.path
    assert not load_or_build(found, keep, Notes()).built
    assert find_covering(one_size, (96, 192), "8.9") is None, "wider than the range"
    assert find_covering(wanted(model, tiny, capabilities=("7.5",)), (96, 128), "7.5") is None, "Turing must be named"
    cut(ahead.path)
    assert find_covering(one_size, (96, 128), "8.9") is None, "truncated"


SIZES = [(64, 64), (64, 96), (96, 64), (128, 160)]


def test_every_profile_has_a_name_of_its_own_and_the_usual_ones_are_short() -> None:
    batches = [(least, best, most) for most in range(1, 70) for best in (1, 2, 16, 64) for least in (1, 2)]
    profiles = [Profile.fixed((64, 96), values) for values in batches]
    profiles += [Profile(*sizes, (1, 2, 4)) for sizes in product(SIZES, repeat=3)]
    assert len({profile.slug() for profile in profiles}) == len(set(profiles))
    assert [Profile.fixed((64, 96), b).slug() for b in (BATCHES, (1, 4, 4))] == ["64x96-b64", "64x96-b4"]


def test_engines_for_other_batches_lie_side_by_side(model: Path, tiny: Fitted, quick_build: None) -> None:
    requests = [wanted(model, tiny, Profile.fixed((64, 96), batches)) for batches in (BATCHES, (2, 16, 64))]
    notes = Notes()
    assert [load_or_build(request, keep, notes).built for request in (*requests, *requests)] == [
        True,
        True,
        False,
        False,
    ]
    assert notes == []


def test_an_engine_for_named_capabilities_serves_those_alone(model: Path, tiny: Fitted, quick_build: None) -> None:
    ahead = load_or_build(wanted(model, tiny, capabilities=("8.6",)), keep, Notes())
    request = wanted(model, tiny)
    found = find_covering(request, (64, 96), "8.6")
    assert found is not None
    assert found.engine_path == ahead.path
    assert find_covering(request, (64, 96), "8.9") is None
