"""Progress on a terminal and in a log."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from self2self.cli.console import LINE_WIDTH_WITHOUT_NAME, Bars, Console, exits_with_code
from self2self.runtime.ensemble.plain_loop import PlainMean
from self2self.train.session import FitReport


def drawn(name: str, *, columns: int = 80) -> list[str]:
    """The last lines that bars draw for the second image of four, on a terminal of that width."""
    from rich.console import Console as Terminal

    bars = Bars()
    bars.image_started(Path("folder/first.png"), 1, 4)
    bars.page_started(1, 3)
    bars.image_started(Path("folder") / name, 2, 4)
    bars.benchmark_step("something", 3, 20)
    shown = Terminal(file=io.StringIO(), width=columns)
    with shown.capture() as capture:
        shown.print(bars._progress.get_renderable())
    return capture.get().splitlines()


def test_bars_name_the_current_of_several_images() -> None:
    (line,) = drawn("[b].png")
    assert line.startswith("2/4 [b].png measuring ")
    assert "3/20" in line


def test_a_long_name_leaves_room_for_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "a-photograph-with-a-very-long-name.png"
    (line,) = drawn(name)
    assert f"2/4 {name[: 80 - LINE_WIDTH_WITHOUT_NAME - 1]}… measuring" in line
    assert "3/20" in line
    assert line.rstrip().endswith(" left")


def test_a_log_has_a_heading_and_keeps_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    class Log(io.TextIOWrapper):
        """A buffered file, as stdout is when it is not a terminal."""

    raw = io.BytesIO()
    log = Log(raw, encoding="utf-8", line_buffering=False)
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stdout", log)
    monkeypatch.setattr(sys, "stderr", errors)
    console = Console(as_json=False, quiet=False)
    with console.progress() as observer:
        observer.image_started(Path("a.png"), 1, 2)
    console.line("a.denoised.png: written")
    # The log is neither flushed nor closed yet.
    assert raw.getvalue().decode().splitlines() == ["a.denoised.png: written"]
    assert errors.getvalue() == "image 1 of 2: a.png\n"


@pytest.mark.parametrize(("loss", "text"), [(0.0, "loss 0 "), (0.25, "loss 0.25 "), (None, " steps/s")])
def test_the_bar_of_a_fit_shows_its_loss_even_if_it_is_0(loss: float | None, text: str) -> None:
    bars = Bars()
    bars.fit_step(FitReport(3, 9, loss, 1.0))
    (task,) = bars._progress.tasks
    assert text in task.fields["detail"]
    assert ("loss" in task.fields["detail"]) is (loss is not None)
    assert "nan" not in task.fields["detail"]


def test_the_bar_of_a_large_image_tells_its_pixels_and_the_time_left_however_slow_a_tile_is() -> None:
    bars, now = Bars(), [0.0]
    bars._progress.get_time = lambda: now[0]
    bars.passes_started(2000, 3000)
    for tile in range(4):
        mean = PlainMean((3, 8, 8), tile, tiles=4)
        for view in range(2):
            mean.add(np.zeros((3, 8, 8), np.float32))
            now[0] += 100.0
            bars.pass_run(mean, 2)
            (task,) = bars._progress.tasks
            assert task.fields["detail"] == f"{6 * (2 * tile + view + 1) / 8:.1f} of 6.0 megapixels"
            if task.completed > 1:
                assert task.time_remaining == pytest.approx(100 * (8 - task.completed))
    assert task.finished


def test_a_gpu_without_memory_ends_any_command_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @exits_with_code
    def command() -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.raises(typer.Exit) as end:
        command()
    assert end.value.exit_code == 5
    assert "out of memory. Close other programs" in capsys.readouterr().err


@pytest.mark.parametrize("columns", [40, 52, 66, 80, 120])
@pytest.mark.parametrize("several", [True, False])
def test_a_narrow_terminal_keeps_bar_and_count(columns: int, several: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    bars = Bars()
    if several:
        bars.image_started(Path("a-photograph-with-a-very-long-name.png"), 2, 4)
    bars.fit_step(FitReport(1, 1000, 0.01234, 0.1))
    bars.fit_step(FitReport(500, 1000, 0.01234, 40.0))
    with bars._terminal.capture() as capture:
        bars._terminal.print(bars._progress.get_renderable())
    (line,) = capture.get().splitlines()
    assert " 500/1000" in line
    assert "━━" in line
    assert "fitting" in line
    assert ("loss 0.01234  12.5 steps/s" in line) is (columns >= 80)
    assert line.rstrip().endswith(" left") is (columns > 40)
