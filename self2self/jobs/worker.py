"""What a process that works for others keeps from task to task: models, one prepared engine, its share of the machine.

A process reads each model once, by the digest of its file, and writes it to a folder of its own, because engines read
files; the folder goes when the process ends.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from self2self.errors import FileFormatError, Self2SelfError, typed, writing
from self2self.machine.files import temporary_folder
from self2self.machine.system import host_name, limits
from self2self.runtime.ensemble.engine_holder import EngineHolder
from self2self.runtime.model import Model, load_model
from self2self.train.run_folder import Run

ELSEWHERE = "name another folder by TMPDIR"
"""What to do where the folder of temporary files takes no more."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model that travels.

    Attributes:
        sha256: digest of the file, in hex.
        content: bytes of the file; None if all who need it see `path`.
        path: of the file.
    """

    sha256: str
    content: bytes | None = field(repr=False)
    path: Path

    @classmethod
    def of(cls, path: Path) -> ModelFile:
        """The model in the file `path`."""
        content = path.read_bytes()
        return cls(hashlib.sha256(content).hexdigest(), content, path.resolve())

    @property
    def by_path(self) -> ModelFile:
        """The same model, which is read where it is needed."""
        return replace(self, content=None)

    def read(self) -> bytes:
        """The bytes of the file.

        Raises:
            FileFormatError: they are not those of the digest, or cannot be read.
        """
        try:
            content = self.path.read_bytes() if self.content is None else self.content
        except OSError as error:
            raise FileFormatError(f"{self.path}: cannot be read on {host_name()} ({error.strerror}).") from error
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise FileFormatError(f"{self.path}: is damaged. Start anew with {typed('--force')}.")
        return content


class FilesNeededError(FileFormatError):
    """A process neither has the files of a fit nor sees their folder: they have to travel to it."""


@dataclass(frozen=True, slots=True)
class RunFiles:
    """A finished fit that travels: what `infer` reads of its run folder.

    Attributes:
        folder: the run folder.
        digests: SHA-256 of each file in hex, by its name.
        contents: bytes of each file; empty if they do not travel along.
    """

    folder: Path
    digests: dict[str, str]
    contents: dict[str, bytes] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, run: Run) -> RunFiles:
        """The files of a finished fit that is exported, with the single pass if it has one."""
        paths = (run.config_path, run.model_path, run.onnx_path, run.plain_path, run.plain_onnx_path_for("fp32"))
        contents = {path.name: path.read_bytes() for path in paths if path.is_file()}
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        return cls(run.folder.resolve(), digests, contents)

    @property
    def without_contents(self) -> RunFiles:
        """The same fit, for those who have it or see its folder."""
        return replace(self, contents={})

    @property
    def sha256(self) -> str:
        """Digest of all files, in hex."""
        return hashlib.sha256("".join(self.digests.values()).encode()).hexdigest()

    def are_in(self, folder: Path) -> bool:
        """Whether `folder` has the very same files."""
        try:
            return all(_sha256_of(folder / name) == digest for name, digest in self.digests.items())
        except OSError:
            return False


def _sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class Share:
    """What a task may take of its machine; None for all that is free.

    Attributes:
        threads: number of threads that compute.
        memory_bytes: memory of the process.
    """

    threads: int | None = None
    memory_bytes: int | None = None

    def apply(self) -> None:
        """Set the limits of this process."""
        limits.threads, limits.memory_bytes = self.threads, self.memory_bytes
        if self.threads is not None:
            # A fit computes with PyTorch's own number, which schedulers set to 1.
            import torch

            if torch.get_num_threads() != self.threads:
                torch.set_num_threads(self.threads)


class WorkerState:
    """The models and the engine of this process.

    Attributes:
        engine_holder: keeps the engine of the last task.
        turn: one task at a time computes: each takes all threads that the process has.
    """

    def __init__(self) -> None:
        self.engine_holder = EngineHolder()
        self.turn = threading.RLock()
        self._models: dict[str, Model] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def model(self, file: ModelFile) -> Model:
        """The loaded model of a file; the same object for the same content.

        Raises:
            FileFormatError: it cannot be read, or is damaged.
            ResourceError, OutputError: it cannot be kept here.
        """
        if file.sha256 not in self._models:
            content = file.read()
            path = self._own_folder() / f"{file.sha256[:16]}.onnx"
            with writing(path, ELSEWHERE):
                path.write_bytes(content)
            self._models[file.sha256] = load_model(path)
        return self._models[file.sha256]

    def model_of(self, files: RunFiles) -> Model:
        """The loaded model of a fit, beside its single pass; the same object for the same files.

        Raises:
            FilesNeededError: the files are neither here nor in their folder, and did not travel along.
            ResourceError, OutputError: they cannot be kept here.
        """
        if files.sha256 not in self._models:
            folder = files.folder
            if not files.are_in(folder):
                if not files.contents:
                    raise FilesNeededError(f"{folder}: the fit is not to be seen here")
                folder = self._own_folder() / files.sha256[:16]
                with writing(folder, ELSEWHERE):
                    folder.mkdir(exist_ok=True)
                    for name, content in files.contents.items():
                        (folder / name).write_bytes(content)
            self._models[files.sha256] = load_model(Run(folder).onnx_path)
        return self._models[files.sha256]

    def _own_folder(self) -> Path:
        """The folder of this process for models."""
        if self._folder is None:
            parent = temporary_folder()
            with writing(parent, ELSEWHERE):
                self._folder = tempfile.TemporaryDirectory(prefix="self2self-", ignore_cleanup_errors=True)
        return Path(self._folder.name)

    def close(self) -> None:
        """Forget all models, and release the engine."""
        self.engine_holder.close()
        self._models.clear()
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()


@cache
def worker_state() -> WorkerState:
    """The state of this process."""
    return WorkerState()


def share_of_worker() -> Share:
    """What the scheduler gave to this process, if it is a worker of Dask; else all that is free."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return Share()
    try:
        worker = distributed.get_worker()
    except ValueError:
        return Share()
    return Share(worker.state.nthreads, worker.memory_manager.memory_limit)


@contextmanager
def at_work(share: Share | None) -> Iterator[WorkerState]:
    """Wait for the turn of a task in this process, and give it its share of the machine.

    Args:
        share: of the machine; None for what the scheduler gave to this process.
    """
    state = worker_state()
    with state.turn:
        (share_of_worker() if share is None else share).apply()
        yield state


@contextmanager
def naming_the_host() -> Iterator[None]:
    """Add the name of this machine to errors of the block.

    Raises:
        Self2SelfError: one of the block, which can be pickled.
    """
    try:
        yield
    except Self2SelfError as error:
        raise type(error)(f"{str(error).rstrip('.')} (on {host_name()}).") from error
