"""Measure what many files, many workers and large volumes cost beside the denoising itself.

    python -m benchmarks.cluster bookkeeping workers scheduler volume -o benchmarks/results/cluster.json

- ``bookkeeping``: milliseconds a file of a command with 10,000 files whose results exist (`--files`).
- ``workers``: processor seconds of two worker processes of one thread each, and of one process of two threads, for
  the same images.
- ``scheduler``: seconds of Dask's scheduler for a task, seconds of a block and of reading and writing it; and from
  these figures, simulated, the share of the time that 1,000 workers lose to scheduler and storage.
- ``volume``: peak memory for a zarr of 2 GB, of which a few blocks hold noise and the others a single value (so that
  it ends in minutes), and for one of a tenth of that.

Processor seconds and memory hardly depend on other work on the machine; milliseconds and seconds do. A file that exists
keeps its other parts.
"""

from __future__ import annotations

import heapq
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.results_file import Row, provenance, result_parser, write_result

SIMULATED_WORKERS = 1000
SIMULATED_TASKS = 20_000
BLOCK_BYTES = 4 * 512 * 512 * 2
STORAGE_BYTES_A_SECOND = 50e6
"""What one worker reads and writes: a shared disk or an object store under load. It is assumed, not measured."""


def bookkeeping(count: int) -> Row:
    """Seconds of a command that finds all results, for `count` files and for one."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    seconds = {}
    with tempfile.TemporaryDirectory() as name:
        for files in (1, count):
            folder, results = Path(name) / f"{files}", Path(name) / f"{files}-results"
            folder.mkdir()
            results.mkdir()
            first = folder / "000000.png"
            Image.fromarray(pixels).save(first)
            for number in range(files):
                if number:
                    os.link(first, folder / f"{number:06}.png")
                os.link(first, results / f"{number:06}.denoised.png")
            manifest = Path(name) / f"{files}.jsonl"
            command = [
                sys.executable,
                "-m",
                "self2self",
                "denoise",
                str(folder),
                "--quiet",
                "--manifest",
                str(manifest),
            ]
            start = time.perf_counter()
            done = subprocess.run(
                [*command, "-o", f"{results}/", "--part", "1/1"], capture_output=True, text=True, check=False
            )
            seconds[files] = time.perf_counter() - start
            if done.returncode:
                raise SystemExit(done.stderr)
    return {"files": count, "milliseconds_a_file": round(1000 * (seconds[count] - seconds[1]) / (count - 1), 3)}


def denoise_images(paths: list[str], threads: int) -> float:
    """Denoise images with `threads` threads in this process; returns its processor seconds."""
    import self2self
    from self2self.distributed import Share
    from self2self.jobs.worker import at_work

    with at_work(Share(threads=threads)):
        for path in paths:
            self2self.denoise(np.asarray(Image.open(path)), seed=0)
    times = psutil.Process().cpu_times()
    return times.user + times.system


def workers(side: int, images: int) -> Row:
    """Processor seconds of one process of two threads, and of two processes of one thread at the same time."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        rows, columns = np.mgrid[:side, :side]
        clean = 120 + 60 * np.sin(columns / 17) * np.cos(rows / 23)
        paths = []
        for number in range(images):
            paths.append(f"{name}/{number}.png")
            noisy = np.clip(clean + rng.normal(0, 25, clean.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(paths[-1])
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            one = pool.submit(denoise_images, paths, 2).result()
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            halves = [pool.submit(denoise_images, paths[part::2], 1) for part in (0, 1)]
            two = sum(half.result() for half in halves)
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            start = pool.submit(denoise_images, [], 1).result()
    return {
        "images": images,
        "side": side,
        "one_process_of_two_threads_cpu_seconds": round(one, 1),
        "two_processes_of_one_thread_cpu_seconds": round(two, 1),
        "start_of_a_process_cpu_seconds": round(start, 1),
        "ratio": round(two / one, 3),
    }


def nothing(number: int) -> int:
    """A task without work."""
    return number


def scheduler(block_seconds: float) -> Row:
    """Seconds of the scheduler for a task, measured; and what `SIMULATED_WORKERS` lose to it, simulated."""
    import dask
    import distributed

    from self2self.distributed import connected
    from self2self.jobs.tasks import run_all

    with (
        dask.config.set({"distributed.admin.low-level-log-length": 0}),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster,
        connected(cluster.scheduler_address) as client,
    ):
        executor = client.get_executor(pure=False)
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            list(run_all(executor, nothing, range(1000), window=64))
            seconds.append((time.perf_counter() - start) / 1000)
    task = statistics.median(seconds)
    storage = 2 * BLOCK_BYTES / STORAGE_BYTES_A_SECOND
    return {
        "scheduler_seconds_a_task": round(task, 5),
        "block_seconds": block_seconds,
        "storage_seconds_a_block": round(storage, 3),
        "simulated_workers": SIMULATED_WORKERS,
        "overhead": round(overhead(SIMULATED_WORKERS, SIMULATED_TASKS, block_seconds, task, storage), 4),
    }


def overhead(count: int, tasks: int, block_seconds: float, task_seconds: float, storage_seconds: float) -> float:
    """The share of the workers' time that is no denoising, by simulation.

    The scheduler hands out one task after the other, `task_seconds` each. Each worker has the next task while it works
    on one. Reading and writing take `storage_seconds` in addition.

    Args:
        count: number of workers.
        tasks: number of tasks.
        block_seconds: of denoising a block.
        task_seconds: of the scheduler for a task.
        storage_seconds: of reading and writing a block.
    """
    free = [0.0] * count
    heapq.heapify(free)
    clock, ends = 0.0, []
    for _ in range(tasks):
        # A worker asks for its next task when it begins one.
        begin = heapq.heappop(free)
        clock = max(clock, begin - block_seconds) + task_seconds
        end = max(begin, clock) + block_seconds + storage_seconds
        ends.append(end)
        heapq.heappush(free, end)
    # As many tasks as the workers finish in whole rounds without any overhead.
    ideal = tasks / count * block_seconds
    return 1 - ideal / max(ends)


def block_seconds() -> float:
    """Seconds of a block of 4 pages of 512x512 and its halo in one thread."""
    script = (
        "import time, numpy as np, self2self\n"
        "from self2self.distributed import Share\n"
        "from self2self.jobs.worker import at_work\n"
        "rng = np.random.default_rng(0)\n"
        "noisy = rng.normal(1000, 100, (4, 640, 640)).astype(np.uint16)\n"
        "with at_work(Share(threads=1)):\n"
        "    model = self2self.fit(noisy[0, :256, :256])\n"
        "    start = time.perf_counter()\n"
        "    model.predict(noisy, axes='ZYX', engine='mnn')\n"
        "print(time.perf_counter() - start)\n"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True) for _ in range(1)
    ]
    return round(statistics.median(float(run.stdout.split()[-1]) for run in runs), 2)


VOLUME = """
import sys
from pathlib import Path
import numpy as np, zarr
from self2self.jobs import denoise_job
from self2self.machine.system import peak_memory_bytes
pages, side = int(sys.argv[1]), 2048
array = zarr.create_array(
    "volume.zarr", shape=(pages, side, side), chunks=(1, 256, 256), shards=(1, 1024, 1024), dtype="uint16"
)
rows, columns = np.mgrid[:512, :512]
noise = np.random.default_rng(0).normal(0, 300, (4, 512, 512))
array[:4, :512, :512] = np.round(4000 + 2500 * np.sin(columns / 17) * np.cos(rows / 23) + noise)
result = denoise_job(Path("volume.zarr"), __import__("self2self").FitOptions(page=1))
print(peak_memory_bytes(), result.blocks, array.nbytes)
"""


def volume(pages: tuple[int, ...]) -> Row:
    """Peak memory for volumes of some numbers of pages of 2048x2048 with 16 bits."""
    rows = []
    for count in pages:
        with tempfile.TemporaryDirectory() as name:
            command = [sys.executable, "-c", VOLUME, str(count)]
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
            done = subprocess.run(command, cwd=name, env=environment, check=True, capture_output=True, text=True)
        peak, blocks, nbytes = map(int, done.stdout.split())
        rows.append({"bytes": nbytes, "blocks": blocks, "peak_memory_bytes": peak})
    return {"volumes": rows}


def main() -> None:
    """Run the benchmark."""
    parser = result_parser(__doc__)
    parser.add_argument("parts", nargs="+", choices=("bookkeeping", "workers", "scheduler", "volume"))
    parser.add_argument("--files", type=int, default=10_000, help="number of files for the bookkeeping")
    parser.add_argument("--images", type=int, default=4, help="number of images for the workers, even")
    parser.add_argument("--side", type=int, default=256, help="their side in pixels")
    options = parser.parse_args()
    measure: dict[str, Any] = {
        "bookkeeping": partial(bookkeeping, options.files),
        "workers": partial(workers, options.side, options.images),
        "scheduler": lambda: scheduler(block_seconds()),
        "volume": partial(volume, (26, 256)),
    }
    earlier = json.loads(options.output.read_text()) if options.output.is_file() else {}
    for part in options.parts:
        # Each part says by which command and where it was measured.
        earlier[part] = {**measure[part](), **provenance("cluster")}
        print(part, earlier[part], flush=True)
        write_result(options.output, earlier)


if __name__ == "__main__":
    main()
