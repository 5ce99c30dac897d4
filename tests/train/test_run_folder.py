"""Run folders: their names, settings and history."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from self2self.errors import FileFormatError, InputError
from self2self.train.run_folder import History, Run, RunConfig, cached_runs
from tests.train.test_fit import TINY


def config_of(**changes: object) -> RunConfig:
    values: dict[str, object] = {
        "image": "/somewhere/noisy.png",
        "image_sha256": "ab" * 32,
        "channels": 3,
        "recipe": TINY,
        "seed": 0,
        "start": "scratch",
        "device": "cpu",
    }
    return RunConfig(**{**values, **changes})  # type: ignore[arg-type]


DAMAGED_RANGE = json.dumps({**json.loads(json.dumps(asdict(config_of()))), "format": 1, "image_range": [5, 1]})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "runs" / "noisy-abababab")
    run.create(config_of())
    return run


def test_a_model_is_run_with_the_drop_rate_of_passes() -> None:
    recipe = replace(TINY, input_drop_rate=0.5, pass_drop_rate=0.25)
    masks = config_of(recipe=recipe).contract(1).masks
    assert (masks[0].keep_probability, masks[1:]) == (0.75, recipe.masks(3)[1:])


def test_settings_that_cannot_be_read_are_reported(run: Run) -> None:
    run.config_path.unlink()
    # A folder instead of a file without permission, which root may read.
    run.config_path.mkdir()
    with pytest.raises(InputError, match=r"config.json: cannot be read \("):
        run.config()


def test_config_round_trip(run: Run) -> None:
    assert run.config() == config_of()
    assert run.config().same_fit(config_of(image="/elsewhere/noisy.png", device="cuda"))
    assert not run.config().same_fit(config_of(seed=1))


@pytest.mark.parametrize(("key", "value"), [("start_sha256", "cd" * 32), ("image_range", (3.0, 251.0))])
def test_a_config_of_a_version_that_did_not_record_something(run: Run, key: str, value: object) -> None:
    config = config_of(start="natural", **{key: value})
    run.create(config)
    assert run.config() == config
    assert not config_of(start="natural", **{key: ("ef" * 32 if isinstance(value, str) else (0.0, 255.0))}).same_fit(
        config
    )
    values = json.loads(run.config_path.read_text())
    del values[key]
    run.config_path.write_text(json.dumps(values))
    assert run.config() == config_of(start="natural")
    assert config.same_fit(run.config())
    # Such versions read images in the whole range.
    assert not replace(config, whole_range=False).same_fit(run.config())
    assert not replace(config, seed=1).same_fit(run.config())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ("{}", "is damaged"),
        (DAMAGED_RANGE, "is damaged"),
        ('{"format": 99}', "has run format 99; expected 1"),
    ],
)
def test_damaged_config(run: Run, text: str, message: str) -> None:
    run.config_path.write_text(text)
    with pytest.raises(FileFormatError, match=message):
        run.config()


def test_config_with_a_wrong_recipe_value(run: Run) -> None:
    values = json.loads(run.config_path.read_text())
    values["recipe"]["steps"] = -1
    run.config_path.write_text(json.dumps(values))
    with pytest.raises(FileFormatError, match="is damaged"):
        run.config()


def test_latest_is_the_run_that_was_touched_last(tmp_path: Path) -> None:
    for index, name in enumerate(("a", "b", "c")):
        run = Run(tmp_path / name)
        run.create(config_of())
        os.utime(run.config_path, (index, index))
    assert Run.latest(tmp_path).folder.name == "c"
    Run(tmp_path / "a").onnx_path.write_bytes(b"exported just now")
    assert Run.latest(tmp_path).folder.name == "a"


def test_folder_name_is_stem_and_hash_and_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELF2SELF_CACHE", "cache")
    run = Run.for_image(Path("x/cell 1 (a).tif"), "0123456789")
    assert run.folder == Path("cache/runs/cell_1_a_-01234567")


def test_fits_with_other_options_have_folders_of_their_own() -> None:
    asked: list[dict[str, object]] = [{}, {"sigma": 10.0}, {"sigma": 12.0}, {"seed": 1}, {"init": Path("run")}]
    folders = {Run.for_image(Path("a.png"), "0" * 64, 0, options).folder.name for options in asked}
    assert len(folders) == len(asked)
    assert all(name.startswith("a-00000000") for name in folders)
    assert "-sigma-10-" in Run.for_image(Path("a.png"), "0" * 64, 0, {"sigma": 10.0}).folder.name
    both = {"sigma": 10.0, "seed": 1}
    in_turn = dict(reversed(both.items()))
    assert Run.for_image(Path("a.png"), "0" * 64, 0, both) == Run.for_image(Path("a.png"), "0" * 64, 0, in_turn)


@pytest.mark.parametrize("stem", ["照" * 83, "a" * 251], ids=["Chinese", "letters"])
def test_the_longest_name_of_an_image_gives_a_folder_that_a_file_system_takes(tmp_path: Path, stem: str) -> None:
    options: dict[str, object] = {"init": tmp_path / ("照" * 80), "sigma": 10.0}
    name = Run.for_image(Path(f"{stem}.png"), "0" * 64, 2, options).folder.name
    # Temporary files beside it have longer names.
    assert len(name.encode()) < 220
    (tmp_path / name).mkdir()


def test_a_run_that_an_earlier_version_kept_beside_the_image_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SELF2SELF_CACHE", str(tmp_path / "cache"))
    assert Run.for_image(Path("a.tif"), "0" * 64, 2).folder.name == "a-00000000-neighbours-2"
    in_cache, earlier = Run.for_image(Path("new.png"), "0" * 64), Run(Path("runs/old-00000000"))
    assert in_cache.folder == tmp_path / "cache" / "runs" / "new-00000000"
    earlier.create(config_of())
    assert Run.for_image(Path("old.png"), "0" * 64) == earlier
    assert Run.latest() == earlier
    in_cache.create(config_of())
    os.utime(earlier.config_path, (1, 1))
    assert Run.latest() == in_cache
    with earlier.in_use():
        pass
    os.utime(in_cache.config_path, (2, 2))
    assert Run.latest() == earlier, "its use counts"


def test_without_a_choice_runs_go_to_the_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SELF2SELF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cached_runs().parts[-2:] == ("self2self", "runs")
    if os.name == "posix" and os.uname().sysname == "Linux":
        assert cached_runs() == tmp_path / "self2self" / "runs"


def test_history_survives_a_line_cut_off_by_a_kill_and_restarts_without_repeats(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    for step in (10, 20, 30):
        history.append({"step": step, "loss": 0.5})
    with history.path.open("a") as file:
        file.write('{"step": 40, "lo')
    assert [entry["step"] for entry in history.read()] == [10, 20, 30]
    history.restart(20)
    assert [entry["step"] for entry in history.read()] == [10, 20]


def test_clear_removes_what_a_fit_made_and_nothing_else(run: Run) -> None:
    run.model_path.write_bytes(b"x")
    (run.folder / "notes.txt").write_text("the user's own")
    run.clear()
    assert sorted(p.name for p in run.folder.iterdir()) == ["config.json", "notes.txt"]
