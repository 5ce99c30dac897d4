"""What a process that works for others keeps from task to task: models, one prepared engine, its share of the machine.

Models travel as bytes. A process writes each one to a folder of its own once, because engines read files; the folder
goes when the process ends.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from self2self.errors import FileFormatError
from self2self.machine.system import limits
from self2self.runtime.ensemble.engine_holder import EngineHolder
from self2self.runtime.model import Model, load_model


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model that travels.

    Attributes:
        sha256: digest of the file, in hex.
        content: bytes of the file.
    """

    sha256: str
    content: bytes = field(repr=False)

    @classmethod
    def of(cls, path: Path) -> ModelFile:
        """The model in the file `path`."""
        content = path.read_bytes()
        return cls(hashlib.sha256(content).hexdigest(), content)


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
            FileFormatError: the bytes are not those of the digest, or no model.
        """
        if file.sha256 not in self._models:
            if hashlib.sha256(file.content).hexdigest() != file.sha256:
                raise FileFormatError("a model was damaged on its way. Give the same command again.")
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="self2self-", ignore_cleanup_errors=True)
            path = Path(self._folder.name) / f"{file.sha256[:16]}.onnx"
            path.write_bytes(file.content)
            self._models[file.sha256] = load_model(path)
        return self._models[file.sha256]

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


@contextmanager
def at_work(share: Share) -> Iterator[WorkerState]:
    """Wait for the turn of a task in this process, and give it its share of the machine."""
    state = worker_state()
    with state.turn:
        if share != Share() or "torch" in sys.modules:
            share.apply()
        yield state
