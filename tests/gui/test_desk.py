"""The images of the page: denoised as the command does it, one after the other, each by itself."""

import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile

from self2self import jobs
from self2self.gui.desk import Desk, Item, State, safe_name
from self2self.image_io import read_image
from self2self.jobs import FitOptions, OutputOptions, denoise_job
from tests.commands import write_noisy

QUICK = partial(FitOptions, steps=2)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(jobs, "FitOptions", QUICK, raising=False)
    (tmp_path / "page").mkdir()
    made = Desk(tmp_path / "page")
    yield made
    made.close()


def drop(desk: Desk, file: Path) -> Item:
    source = desk.new_source(file.name)
    shutil.copy(file, source)
    return desk.add(source)


def finished(item: Item, state: State = State.DONE) -> Item:
    end = time.monotonic() + 300
    while item.is_busy and time.monotonic() < end:
        time.sleep(0.02)
    assert item.state is state, (item.state, item.text)
    return item


def result_of(desk: Desk, item: Item, name: str) -> Path:
    return desk.files[item.downloads[name]]


def test_a_result_is_that_of_the_command_with_all_metadata(tmp_path: Path, desk: Desk) -> None:
    pixels = np.random.default_rng(0).poisson(900, (64, 70)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "cells.tif", pixels, description="stained", resolution=(300, 300), compression="zlib")
    item = finished(drop(desk, tmp_path / "cells.tif"))
    denoise_job(tmp_path / "cells.tif", QUICK(run=tmp_path / "run"), outputs=OutputOptions(tmp_path / "expected.tif"))
    saved = result_of(desk, item, "cells.denoised.tif")
    assert saved.read_bytes() == (tmp_path / "expected.tif").read_bytes()
    assert tifffile.imread(saved).dtype == np.uint16
    assert item.text.startswith("noise found: sigma")
    assert not item.shows_middle
    assert item.shown is not None
    assert len(item.shown) == 2
    # Nothing but what the page made can be fetched.
    assert all(desk.folder in path.parents for path in desk.files.values())


def test_a_bad_image_is_told_in_one_line_and_the_next_one_is_denoised(tmp_path: Path, desk: Desk) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    bad = drop(desk, tmp_path / "bad.png")
    good = drop(desk, write_noisy(tmp_path / "good.png"))
    finished(bad, State.FAILED)
    assert bad.text.startswith("bad.png: ")
    assert "\n" not in bad.text
    assert str(tmp_path) not in bad.text
    assert list(finished(good).downloads) == ["good.denoised.png"]


def test_messages_name_the_controls_of_the_page_and_options_of_the_command(tmp_path: Path, desk: Desk) -> None:
    desk.settings.strength = 9.0
    wrong = drop(desk, write_noisy(tmp_path / "x.png"))
    finished(wrong, State.FAILED)
    assert wrong.text.startswith("Strength is 9")
    desk.settings.strength = 1.0
    heights = np.random.default_rng(0).normal(500, 5, (40, 48)).astype(np.float32)
    heights[:9, :20] = -9999
    tifffile.imwrite(tmp_path / "heights.tif", heights)
    item = finished(drop(desk, tmp_path / "heights.tif"))
    assert any("--nodata of the command self2self denoise" in note for note in item.notes)


def test_a_name_that_the_page_uses_itself_is_a_name_as_any_other(tmp_path: Path, desk: Desk) -> None:
    path = write_noisy(tmp_path / "x.png")
    source = desk.new_source("run")
    shutil.copy(path, source)
    assert list(finished(desk.add(source)).downloads) == ["run.denoised.png"]


def test_again_with_another_strength(tmp_path: Path, desk: Desk) -> None:
    path = write_noisy(tmp_path / "x.png")
    item = finished(drop(desk, path))
    first = read_image(result_of(desk, item, "x.denoised.png")).pixels
    desk.settings.strength = 0.0
    desk.start(item)
    finished(item)
    again = read_image(result_of(desk, item, "x.denoised.png"))
    noisy = read_image(path)
    # Strength 0 gives back all that was removed.
    assert np.abs(again.pixels - noisy.pixels).max() <= 1.01 / noisy.scale
    assert np.abs(first - noisy.pixels).max() > 10 / noisy.scale


def test_the_map_of_the_uncertainty_is_a_second_file(
    tmp_path: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = partial(denoise_job, options=jobs.EnsembleOptions(passes=4))
    monkeypatch.setattr(jobs, "denoise_job", few, raising=False)
    desk.settings.uncertainty = True
    item = finished(drop(desk, write_noisy(tmp_path / "x.png")))
    assert list(item.downloads) == ["x.denoised.png", "x.std.tif"]
    deviations = tifffile.imread(result_of(desk, item, "x.std.tif"))
    assert deviations.dtype == np.float32
    assert deviations.max() > 0


def test_all_pages_of_a_stack_can_be_looked_at(tmp_path: Path, desk: Desk) -> None:
    pages = np.random.default_rng(1).poisson(90, (3, 64, 64)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    item = finished(drop(desk, tmp_path / "stack.tif"))
    assert (item.pages, item.text.split(";")[0]) == (3, "3 pages")
    before = item.shown
    desk.show_page(item, 1)
    assert item.shown != before
    assert item.page == 1
    desk.show_page(item, 3)
    assert item.page == 1


def test_cancel_ends_the_fit_and_what_waits_and_both_can_start_again(tmp_path: Path, desk: Desk) -> None:
    jobs.FitOptions = partial(FitOptions, steps=4000)  # type: ignore[misc]
    first, second = (drop(desk, write_noisy(tmp_path / f"{name}.png")) for name in "ab")
    end = time.monotonic() + 60
    while "step" not in first.text and time.monotonic() < end:
        time.sleep(0.01)
    desk.cancel(second)
    assert second.state is State.CANCELLED
    desk.cancel(first)
    finished(first, State.CANCELLED)
    jobs.FitOptions = QUICK  # type: ignore[misc]
    desk.start(second)
    finished(second)


def test_what_is_removed_is_gone(tmp_path: Path, desk: Desk) -> None:
    item = finished(drop(desk, write_noisy(tmp_path / "x.png")))
    desk.remove(item)
    assert desk.items == []
    assert desk.files == {}
    assert list(desk.folder.iterdir()) == []


def test_pictures_come_while_the_fit_runs_and_old_ones_go(
    tmp_path: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("self2self.train.session.WATCHED_SECONDS", 0.0)
    monkeypatch.setattr("self2self.train.session.WATCHED_SHARE", 1e9)
    seen: list[bool] = []
    show = desk._show

    def watched(item: Item, contents: list[bytes], *, is_middle: bool) -> None:
        seen.append(is_middle)
        show(item, contents, is_middle=is_middle)
        assert len(list(item.folder.glob("*.png"))) == len(contents)

    monkeypatch.setattr(desk, "_show", watched)
    finished(drop(desk, write_noisy(tmp_path / "x.png")))
    # The noisy image, each of the two steps and the end of the fit, and the whole image.
    assert seen == [True, True, True, True, False]


def test_a_bug_is_told_and_the_page_lives_on(
    tmp_path: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(jobs, "denoise_job", fail, raising=False)
    item = finished(drop(desk, write_noisy(tmp_path / "x.png")), State.FAILED)
    assert item.text == "failed unexpectedly (ZeroDivisionError: a bug)"
    assert "Traceback" in capfd.readouterr().err
    monkeypatch.setattr(jobs, "denoise_job", denoise_job)
    desk.start(item)
    finished(item)


def test_the_thread_ends_with_the_desk(tmp_path: Path) -> None:
    before = threading.active_count()
    made = Desk(tmp_path)
    assert threading.active_count() == before + 1
    made.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("photo.png", "photo.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\pictures\\photo.tif", "photo.tif"),
        ("/", "image"),
        ("", "image"),
        ("..", "image"),
        ("a\nb\x00.png", "ab.png"),
        ('a<b>:"|?*.png', "ab.png"),
        ("scan.nii.gz", "scan.nii.gz"),
        ("äöü 日本.tif", "äöü 日本.tif"),
        ("日" * 200 + ".tif", "日" * 40 + ".tif"),
        ("\ud800.png", "png"),
    ],
)
def test_a_name_is_made_safe(given: str, name: str) -> None:
    assert safe_name(given) == name
