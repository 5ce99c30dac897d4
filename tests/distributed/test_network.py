"""Two network namespaces without a shared disk: images go to the worker as bytes, and results come back so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.commands import ROOT, picture, write_noisy
from tests.volumes import OPTIONS

pytestmark = pytest.mark.slow
HERE, THERE = "10.77.0.1", "10.77.0.2"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@contextmanager
def namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces that see each other and nothing else; skips where they cannot be made."""
    names = (f"s2s-a-{os.getpid()}", f"s2s-b-{os.getpid()}")
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("network namespaces need the programs ip and unshare")
    with ExitStack() as stack:
        for name in names:
            if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
                pytest.skip("network namespaces may not be made here: run as root")
            stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=False)
        ends = ["link", "add", "s2s0", "netns", names[0], "type", "veth", "peer", "name", "s2s0", "netns", names[1]]
        if subprocess.run(["ip", *ends], capture_output=True, check=False).returncode:
            pytest.skip("no virtual Ethernet here")
        for name, address in zip(names, (HERE, THERE), strict=True):
            for command in (["addr", "add", f"{address}/24", "dev", "s2s0"], ["link", "set", "s2s0", "up"]):
                subprocess.run(["ip", "-n", name, *command], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield names


@contextmanager
def running(command: list[str], folder: Path, log: str) -> Iterator[None]:
    with (folder / log).open("w") as out:
        process = subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stdout=out, stderr=out)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()


def test_images_travel_as_bytes_between_machines_without_a_shared_disk(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="pip install 'self2self[dask]'")
    hidden, other = tmp_path / "images", tmp_path / "other"
    for folder in (hidden, other):
        folder.mkdir()
    for number in range(2):
        write_noisy(hidden / f"{number}.png", (40, 48), seed=number)
    denoise = [sys.executable, "-m", "self2self", "denoise", "0.png", "1.png", *OPTIONS]
    subprocess.run([*denoise, "-o", "serial/"], cwd=hidden, env=ENVIRONMENT, check=True)
    with namespaces() as (here, there):
        scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", HERE, "--port", "8786"]
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", f"tcp://{HERE}:8786", "--nthreads", "1"]
        # The worker does not see the images: something else is mounted over their folder.
        mounted = 'mount -t tmpfs none "$0" && exec "$@"'
        unseen = ["unshare", "--mount", "sh", "-c", mounted, str(hidden)]
        with (
            running(["ip", "netns", "exec", here, *scheduler, "--no-dashboard"], other, "scheduler.log"),
            running(["ip", "netns", "exec", there, *unseen, *worker, "--no-dashboard"], other, "worker.log"),
        ):
            command = [*denoise, "-o", "out/", "--scheduler", f"tcp://{HERE}:8786", "--no-shared-disk"]
            done = subprocess.run(
                ["ip", "netns", "exec", here, *command],
                cwd=hidden,
                env=ENVIRONMENT,
                capture_output=True,
                text=True,
                timeout=180,
                check=False,
            )
    logs = [(other / name).read_text()[-2000:] for name in ("scheduler.log", "worker.log")]
    assert done.returncode == 0, (done.stdout, done.stderr, *logs)
    for number in range(2):
        name = f"{number}.denoised.png"
        assert np.array_equal(picture(hidden / "out" / name), picture(hidden / "serial" / name))
