"""A fit in its run folder: real interruptions, kills and continuations, in processes of their own."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from self2self.errors import BusyError, InputError, InterruptedRun, ResourceError
from self2self.imaging.metrics import psnr
from self2self.imaging.picture import PREVIEW_SIDE
from self2self.train import session
from self2self.train.checkpoint import load_weights
from self2self.train.run_folder import History, Run
from self2self.train.session import FitReport, fit_run
from tests.commands import ctrl_c
from tests.train.test_fit import TINY, diverging_at, image_of
from tests.train.test_run_folder import config_of

LONG = replace(TINY, steps=40)

SCRIPT = """
import sys
import time
from dataclasses import replace
from pathlib import Path
from self2self.errors import InterruptedRun
from self2self.train import session
from self2self.train.run_folder import Run
from tests.train.test_run_folder import config_of
from tests.train.test_session import LONG
from tests.train.test_fit import image_of

session.CHECKPOINT_SECONDS = 0.0

def on_report(report):
    print(report.step, flush=True)
    time.sleep(0.05)

try:
    session.fit_run(Run(Path(sys.argv[1])), config_of(recipe=LONG), image_of(64, 64), on_report=on_report)
except InterruptedRun as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


def started(folder: Path, until_step: int) -> subprocess.Popen[str]:
    """A fit in another process that has taken `until_step` steps."""
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= until_step:
            return process
    raise AssertionError("the fit ended early")


def uninterrupted(folder: Path) -> Run:
    run = Run(folder)
    fit_run(run, config_of(recipe=LONG), image_of(64, 64))
    return run


def picture(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.copy()


def assert_same_model(one: Run, other: Run) -> None:
    a, b = load_weights(one.model_path)[0], load_weights(other.model_path)[0]
    assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_fit_continues_to_the_same_bits(tmp_path: Path, number: signal.Signals) -> None:
    process = started(tmp_path / "stopped", until_step=5)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    run = Run(tmp_path / "stopped")
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert "The same command goes on." in output
    assert not run.is_fitted()
    reports: list[FitReport] = []
    fit_run(run, config_of(recipe=LONG), image_of(64, 64), resume=True, on_report=reports.append)
    assert reports[0].step >= 5
    assert_same_model(run, uninterrupted(tmp_path / "whole"))
    steps = [entry["step"] for entry in History(run.history_path).read()]
    assert steps == sorted(set(steps))
    assert not [p.name for p in run.folder.iterdir() if "partial" in p.name and number != signal.SIGKILL]


def test_the_folder_holds_what_the_design_says(tmp_path: Path) -> None:
    run = uninterrupted(tmp_path / "run")
    names = {"config.json", "model.safetensors", "history.jsonl", "preview.png"}
    assert {p.name for p in run.folder.iterdir()} == names
    assert picture(run.preview_path).size == (64, 64)
    last = History(run.history_path).read()[-1]
    assert last["step"] == LONG.steps
    assert set(last) == {"step", "loss", "learning_rate", "seconds"}


def test_checkpoint_preview_and_history_come_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(session, "PREVIEW_SECONDS", 0.0)
    monkeypatch.setattr(session, "PREVIEW_SHARE", 1e9)
    monkeypatch.setattr(session, "HISTORY_SECONDS", 0.0)
    written: list[tuple[bool, bool]] = []
    run = Run(tmp_path / "run")

    def on_report(report: FitReport) -> None:
        written.append((run.state_path.is_file(), run.preview_path.is_file()))

    fit_run(run, config_of(recipe=replace(TINY, steps=3)), image_of(64, 64), on_report=on_report)
    assert all(checkpoint and preview for checkpoint, preview in written)
    assert [entry["step"] for entry in History(run.history_path).read()] == [1, 2, 3]


def test_reference_is_scored_and_changes_nothing(tmp_path: Path) -> None:
    clean = image_of(64, 64)
    noisy = np.clip(clean + 0.1 * np.random.default_rng(0).standard_normal(clean.shape), 0, 1).astype(np.float32)
    plain = Run(tmp_path / "plain")
    fit_run(plain, config_of(), noisy)
    scored = Run(tmp_path / "scored")
    report = fit_run(scored, config_of(), noisy, reference=clean)
    assert_same_model(plain, scored)
    last = History(scored.history_path).read()[-1]
    assert last["psnr"] == report.psnr
    preview = np.asarray(picture(scored.preview_path)).transpose(2, 0, 1) / 255
    assert report.psnr == pytest.approx(psnr(preview, clean), abs=0.05)


def test_reference_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="have to be equal"):
        fit_run(Run(tmp_path / "run"), config_of(), image_of(64, 64), reference=image_of(64, 96))
    assert not (tmp_path / "run").exists()


def test_starting_from_a_run(tmp_path: Path) -> None:
    first = uninterrupted(tmp_path / "first")
    second = Run(tmp_path / "second")
    config = config_of(start=str(first.folder), recipe=replace(TINY, steps=1, learning_rate=0.0, average_decay=None))
    fit_run(second, config, image_of(64, 64))
    assert_same_model(first, second)


def test_an_earlier_fit_is_removed_when_a_new_one_starts(tmp_path: Path) -> None:
    run = uninterrupted(tmp_path / "run")
    run.onnx_path.write_bytes(b"model of the earlier fit")

    def check_removed(report: FitReport) -> None:
        assert not run.model_path.exists()
        assert not run.onnx_path.exists()

    fit_run(run, config_of(seed=1), image_of(64, 64), on_report=check_removed)
    assert run.config().seed == 1


@pytest.mark.parametrize("stopped_in", ["clear", "create"])
def test_old_weights_never_lie_beside_new_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_in: str
) -> None:
    run = uninterrupted(tmp_path / "run")
    old = run.config()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Run, stopped_in, stop)
        fit_run(run, config_of(recipe=LONG, seed=1), image_of(64, 64))
    assert run.config() == old
    # The old run can then be used, fitted again or replaced, as any other.
    fit_run(run, old, image_of(64, 64))
    assert_same_model(run, uninterrupted(tmp_path / "whole"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_last_step_ends_the_command_and_the_fit_is_kept(tmp_path: Path, number: signal.Signals) -> None:
    run = Run(tmp_path / "run")

    def on_report(report: FitReport) -> None:
        if report.step == TINY.steps:
            os.kill(os.getpid(), number)

    with pytest.raises(InterruptedRun, match=r"the fit is finished and saved in .*run\. The same command"):
        fit_run(run, config_of(), image_of(64, 64), on_report=on_report)
    whole = Run(tmp_path / "whole")
    fit_run(whole, config_of(), image_of(64, 64))
    assert_same_model(run, whole)
    assert not run.state_path.exists()


def test_full_disk_while_fitting_is_reported_and_leaves_the_old_files_whole(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    run = Run(tmp_path / "run")
    with ctrl_c(), pytest.raises(InterruptedRun):
        fit_run(run, config_of(recipe=replace(LONG, steps=41)), image_of(64, 64))
    size = run.state_path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        with pytest.raises(ResourceError, match="no space left"):
            fit_run(run, config_of(recipe=replace(LONG, steps=41)), image_of(64, 64), resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert run.state_path.stat().st_size == size
    assert not list(run.folder.glob(".*"))


@pytest.mark.parametrize("place", ["new_state", "predict"])
def test_no_memory_outside_the_steps_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore")

    monkeypatch.setattr(session, place, fail)
    with pytest.raises(ResourceError, match=r"^out of memory in the fit\. Close other programs, or use --recipe fast"):
        fit_run(Run(tmp_path / "run"), config_of(), image_of(64, 64))


def test_preview_of_a_large_image_is_its_middle(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    fit_run(run, config_of(recipe=replace(LONG, steps=1)), image_of(64, PREVIEW_SIDE + 40), resume=False)
    assert picture(run.preview_path).size == (PREVIEW_SIDE, 64)


def test_who_watches_sees_the_middle_at_once_and_the_fit_has_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "WATCHED_SECONDS", 0.0)
    monkeypatch.setattr(session, "WATCHED_SHARE", 1e9)
    image = image_of(64, PREVIEW_SIDE + 40)
    plain, watched, seen = Run(tmp_path / "plain"), Run(tmp_path / "watched"), []
    fit_run(plain, config_of(recipe=replace(TINY, steps=3)), image)
    fit_run(
        watched,
        config_of(recipe=replace(TINY, steps=3)),
        image,
        on_preview=lambda noisy, now: seen.append((noisy.copy(), now.copy())),
    )
    assert_same_model(plain, watched)
    assert len(seen) == 4  # one for each step, and one at the end
    for noisy, now in seen:
        np.testing.assert_array_equal(noisy, image[..., 20:-20])
        assert now.shape == noisy.shape
    assert not np.array_equal(seen[0][1], seen[-1][1])


def test_two_fits_do_not_share_a_folder(tmp_path: Path) -> None:
    process = started(tmp_path / "run", until_step=2)
    try:
        with pytest.raises(BusyError, match=r"run: another command is working there \(process \d+, .+, since \d{4}-"):
            fit_run(Run(tmp_path / "run"), config_of(recipe=replace(LONG, steps=41)), image_of(64, 64))
        assert Run(tmp_path / "run").config().recipe.steps == LONG.steps
    finally:
        process.kill()
        process.communicate(timeout=60)
    # The lock ended with the process.
    fit_run(Run(tmp_path / "run"), config_of(recipe=LONG), image_of(64, 64), resume=False)


def test_a_fit_that_diverges_gives_the_same_weights_after_interruptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(recipe=replace(TINY, schedule="constant", steps=9))
    diverging_at(5, monkeypatch, 1e4)
    whole, cut = Run(tmp_path / "whole"), Run(tmp_path / "cut")
    report = fit_run(whole, config, image_of(64, 64))
    assert (report.step, report.diverged_step) == (4, 7)
    for step in range(1, 7):
        with ctrl_c(), pytest.raises(InterruptedRun, match=f"after step {step} of 9"):
            fit_run(cut, config, image_of(64, 64), resume=step > 1)
    assert fit_run(cut, config, image_of(64, 64), resume=True).diverged_step == 7
    assert_same_model(cut, whole)
    assert load_weights(cut.model_path)[2].steps == 4
