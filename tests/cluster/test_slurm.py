"""A real SLURM: a job array over the blocks of a volume, and workers of Dask as jobs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.cluster.slurm import slurm
from tests.commands import ROOT, picture, write_noisy
from tests.volumes import OPTIONS, values, write_ome_zarr

pytestmark = pytest.mark.slow
DENOISE = [sys.executable, "-m", "self2self", "denoise"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with slurm(tmp_path_factory.mktemp("slurm")) as made:
        yield {**made, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}


def test_a_job_array_makes_the_bits_of_one_machine(environment: dict[str, str], tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", minversion="3", reason="pip install 'self2self[zarr]'")
    write_ome_zarr(tmp_path / "volume.ome.zarr", values((8, 64, 64)), chunks=(1, 32, 32))
    subprocess.run(
        [*DENOISE, "volume.ome.zarr", "-o", "serial.zarr", *OPTIONS], cwd=tmp_path, env=environment, check=True
    )
    job = f"{' '.join([*DENOISE, 'volume.ome.zarr', *OPTIONS])} --part $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
    command = ["sbatch", "--wait", "--array=1-2", "--output=job-%a.log", f"--wrap={job}"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    told = "\n".join(path.read_text() for path in sorted(tmp_path.glob("job-*.log")))
    assert done.returncode == 0, (done.stderr, told)
    assert told.count("not complete yet") <= 1
    names = ("volume.denoised.ome.zarr", "serial.zarr")
    made, expected = (zarr.open_array(str(tmp_path / name / "s0"), mode="r")[...] for name in names)
    assert np.array_equal(made, expected)
    assert not list(tmp_path.glob(".*.parts"))


DASK = """
import sys
from distributed import Client
from dask_jobqueue import SLURMCluster
from self2self.distributed import denoise_many
from self2self.jobs import EnsembleOptions, FitOptions, OutputOptions
fitting = FitOptions(steps=1, init="scratch", neighbours=0)
passes = EnsembleOptions(passes=1, engine="ort", batch=1)
with SLURMCluster(
    cores=1, processes=1, memory="1500MB", walltime="00:10:00", interface="lo", python=sys.executable,
    scheduler_options={"dashboard_address": None}, worker_extra_args=["--no-dashboard"],
) as cluster, Client(cluster) as client:
    cluster.scale(jobs=2)
    outputs = OutputOptions("out/")
    for source, result in denoise_many(sys.argv[1:], client, fitting=fitting, options=passes, outputs=outputs):
        print(source, result.output)
"""


def test_workers_of_dask_are_jobs(environment: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue", reason="pip install 'self2self[dask]'")
    names = [f"{number}.png" for number in range(2)]
    for number, name in enumerate(names):
        write_noisy(tmp_path / name, (40, 48), seed=number)
    subprocess.run([*DENOISE, *names, "-o", "serial/", *OPTIONS], cwd=tmp_path, env=environment, check=True)
    (tmp_path / "run.py").write_text(DASK)
    done = subprocess.run(
        [sys.executable, "run.py", *names],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    logs = "\n".join(path.read_text()[-1500:] for path in tmp_path.glob("slurm-*.out"))
    assert done.returncode == 0, (done.stderr[-3000:], logs)
    for number in range(len(names)):
        name = f"{number}.denoised.png"
        assert np.array_equal(picture(tmp_path / "out" / name), picture(tmp_path / "serial" / name))
