"""TIFF stacks in the commands: one engine for all pages, and continuation after an interruption."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from self2self.cli.console import Bars
from self2self.imaging.noise import measure_residual
from self2self.jobs import fit as fitting
from self2self.jobs import prepared_image
from self2self.jobs.stack_pages import StackJob
from self2self.machine import locks
from self2self.machine.locks import output_lock
from self2self.runtime.engines.engine import Engine
from self2self.runtime.ensemble import engine_holder as prepared_module
from tests.commands import ROOT, parse_json, run_cli, write_noisy

ENSEMBLE = ("--passes", "3", "--engine", "ort", "--batch", "1")


def write_stack(path: Path, pages: int = 4, side: int = 40, **options: Any) -> Path:
    rng = np.random.default_rng(0)
    samples = np.clip(120 + 40 * rng.standard_normal((pages, side, side + 8, 3)), 0, 255).astype(np.uint8)
    tifffile.imwrite(path, samples, photometric="rgb", **options)
    return path


@pytest.fixture
def folder(tiny_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `tiny.onnx` and `stack.tif` of four pages."""
    (tmp_path / "tiny.onnx").write_bytes(tiny_onnx.read_bytes())
    write_stack(tmp_path / "stack.tif", resolution=(300, 300))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def infer(*arguments: str, expect: int = 0) -> Any:
    return run_cli("infer", "tiny.onnx", *arguments, *ENSEMBLE, expect=expect)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize("image", ["stack.tif", "image.png"])
def test_commands_with_one_output_are_kept_apart(image: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_noisy(folder / "image.png")
    output = Path(image).with_suffix(".denoised" + Path(image).suffix)
    with output_lock(output):
        told = infer(image, expect=7).stderr
    assert f"error: {output}: another command is writing it (process {os.getpid()}, " in told
    assert leftovers(folder) == []
    assert not output.exists()
    infer(image)
    written, earlier = output.read_bytes(), output.rename("earlier")

    def end_of_the_other(seconds: float) -> None:
        """The command that holds the lock writes its result and ends, as soon as this one waits for it."""
        if seconds == locks._POLL_SECONDS and earlier.exists():
            earlier.rename(output)
            other.close()

    monkeypatch.setattr(locks.time, "sleep", end_of_the_other)
    other = ExitStack()
    other.enter_context(output_lock(output))
    assert "done already" in infer(image, "--wait").stdout
    assert output.read_bytes() == written
    # After the wait, a result of other settings is refused as ever.
    output.rename("earlier")
    other.enter_context(output_lock(output))
    assert "exists already" in infer(image, "--wait", "--seed", "1", expect=2).stderr
    assert output.read_bytes() == written
    assert leftovers(folder) == []


def test_every_page_is_what_it_would_be_alone_and_one_engine_makes_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    original = prepared_module.EngineHolder.engine_for

    def counting(self: Any, kind: type[Engine], *arguments: Any) -> Engine:
        before = self._engine
        engine = original(self, kind, *arguments)
        if engine is not before:
            made.append(engine.name)
        return engine

    monkeypatch.setattr(prepared_module.EngineHolder, "engine_for", counting)
    values = parse_json(infer("stack.tif", "--uncertainty", "std.tif", "--seed", "5", "--json"))
    assert made == ["ort"]
    assert values["output"] == "stack.denoised.tif"
    assert values["uncertainty"] == "std.tif"
    assert [page["page"] for page in values["pages"]] == [1, 2, 3, 4]
    assert [page["seed"] for page in values["pages"]] == [5, 6, 7, 8]
    assert all(page["passes"] == 3 and page["standard_error"] > 0 and page["seconds"] > 0 for page in values["pages"])
    assert (values["passes"], values["pages_kept"]) == (12, 0)
    assert leftovers(folder) == []
    stack, deviations = tifffile.imread("stack.denoised.tif"), tifffile.imread("std.tif")
    assert (stack.shape, stack.dtype) == ((4, 40, 48, 3), np.uint8)
    assert (deviations.shape, deviations.dtype) == ((4, 40, 48, 3), np.float32)
    with tifffile.TiffFile("stack.denoised.tif") as file:
        assert file.pages.first.resolution == (300, 300)
    for index, page in enumerate(tifffile.imread("stack.tif")):
        tifffile.imwrite("page.tif", page, photometric="rgb")
        infer("page.tif", "--seed", str(5 + index), "--uncertainty", "page.std.tif", "--force")
        assert np.array_equal(stack[index], tifffile.imread("page.denoised.tif"))
        assert np.array_equal(deviations[index], tifffile.imread("page.std.tif"))


def test_an_empty_page_shares_no_noise(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = tifffile.imread("stack.tif")
    pages[0] = 200
    tifffile.imwrite("stack.tif", pages, photometric="rgb")
    coarse = np.random.default_rng(0).normal(0, 0.1, (3, 20, 24)).repeat(2, axis=1).repeat(2, axis=2)
    residual = measure_residual(coarse, np.zeros_like(coarse))
    assert residual.correlated
    monkeypatch.setattr(prepared_image, "measure_residual", lambda noisy, denoised: residual)
    told = infer("stack.tif").stderr
    assert "in what was removed from page 2, neighbouring pixels share their noise" in told
    assert "from page 1" not in told


def test_a_finished_stack_is_known_alone_skipped_among_others_and_replaced_with_force(folder: Path) -> None:
    write_stack(folder / "other.tif", pages=2)
    infer("stack.tif")
    first = (folder / "stack.denoised.tif").read_bytes()
    assert "stack.denoised.tif: done already" in infer("stack.tif").stdout
    assert (folder / "stack.denoised.tif").read_bytes() == first
    assert "stack.denoised.tif: exists already" in infer("stack.tif", "--seed", "9", expect=2).stderr
    result = infer("stack.tif", "other.tif", "--json")
    assert "stack.denoised.tif: exists already, so stack.tif is skipped" in result.stderr
    assert [item["image"] for item in parse_json(result)["images"]] == ["other.tif"]
    infer("stack.tif", "--seed", "9", "--force")
    assert (folder / "stack.denoised.tif").read_bytes() != first
    assert leftovers(folder) == []


KILLED = """
import os, signal, sys
from self2self.cli import main
from self2self.jobs.page_cache import PageCache

moment = sys.argv[1]
original = getattr(PageCache, moment)

def dying(self, *arguments):
    if moment == "keep" and arguments[0].page == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, *arguments)
    if moment == "mark_deviations_written":
        # At this moment the stack of deviations exists, and the result does not.
        os.kill(os.getpid(), signal.SIGKILL)

setattr(PageCache, moment, dying)
sys.argv[1:] = sys.argv[2:]
main()
"""


def in_a_process(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize(("moment", "kept"), [("keep", 2), ("mark_deviations_written", 4)])
def test_a_killed_run_goes_on_to_the_same_bytes(folder: Path, moment: str, kept: int) -> None:
    arguments = ("stack.tif", "--uncertainty", "std.tif")
    infer(*arguments)
    whole = [(folder / name).read_bytes() for name in ("stack.denoised.tif", "std.tif")]
    for name in ("stack.denoised.tif", "std.tif"):
        (folder / name).unlink()
    killed = in_a_process(KILLED, moment, "infer", "tiny.onnx", *arguments, *ENSEMBLE)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (folder / "stack.denoised.tif").exists()
    assert ".stack.denoised.tif.parts" in leftovers(folder)
    result = infer(*arguments, "--json")
    assert parse_json(result)["pages_kept"] == kept
    assert f"going on after {kept} of 4 pages" in result.stderr
    assert [(folder / name).read_bytes() for name in ("stack.denoised.tif", "std.tif")] == whole
    assert ".stack.denoised.tif.parts" not in leftovers(folder)


def stop_at_page_3(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run `command` and interrupt it after two pages."""
    with monkeypatch.context() as patch:
        original = StackJob._denoise_page

        def stop(self: StackJob, index: int, *arguments: Any) -> None:
            if index == 2:
                raise KeyboardInterrupt
            original(self, index, *arguments)

        patch.setattr(StackJob, "_denoise_page", stop)
        told = run_cli(*command, expect=130).stderr
        assert re.search(r"interrupted; 2 of \d pages are kept: the same command goes on", told)


def test_other_settings_are_refused_unless_forced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at_page_3(("infer", "tiny.onnx", "stack.tif", *ENSEMBLE), monkeypatch)
    result = infer("stack.tif", "--seed", "1", expect=2)
    assert "stack.denoised.tif: was begun with other settings (seed)" in result.stderr
    assert leftovers(folder) == [".stack.denoised.tif.parts"]
    assert parse_json(infer("stack.tif", "--force", "--json"))["pages_kept"] == 2
    (folder / "stack.denoised.tif").unlink()
    stop_at_page_3(("infer", "tiny.onnx", "stack.tif", *ENSEMBLE), monkeypatch)
    write_stack(folder / "stack.tif", pages=5)
    assert "other settings (source, pages)" in infer("stack.tif", expect=2).stderr
    assert parse_json(infer("stack.tif", "--force", "--json"))["pages_kept"] == 0
    assert len(tifffile.imread("stack.denoised.tif")) == 5


def test_a_stack_of_another_number_of_channels_leaves_nothing(folder: Path) -> None:
    tifffile.imwrite("grey.tif", tifffile.imread("stack.tif")[..., 0], photometric="minisblack")
    before = sorted(folder.iterdir())
    assert "the image has 1 channel (grey)" in infer("grey.tif", expect=3).stderr
    assert sorted(folder.iterdir()) == before


def test_a_page_that_cannot_be_used_is_refused_before_the_first_page(folder: Path) -> None:
    write_stack(folder / "stack.tif", compression="zlib")
    with tifffile.TiffFile("stack.tif") as file:
        start = file.pages[2].dataoffsets[0]
    data = bytearray((folder / "stack.tif").read_bytes())
    data[start : start + 100] = bytes(100)
    (folder / "stack.tif").write_bytes(data)
    result = infer("stack.tif", expect=3)
    assert "stack.tif: page 3 of 4 cannot be decoded as TIFF" in result.stderr
    assert "PNG" not in result.stderr, "which has no pages"
    assert leftovers(folder) == []


def test_damaged_pages_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at_page_3(("infer", "tiny.onnx", "stack.tif", *ENSEMBLE), monkeypatch)
    parts = folder / ".stack.denoised.tif.parts"
    (parts / "00001.npy").write_bytes(b"\x93NUMPY")
    assert "00001.npy: is damaged. Remove" in infer("stack.tif", expect=6).stderr
    assert not (folder / "stack.denoised.tif").exists()
    (parts / "00002.json").write_text("{}")
    assert "00002.json: is damaged" in infer("stack.tif", expect=6).stderr


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv[1:] = sys.argv[2:]
from self2self.cli import main
main()
"""


@pytest.mark.parametrize(("limit", "kept"), [(5000, 0), (10_000, 4)])
def test_a_full_disk_keeps_pages_and_damages_nothing(folder: Path, limit: int, kept: int) -> None:
    (folder / "stack.denoised.tif").write_bytes(b"old")
    arguments = ("stack.tif", "--force")
    full = in_a_process(LIMITED, str(limit), "infer", "tiny.onnx", *arguments, *ENSEMBLE)
    assert full.returncode == 5, full.stderr
    line = full.stderr.splitlines()[-1]
    assert "no space left" in line
    assert f"{kept} " in line
    assert "pages are kept: the same command goes on" in line
    assert "Traceback" not in full.stderr
    assert (folder / "stack.denoised.tif").read_bytes() == b"old"
    assert parse_json(infer(*arguments, "--json"))["pages_kept"] == kept
    assert len(tifffile.imread("stack.denoised.tif")) == 4
    assert leftovers(folder) == []


PEAK = """
import sys
from self2self.cli import app
app(sys.argv[1:], standalone_mode=False)
# getrusage would include the memory of the parent process.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_memory_is_bounded_by_one_page(folder: Path) -> None:
    peaks = []
    for pages in (3, 30):
        # A page is 0.75 MB as float32: all of them would be 20 MB more.
        write_stack(folder / "stack.tif", pages=pages, side=248)
        done = in_a_process(
            PEAK, "infer", "tiny.onnx", "stack.tif", "-q", "--force", "--passes", "1", "--engine", "ort", "--batch", "1"
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) / 1024)
    assert len(tifffile.imread("stack.denoised.tif")) == 30
    assert peaks[1] - peaks[0] < 8, peaks


REFUSED = {
    "report": (("stack.tif", "--report", "x.html"), "--report x.html: shows one image, and stack.tif has 4 pages"),
    "png": (("stack.tif", "-o", "x.png"), "PNG cannot hold 4 pages. Use the extension .tif"),
    "uncertainty as png": (("stack.tif", "--uncertainty", "x.png"), "PNG cannot hold 4 pages. Use the extension .tif"),
    "itself": (("stack.tif", "-o", "stack.tif"), "is the input itself"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_that_a_stack_cannot_have_are_refused(name: str, folder: Path) -> None:
    arguments, message = REFUSED[name]
    assert message in infer(*arguments, expect=2).stderr
    assert leftovers(folder) == []


FIT_REFUSED = {
    "no such page": (("--page", "9"), "stack.tif: there is no page 9; it has 4 pages"),
    "page 0": (("--page", "0"), "--page is 0; pages count from 1"),
    "both": (("--page", "2", "--fit-pages", "each"), "give one of them"),
    "neighbours": (("--neighbours", "3"), "--neighbours is 3; expected one of: auto, 0, 1, 2"),
    "unknown": (("--fit-pages", "all"), "--fit-pages is 'all'; expected one of: first, each"),
}


@pytest.mark.parametrize("name", FIT_REFUSED)
def test_wrong_pages_are_refused(name: str, folder: Path) -> None:
    arguments, message = FIT_REFUSED[name]
    assert message in run_cli("denoise", "stack.tif", *arguments, expect=2).stderr
    assert not (folder / "runs").exists()


def test_one_fit_serves_all_pages(folder: Path) -> None:
    result = run_cli("fit", "stack.tif", "--steps", "1", "-o", "runs/one")
    assert "stack.tif: has 4 pages; fitting to page 1. To fit to another: --page N" in result.stderr
    result = run_cli("fit", "stack.tif", "--steps", "1", "-o", "runs/two", "--page", "2")
    assert "fitting to page 1" not in result.stderr
    one, two = (json.loads((folder / "runs" / name / "config.json").read_text()) for name in ("one", "two"))
    command = ("denoise", "stack.tif", "--steps", "1", "--page", "2", "--run", "runs/two", *ENSEMBLE, "--json")
    result = run_cli(*command)
    assert "using the finished fit in runs/two" in result.stderr
    values = parse_json(result)
    assert (len(values["pages"]), values["steps"]) == (4, 1)
    assert one["image_sha256"] == values["pages"][0]["image_sha256"]
    assert two["image_sha256"] == values["pages"][1]["image_sha256"]
    assert len(tifffile.imread("stack.denoised.tif")) == 4
    again = parse_json(run_cli("infer", "runs/two", "stack.tif", "-o", "again.tif", *ENSEMBLE, "--json"))
    assert again["standard_error"] == values["standard_error"]
    assert (folder / "again.tif").read_bytes() == (folder / "stack.denoised.tif").read_bytes()


def keep_only(folder: Path, pages: set[int], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    """Stop `command` when all pages are done, and take the pages away that are not in `pages`."""
    with monkeypatch.context() as patch:

        def stop(self: StackJob) -> None:
            raise KeyboardInterrupt

        patch.setattr(StackJob, "write", stop)
        run_cli(*command, expect=130)
    parts = folder / ".stack.denoised.tif.parts"
    for record in parts.glob("[0-9]*.json"):
        if int(record.stem) not in pages:
            record.unlink()
            record.with_suffix(".npy").unlink()


def test_any_set_of_finished_pages_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("infer", "tiny.onnx", "stack.tif", *ENSEMBLE)
    run_cli(*command)
    whole = (folder / "stack.denoised.tif").read_bytes()
    (folder / "stack.denoised.tif").unlink()
    keep_only(folder, {2, 4}, monkeypatch, command)
    made: list[int] = []
    original = StackJob._denoise_page

    def told(self: StackJob, index: int, *arguments: Any) -> None:
        made.append(index + 1)
        if index == 2:
            raise KeyboardInterrupt
        original(self, index, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(StackJob, "_denoise_page", told)
        result = run_cli(*command, expect=130)
    assert made == [1, 3]
    assert "stack.denoised.tif: going on after 2 of 4 pages" in result.stderr
    assert "interrupted; 3 of 4 pages are kept" in result.stderr
    assert parse_json(run_cli(*command, "--json"))["pages_kept"] == 3
    assert (folder / "stack.denoised.tif").read_bytes() == whole
    assert leftovers(folder) == []


@pytest.mark.slow
def test_a_fit_whose_page_is_finished_is_made_again_where_another_starts_from_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("denoise", "stack.tif", "--fit-pages", "each", "--steps", "4", "--neighbours", "0", *ENSEMBLE)
    run_cli(*command)
    whole = (folder / "stack.denoised.tif").read_bytes()
    (folder / "stack.denoised.tif").unlink()
    # The fit of page 2 went when page 3 was finished, and that of page 3 when page 4 was.
    keep_only(folder, {1, 2, 4}, monkeypatch, command)
    assert parse_json(run_cli(*command, "--json"))["pages_kept"] == 3
    assert (folder / "stack.denoised.tif").read_bytes() == whole
    first = next((folder / "runs").glob("*/config.json")).parent
    assert not (first / "pages").exists()


@pytest.mark.slow
def test_every_page_is_fitted_from_the_one_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stack(folder / "stack.tif", pages=3)
    command = ("denoise", "stack.tif", "--fit-pages", "each", "--steps", "4", *ENSEMBLE)
    starts: list[tuple[str, int]] = []
    original = fitting.run_fit

    def told(run: Any, config: Any, *arguments: Any, **options: Any) -> Any:
        starts.append((Path(config.start).name, config.recipe.steps))
        return original(run, config, *arguments, **options)

    monkeypatch.setattr(fitting, "run_fit", told)
    stop_at_page_3(command, monkeypatch)
    first = next((folder / "runs").glob("*/config.json")).parent
    assert starts == [("natural", 4), (first.name, 1)]
    values = parse_json(run_cli(*command, "--json"))
    assert starts == [("natural", 4), (first.name, 1), ("00002", 1)]
    assert (len(values["pages"]), values["pages_kept"]) == (3, 2)
    assert not (first / "pages").exists()
    assert len({page["image_sha256"] for page in values["pages"]}) == 3
    assert len(tifffile.imread("stack.denoised.tif")) == 3


def test_progress_shows_the_page() -> None:
    bars = Bars()
    with bars:
        bars.page_started(2, 3)
        (pages,) = bars._progress.tasks
        assert (pages.description, pages.completed, pages.total) == ("pages", 1, 3)
        assert pages.fields["detail"] == "page 2 of 3"
