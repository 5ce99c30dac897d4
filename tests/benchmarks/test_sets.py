"""Splits of the evaluation images: disjoint, complete, and each look at validation images written down."""

import json
from pathlib import Path

import pytest

from benchmarks.sets import SETS, SPLITS, DataSet, Split, SplitError, check_sets, load_sets, log_look, unlisted

FILES = {
    "tuning": [
        "cbsd68/clean/0005.png",
        "cbsd68/noise25/0005.png",
        "polyu/noisy/a_chair_11.jpg",
        "polyu/tuning/a_chair_14.mean.jpg",
        "cc/d800_iso1600_1.noisy.png",
        "sidd/tuning/2_14.noisy.png",
        "fmd/Confocal_FISH_1.noisy.png",
    ],
    "validation": ["polyu/validation/b.noisy.jpg", "sidd/validation/9_27.clean.png", "fmd/Confocal_FISH_2.mean.png"],
    "test": ["cbsd68/clean/0001.png", "kodak24/kodim01.png", "mcmaster/1.tif", "set12/01.png", "bsd68/test001.png"],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in (name for names in FILES.values() for name in names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_each_file_is_in_the_split_that_the_list_says(data: Path) -> None:
    table = check_sets(data, load_sets())
    for split in SPLITS:
        found = {path.relative_to(data).as_posix() for splits in table.values() for path in splits[split]}
        assert found == set(FILES[split])
    assert unlisted(data, load_sets()) == []


def test_every_split_says_why() -> None:
    for data_set in load_sets().values():
        assert tuple(data_set.splits) == SPLITS
        assert all(split.note.endswith(".") for split in data_set.splits.values())


def test_a_file_in_no_split_is_named_but_photographs_of_the_prefit_are_not(data: Path) -> None:
    for name in ("polyu/new.png", "photos/gb82/seen.png"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).touch()
    assert [path.name for path in unlisted(data, load_sets())] == ["new.png"]


def test_a_file_in_two_splits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    split, empty = Split(("*.png",), (), ""), Split((), (), "")
    with pytest.raises(SplitError, match=r"a\.png is in two splits of set: tuning, test"):
        DataSet("set", {"tuning": split, "validation": empty, "test": split}).divided(tmp_path)
    one = {"tuning": split, "validation": empty, "test": empty}
    with pytest.raises(SplitError, match=r"a\.png is in two data sets: first and second"):
        check_sets(tmp_path, {"first": DataSet("first", one), "second": DataSet("second", one)})


def test_photographs_of_the_prefit_cannot_be_judged_on(tmp_path: Path) -> None:
    (tmp_path / "photos" / "cid22").mkdir(parents=True)
    (tmp_path / "photos" / "cid22" / "a.png").touch()
    empty = Split((), (), "")
    splits = {"tuning": Split(("photos/*/*.png",), (), ""), "validation": empty, "test": empty}
    with pytest.raises(SplitError, match="seen by the start weights"):
        check_sets(tmp_path, {"set": DataSet("set", splits)})


def test_the_list_is_json_with_all_patterns_inside_the_data_folder() -> None:
    for data_set in load_sets().values():
        for split in data_set.splits.values():
            assert not [pattern for pattern in (*split.files, *split.rest) if pattern.startswith(("/", ".."))]
    assert json.loads(SETS.read_text(encoding="utf-8"))["never"]["files"]


def test_a_look_is_written_down_once_a_day_with_its_reason(tmp_path: Path) -> None:
    log = tmp_path / "log" / "looks.md"
    log_look("tuning", "command", "", log)
    assert not log.exists()
    with pytest.raises(SplitError, match="--why"):
        log_look("validation", "command", " ", log)
    for _ in range(2):
        log_look("validation", "python -m benchmarks.protocol polyu", "a | in `it`", log)
    text = log.read_text(encoding="utf-8")
    assert text.count("| validation | python -m benchmarks.protocol polyu | a / in 'it' |\n") == 1
    log_look("validation", "python -m benchmarks.protocol polyu", "another", log)
    assert log.read_text(encoding="utf-8").startswith(text)
