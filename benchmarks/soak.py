"""Show whether memory, file handles, threads or temporary files grow while one process denoises many images.

    python -m benchmarks.soak --images 300 --calls 50 -o RESULT.json

Two processes are watched from outside, each at the moments at which an image begins or a call ends:

- the command `self2self denoise FOLDER`, which fits a network to each of the images for a single step, and predicts in
  a single pass, as is the default;
- a program that calls `self2self.denoise` from several threads at the same time.

Sizes and channels of the images differ. The growth is that from the second fifth of the moments to the last: of the
medians for memory, of the minima for what is counted: a file that is open for a moment is no growth. The first fifth
loads libraries and fills caches.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results_file import provenance, result_parser, write_result
from self2self.machine.files import is_temporary

SIZES = ((32, 32), (40, 33), (33, 48), (64, 40))
CALLS = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import self2self
from benchmarks.soak import noisy

calls, threads = map(int, sys.argv[1:])
options = self2self.FitOptions(steps=1)
with ThreadPoolExecutor(threads) as pool:
    for number, result in enumerate(pool.map(lambda i: self2self.denoise(noisy(i), fit_options=options), range(calls))):
        assert np.isfinite(result.image).all()
        print(number, flush=True)
"""
"""Makes CALLS calls in THREADS threads, and prints a line after each."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What a process holds at one moment."""

    memory_bytes: int
    handles: int
    threads: int
    temporary_files: int


def noisy(number: int) -> np.ndarray:
    """Image `number`: uint8 [height, width] or [height, width, 3]."""
    shape = SIZES[number % len(SIZES)] + ((3,) if number % 3 else ())
    values = np.random.default_rng(number).normal(120, 30, shape)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def watched(command: Sequence[str], folder: Path, starts: str = "") -> Iterator[Moment]:
    """Run `command` in `folder`, and yield what it holds whenever it prints a line that begins with `starts`.

    Raises:
        CalledProcessError: the exit code is not 0.
    """
    import psutil

    places = {name: folder / name for name in ("TMPDIR", "SELF2SELF_CACHE")}
    for place in places.values():
        place.mkdir()
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, **{name: str(place) for name, place in places.items()}, "PYTHONPATH": root}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        seen, watch = [], psutil.Process(process.pid)
        for line in process.stdout or ():
            seen.append(line)
            if line.startswith(starts):
                with watch.oneshot():
                    memory, handles, threads = watch.memory_info().rss, watch.num_fds(), watch.num_threads()
                yield Moment(memory, handles, threads, len(list(places["TMPDIR"].rglob("*"))))
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command, "".join(seen[-20:]))


def growth(moments: Sequence[Moment]) -> dict[str, Any]:
    """What the process held, and by how much that grew from the second fifth of the moments to the last.

    Raises:
        ValueError: there are fewer than five moments.
    """
    if len(moments) < 5:
        raise ValueError(f"{len(moments)} moments; expected at least 5.")
    fifth = len(moments) // 5
    early, late = moments[fifth : 2 * fifth], moments[-fifth:]
    memory = [statistics.median(moment.memory_bytes for moment in part) for part in (early, late)]
    grown: dict[str, Any] = {
        "moments": len(moments),
        "memory_megabytes": round(memory[1] / 1e6, 1),
        "memory_growth_megabytes": round((memory[1] - memory[0]) / 1e6, 1),
    }
    for name in ("handles", "threads", "temporary_files"):
        counts = [min(getattr(moment, name) for moment in part) for part in (early, late)]
        grown |= {name: counts[1], f"{name}_growth": counts[1] - counts[0]}
    return grown


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name).resolve()


def left_behind(folder: Path) -> int:
    """Number of temporary files in `folder` and all folders in it."""
    return sum(is_temporary(path) or "TMPDIR" in path.relative_to(folder).parts[:-1] for path in folder.rglob("*"))


def images_in_one_process(count: int) -> tuple[list[Moment], int]:
    """Denoise `count` images in one command; returns a moment for each, and the number of files that are left."""
    from PIL import Image

    with _folder() as folder:
        (folder / "in").mkdir()
        for number in range(count):
            Image.fromarray(noisy(number)).save(folder / "in" / f"{number:04}.png")
        command = [sys.executable, str(Path(__file__).parents[1] / "cli.py"), "denoise", "in", "-o", "out/"]
        return list(watched([*command, "--steps", "1"], folder, "image ")), left_behind(folder)


def calls_in_threads(count: int, threads: int) -> tuple[list[Moment], int]:
    """Call `self2self.denoise` `count` times; returns a moment for each, and the number of files that are left."""
    with _folder() as folder:
        command = [sys.executable, "-c", CALLS, str(count), str(threads)]
        return list(watched(command, folder)), left_behind(folder)


def soak_rows(images: int, calls: int, threads: int = 4) -> list[dict[str, Any]]:
    """Watch both processes; returns what each held in the end, and how it grew."""
    rows = []
    for what, watch in (
        (f"{images} images in one command", lambda: images_in_one_process(images)),
        (f"{calls} calls from Python in {threads} threads", lambda: calls_in_threads(calls, threads)),
    ):
        moments, left = watch()
        rows.append({"what": what, **growth(moments), "left_behind": left})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Watch both processes, and write the result."""
    parser = result_parser(__doc__)
    parser.add_argument("--images", type=int, default=300, help="images of the command")
    parser.add_argument("--calls", type=int, default=50, help="calls from Python")
    parser.add_argument("--threads", type=int, default=4, help="threads that call")
    arguments = parser.parse_args()
    rows = soak_rows(arguments.images, arguments.calls, arguments.threads)
    write_result(arguments.output, {**provenance("soak"), "rows": rows})


if __name__ == "__main__":
    main()
