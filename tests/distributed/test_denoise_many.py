"""Images and volumes on workers: the bits of one process, whoever is killed, hangs, or does not see the files."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from self2self.distributed import Patience, Share, connected, denoise_many, workers_of
from self2self.distributed import many as many_module
from self2self.errors import BusyError, InputError, Self2SelfError, UsageError
from self2self.jobs import EnsembleOptions, FitOptions, Observer, OutputOptions, denoise_job, series_job
from self2self.jobs import single_pass as single_pass_job
from self2self.jobs.manifest import read_manifest
from self2self.jobs.tasks import run_all
from self2self.jobs.worker import ModelFile, RunFiles, at_work, worker_state
from self2self.machine.system import compute_threads, free_memory_bytes, host_name, limits
from self2self.train import single_pass
from self2self.train.run_folder import Run
from tests.commands import picture, run_cli, write_noisy
from tests.distributed.programs import Programs, dask_programs
from tests.volumes import FIT_OPTIONS, FITTING, PASSES, values, write_ome_zarr

SIZE = (40, 48)


@pytest.fixture(autouse=True)
def own_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own, and no limits that are left for other tests."""
    monkeypatch.chdir(tmp_path)
    yield
    limits.threads = limits.memory_bytes = None


def write_images(count: int) -> list[Path]:
    return [write_noisy(Path(f"{number}.png"), SIZE, seed=number) for number in range(count)]


def serial(paths: list[Path]) -> dict[str, np.ndarray]:
    """What one process makes of the images."""
    for path in paths:
        denoise_job(path, FITTING, PASSES, OutputOptions(Path("serial/"), into_folder=True))
    return {path.name: picture(Path("serial") / f"{path.stem}.denoised.png") for path in paths}


def options(**more: Any) -> dict[str, Any]:
    return {"fitting": FITTING, "options": PASSES, "outputs": OutputOptions("out/"), **more}


def results(paths: list[Path]) -> dict[str, np.ndarray]:
    return {path.name: picture(Path("out") / f"{path.stem}.denoised.png") for path in paths}


def assert_same(made: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert made.keys() == expected.keys()
    assert all(np.array_equal(made[name], expected[name]) for name in made)


@pytest.mark.parametrize("shared_disk", [True, False])
def test_any_executor_makes_the_same_bits(shared_disk: bool) -> None:
    paths = write_images(3)
    expected = serial(paths)
    kept = sorted(Path("runs").iterdir())
    with ThreadPoolExecutor(2) as executor:
        answers = dict(denoise_many(paths, executor, shared_disk=shared_disk, **options()))
        assert {path: answer.output for path, answer in answers.items()} == {
            path: Path("out") / f"{path.stem}.denoised.png" for path in paths
        }
        assert_same(results(paths), expected)
        before = {path.name: path.stat().st_mtime_ns for path in Path("out").iterdir()}
        again = dict(denoise_many(paths, executor, **options()))
        assert all(answer.to_json()["done_already"] for answer in again.values())
    assert {path.name: path.stat().st_mtime_ns for path in Path("out").iterdir()} == before
    # The run folders of workers are gone.
    assert sorted(Path("runs").iterdir()) == kept


@pytest.mark.parametrize("seen", [True, False], ids=["run folder is seen", "run folder is elsewhere"])
def test_one_fit_serves_a_series_and_travels_once(seen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Images of any size are worth a single pass, which is good, and is there at once.
    monkeypatch.setattr(single_pass_job, "WORTHWHILE_PIXELS", 1)
    monkeypatch.setattr(single_pass, "calibrate", lambda weights, *rest, **options: weights)
    good = single_pass.Check(0.5, 3.0, 9.0, transferred=True)
    monkeypatch.setattr(single_pass, "check_single_pass", lambda *arguments, **options: good)
    paths = write_images(3)
    flat = Path("flat.png")
    Image.new("RGB", SIZE[::-1], (90, 120, 30)).save(flat)
    fitting, passes = FitOptions(steps=0), EnsembleOptions(engine="ort")
    serial_notes: list[str] = []
    serial_outputs = OutputOptions("serial/")
    series_job(paths[1], [*paths, flat], fitting, passes, serial_outputs, Observer(note=serial_notes.append))
    expected = {path.name: picture(Path("serial") / f"{path.stem}.denoised.png") for path in [*paths, flat]}
    fit_folders = list(Path("runs").iterdir())
    assert len(fit_folders) == 1
    assert Run(fit_folders[0]).plain_path.is_file(), "the single pass has to travel, too"
    if not seen:
        monkeypatch.setattr(RunFiles, "are_in", lambda self, folder: False)
    sent: list[str] = []
    original = many_module.with_files_of_series

    def told(series: RunFiles, task: Any, answer: object) -> Any:
        fuller = original(series, task, answer)
        sent.extend([] if fuller is None else [task.shown.name])
        return fuller

    monkeypatch.setattr(many_module, "with_files_of_series", told)
    notes: list[str] = []
    with ThreadPoolExecutor(2) as executor:
        workers = workers_of(executor, window=1)
        given = {"fitting": fitting, "options": passes, "observer": Observer(note=notes.append)}
        sources = [*paths, flat, Path("missing.png")]
        answers = dict(
            denoise_many(sources, workers, like=paths[1], shared_disk=seen, outputs=OutputOptions("out/"), **given)
        )
        assert sent == ([] if seen else ["0.png"])
        assert isinstance(answers.pop(Path("missing.png")), InputError)
        assert_same(results([*paths, flat]), expected)
        assert all(answers[path].to_json()["plain"] for path in paths)
        again = dict(denoise_many(paths, workers, like=paths[1], outputs=OutputOptions("serial/"), **given))
    assert all(answer.to_json()["done_already"] for answer in again.values()), "what one process wrote counts"
    assert list(Path("runs").iterdir()) == fit_folders
    unlike = [note for note in serial_notes if note.startswith("flat.png: ") and "the noise of 1.png" in note]
    assert len(unlike) == 1
    assert notes.count(unlike[0]) == 1
    worker_state().close()


def test_a_source_that_cannot_be_read_does_not_stop_the_others() -> None:
    paths = [*write_images(2), Path("missing.png"), Path("text.png")]
    Path("text.png").write_text("no image")
    with ThreadPoolExecutor(2) as executor:
        answers = dict(denoise_many(paths, executor, **options()))
    failed = {path: str(answer) for path, answer in answers.items() if isinstance(answer, Self2SelfError)}
    assert set(failed) == set(paths[2:])
    assert "missing.png: there is no such file" in failed[Path("missing.png")]
    assert all("\n" not in message for message in failed.values())


def test_errors_on_a_worker_name_the_machine_and_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = write_images(1)
    monkeypatch.setattr("self2self.jobs.worker.host_name", lambda: "node7")
    path.write_bytes(path.read_bytes()[:-900])
    with ThreadPoolExecutor(1) as executor:
        ((_, error),) = denoise_many([path], executor, **options())
    assert isinstance(error, InputError)
    assert str(error).startswith("0.png: ")
    assert str(error).endswith("(on node7).")


def test_workers_of_another_version_are_named() -> None:
    (path,) = write_images(1)
    with ThreadPoolExecutor(1) as executor, pytest.MonkeyPatch.context() as patch:
        original = many_module.ImageTask
        patch.setattr(many_module, "ImageTask", lambda *values: replace(original(*values), version="9.9"))
        ((_, error),) = denoise_many([path], executor, **options())
    assert "has self2self 0.1.0, and the command is of 9.9" in str(error)
    assert "pip install self2self==9.9" in str(error)


def test_a_folder_that_is_in_use_is_tried_again_but_not_for_ever() -> None:
    tries: list[int] = []

    def busy(task: int) -> int:
        tries.append(task)
        if len(tries) < 3:
            raise BusyError("in use")
        return 2 * task

    with ThreadPoolExecutor(1) as executor, pytest.MonkeyPatch.context() as patch:
        patch.setattr("self2self.jobs.tasks.BUSY_SECONDS", 0.01)
        assert list(run_all(executor, busy, [21], window=2)) == [(21, 42)]
        tries.clear()
        ((_, error),) = run_all(executor, busy, [21], window=2, patience=Patience(tries=2))
    assert isinstance(error, BusyError)
    assert len(tries) == 2


def test_a_task_on_a_worker_that_hangs_is_given_to_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("self2self.jobs.tasks.POLL_SECONDS", 0.02)

    asked: list[int] = []

    class OneHangs(Executor):
        """Never answers the first time that it gets task 3."""

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            asked.append(args[-1])
            if args[-1] != 3 or asked.count(3) > 1:
                future.set_result(fn(*args))
            return future

    answers = run_all(OneHangs(), abs, range(6), window=2, patience=Patience(seconds=0.1))
    assert sorted(answers) == [(number, number) for number in range(6)]
    assert asked.count(3) == 2


def test_tasks_are_made_when_they_are_needed() -> None:
    made: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            yield number

    with ThreadPoolExecutor(1) as executor:
        answers = run_all(executor, abs, tasks(), window=3)
        next(answers)
        assert len(made) <= 6
        assert len(list(answers)) == 49


def test_the_share_of_a_task_counts_in_place_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    try:
        with at_work(Share(threads=2, memory_bytes=10**12)):
            assert compute_threads() == min(2, len(os.sched_getaffinity(0)))
            assert torch.get_num_threads() == 2
        with at_work(Share(memory_bytes=1)):
            assert free_memory_bytes() == 0
    finally:
        torch.set_num_threads(before)


def test_a_model_is_read_once_by_its_content(tiny_onnx: Path) -> None:
    state = worker_state()
    Path("copy.onnx").write_bytes(tiny_onnx.read_bytes())
    first = state.model(ModelFile.of(tiny_onnx))
    assert state.model(ModelFile.of(Path("copy.onnx")).by_path) is first
    state.close()


def test_something_else_is_no_client() -> None:
    with pytest.raises(UsageError, match=r"client is str; expected a distributed.Client or a concurrent.futures"):
        workers_of("tcp://login:8786")


def test_a_scheduler_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="pip install 'self2self[dask]'")
    monkeypatch.setattr("self2self.distributed.cluster.CONNECT_SECONDS", 1)
    write_images(1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    told = run_cli("denoise", "0.png", "--scheduler", address, expect=2).stderr
    assert f"--scheduler {address}: no scheduler answers there" in told
    assert "dask scheduler" in told


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """A worker that says nothing for three seconds counts as gone."""
    pytest.importorskip("distributed", reason="pip install 'self2self[dask]'")
    with dask_programs(tmp_path_factory.mktemp("cluster"), worker_ttl="3s") as made:
        yield made


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_image_is_lost_when_workers_are_killed_or_hang(cluster: Programs) -> None:
    """`DASK_KILLS=20` kills as often; a test in a hurry does with two."""
    kills = int(os.environ.get("DASK_KILLS", "2"))
    paths = write_images(kills + 4)
    expected = serial(paths)
    source = random.Random(int(os.environ.get("KILLS_SEED", "0")))
    killed = hung = 0
    with connected(cluster.scheduler_address) as client:
        answers: dict[Path, Any] = {}
        for path, answer in denoise_many(paths, client, **options()):
            answers[path] = answer
            running = cluster.worker_pids()
            if running and killed < kills:
                os.kill(source.choice(running), signal.SIGKILL)
                killed += 1
                time.sleep(source.random())
            elif running and not hung:
                hung = source.choice(running)
                os.kill(hung, signal.SIGSTOP)
    assert killed == kills
    assert [answer for answer in answers.values() if isinstance(answer, Exception)] == []
    assert_same(results(paths), expected)
    assert sorted(path.name for path in Path("out").iterdir()) == sorted(f"{path.stem}.denoised.png" for path in paths)


@pytest.fixture(scope="module")
def patient_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """No worker is taken for gone because the machine is busy: a new one would have room on its disk."""
    pytest.importorskip("distributed", reason="pip install 'self2self[dask]'")
    with dask_programs(tmp_path_factory.mktemp("patient"), worker_ttl=None) as made:
        yield made


@contextmanager
def full_disk_on_one_worker(cluster: Programs) -> Iterator[None]:
    """One of the workers can write no byte to any file."""

    def limit_files(size: int) -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    with connected(cluster.scheduler_address) as client:
        full = min(client.scheduler_info(n_workers=-1)["workers"])
        client.run(limit_files, 0, workers=[full])
        try:
            yield
        finally:
            client.run(limit_files, -1, workers=[full])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shared", [(), ("--no-shared-disk",)], ids=["shared disk", "no shared disk"])
def test_a_full_disk_on_one_worker_costs_its_images_alone(patient_cluster: Programs, shared: tuple[str, ...]) -> None:
    paths = write_images(6)
    expected = serial(paths)
    names = [path.name for path in paths]
    command = ["denoise", *names, "-o", "out/", *FIT_OPTIONS, "--passes", "1", "--engine", "ort", "--batch", "1"]
    command += ["--scheduler", patient_cluster.scheduler_address, "--manifest", "m.jsonl", *shared]
    with full_disk_on_one_worker(patient_cluster):
        told = run_cli(*command, expect=5).stderr
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert all("Free some disk space" in line and f"(on {host_name()})" in line for line in errors), errors
    states = {path: line["state"] for path, line in read_manifest(Path("m.jsonl")).items()}
    left = {path for path, state in states.items() if state == "failed"}
    assert {line.removeprefix("error: ").partition(":")[0] for line in errors} == left
    assert 0 < len(left) < len(names)
    assert {path for path, state in states.items() if state == "written"} == set(names) - left
    assert {path.name for path in Path("out").iterdir()} == {
        f"{Path(path).stem}.denoised.png" for path in set(names) - left
    }
    run_cli(*command)
    assert {line["state"] for line in read_manifest(Path("m.jsonl")).values()} == {"skipped", "written"}
    assert_same(results(paths), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_full_disk_on_one_worker_leaves_a_volume_that_the_same_command_completes(patient_cluster: Programs) -> None:
    zarr = pytest.importorskip("zarr", minversion="3", reason="pip install 'self2self[zarr]'")
    path = write_ome_zarr(Path("volume.ome.zarr"), values((24, 40, 60)), chunks=(1, 64, 64))
    denoise_job(path, FITTING, PASSES, OutputOptions(Path("serial.zarr")))
    command = ["denoise", str(path), *FIT_OPTIONS, "--passes", "1", "--engine", "ort", "--batch", "1"]
    command += ["--scheduler", patient_cluster.scheduler_address]
    with full_disk_on_one_worker(patient_cluster):
        (line,) = [line for line in run_cli(*command, expect=5).stderr.splitlines() if line.startswith("error: ")]
    assert "Free some disk space" in line
    assert f"(on {host_name()})" in line
    assert "Finished blocks are kept: the same command goes on" in line
    run_cli(*command)
    made, alone = (zarr.open_array(f"{name}/s0", mode="r")[...] for name in ("volume.denoised.ome.zarr", "serial.zarr"))
    assert np.array_equal(made, alone)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_command_denoises_images_and_a_volume_on_workers(cluster: Programs) -> None:
    pytest.importorskip("zarr", minversion="3", reason="pip install 'self2self[zarr]'")
    import zarr

    path = write_ome_zarr(Path("volume.ome.zarr"), values((2, 150, 60)), chunks=(1, 32, 32))
    denoise_job(path, FITTING, PASSES, OutputOptions(Path("serial.zarr")))
    (image,) = write_images(1)
    expected = serial([image])
    arguments = ["--passes", "1", "--engine", "ort", "--batch", "1", "--scheduler", cluster.scheduler_address]
    told = run_cli(
        "denoise", "volume.ome.zarr", "0.png", "-o", "out/", *FIT_OPTIONS, *arguments, "--manifest", "m.jsonl"
    )
    assert "volume.denoised.ome.zarr: written" in told.stdout
    assert_same(results([image]), expected)
    made, alone = (
        zarr.open_array(f"{name}/s0", mode="r")[...] for name in ("out/volume.denoised.ome.zarr", "serial.zarr")
    )
    assert np.array_equal(made, alone)
    assert Path("m.jsonl").read_text().count('"written"') == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shared", [(), ("--no-shared-disk",)], ids=["shared disk", "no shared disk"])
def test_the_command_denoises_a_series_on_workers(cluster: Programs, shared: tuple[str, ...]) -> None:
    write_images(3)
    command = [
        "denoise",
        "0.png",
        "1.png",
        "2.png",
        "--like",
        "1.png",
        *FIT_OPTIONS,
        "--passes",
        "1",
        "--engine",
        "ort",
    ]
    run_cli(*command, "-o", "serial/")
    told = run_cli(
        *command, "-o", "out/", "--scheduler", cluster.scheduler_address, "--manifest", "m.jsonl", *shared
    ).stdout
    assert told.count(".denoised.png: written") == 3
    for number in range(3):
        made, expected = (picture(Path(folder) / f"{number}.denoised.png") for folder in ("out", "serial"))
        assert np.array_equal(made, expected)
    assert len(list(Path("runs").iterdir())) == 1
    assert Path("m.jsonl").read_text().count('"written"') == 3


def test_processes_of_a_pool_make_the_same_bits() -> None:
    import multiprocessing

    paths = write_images(2)
    expected = serial(paths)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        workers = workers_of(executor, share=Share(threads=1))
        answers = dict(denoise_many(paths, workers, shared_disk=False, **options()))
    assert not [answer for answer in answers.values() if isinstance(answer, Exception)]
    assert_same(results(paths), expected)
