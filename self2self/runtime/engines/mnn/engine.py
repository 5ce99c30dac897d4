"""MNN on the CPU: 3x3 convolutions by Winograd's algorithm, which needs fewer multiplications.

The exported graph is converted when the engine is prepared (`mnn_graph`). The passes of a batch, or of a
larger image the windows of a pass (`windows`), are computed side by side, each with its share of the threads:
not all of a pass can be shared by them, and of a pass in windows not its middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from self2self.errors import FileFormatError, first_line
from self2self.machine.system import compute_threads, trim_heap
from self2self.machine.workers import Workers
from self2self.model.contract import IMAGE, Contract
from self2self.model.masks import BoolArray
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.engines.mnn.session import Sessions, convert, import_mnn, load_sessions, share
from self2self.runtime.engines.windows import WHOLE_PIXELS, WindowedPass
from self2self.runtime.memory_budget import pass_bytes
from self2self.runtime.model import Model, read_proto

if TYPE_CHECKING:
    import onnx

_SIDE_BY_SIDE_PIXELS = 2**16
"""Up to so many pixels several passes at a time are worth their memory: at 256x256 they take an eighth less time than
one after the other in windows side by side, at 512x512 a fortieth (docs/performance.md)."""
_WINDOW_BYTES = 75 * 10**6
_WINDOWED_BYTES_PER_PIXEL = 270
_WINDOWED_BYTES_PER_MASK_ELEMENT = 2.5
"""Of an image that is run in windows: what a thread takes for its own, and what the parts hand on.

Peaks at 256x256, 512x512 and 1024x1024 on two threads, sums and engine included: 138, 351 and 1086 MB for the paper's
network (221, 432 and 1279 by these), 120, 305 and 936 MB for the fast one (203, 364 and 1006), 60, 161 and 436 MB for a
narrow one (180, 269 and 626).
"""


class MnnEngine(Engine):
    """MNN in float32 on the CPU."""

    name = "mnn"
    copy_seconds: float = 0.0

    def __init__(self, model: Model, image: FloatArray) -> None:
        super().__init__(model, image)
        height, width = image.shape[2:]
        self._most = self.useful_batch({"H": height, "W": width})
        self._networks: list[_Network] | None = None
        self._wanted_before = 1
        """Networks for the batch before."""
        self._converted: dict[tuple[str, ...], bytes] = {}
        """Graphs by their outputs, where they are loaded again for more passes side by side."""
        self._workers = Workers(compute_threads())

    @classmethod
    def pass_bytes(cls, contract: Contract, axes: Mapping[str, int]) -> int:
        """As for every engine; less for an image that is run in windows."""
        further = cls.further_pass_bytes(contract, axes)
        return further if _is_whole(axes) else compute_threads() * _WINDOW_BYTES + further

    @classmethod
    def further_pass_bytes(cls, contract: Contract, axes: Mapping[str, int]) -> int:
        """Without windows: several passes share out those that a single one computes side by side."""
        if _is_whole(axes):
            return super().pass_bytes(contract, axes)
        kept = _WINDOWED_BYTES_PER_PIXEL * axes["H"] * axes["W"]
        return kept + pass_bytes(contract, axes, _WINDOWED_BYTES_PER_MASK_ELEMENT)

    @classmethod
    def useful_batch(cls, axes: Mapping[str, int]) -> int:
        """A pass for each thread; of a large image one, whose windows are side by side."""
        return compute_threads() if axes["H"] * axes["W"] <= _SIDE_BY_SIDE_PIXELS else 1

    @classmethod
    def version(cls) -> str:
        """The version of MNN."""
        return f"MNN {import_mnn().version()}"

    def prepare(self) -> None:
        """Convert the graph and load it."""
        self._networks = self._load_networks(1)

    def _load_networks(self, count: int) -> list[_Network]:
        """Networks of as many threads each as where all are there.

        MNN chooses its arithmetic by the number of threads, so that with others the result would depend on the batch,
        in the fifth decimal, and so on how fast the machine was when the batch was chosen.
        """
        proto = read_proto(self.model.path)
        threads = share(compute_threads(), self._most)
        return [self._load_network(proto, threads) for _ in range(count)]

    def _load_network(self, proto: onnx.ModelProto, threads: int) -> _Network:
        opsets = list(proto.opset_import)
        height, width = self.image.shape[2:]
        sessions: list[Sessions] = []

        def load(graph: onnx.GraphProto, count: int) -> Sessions:
            sessions.append(self._load(graph, opsets, count, threads))
            return sessions[-1]

        try:
            staged = WindowedPass(proto.graph, height, width, load, workers=threads, side_by_side=self._workers.run)
            return _Network(staged, sessions)
        except (ValueError, TypeError) as error:
            raise FileFormatError(
                f"{self.model.path}: the engine mnn cannot read its weights ({first_line(error)}). Use --engine ort."
            ) from error

    def _load(
        self, graph: onnx.GraphProto, opsets: list[onnx.OperatorSetIdProto], count: int, threads: int
    ) -> Sessions:
        outputs = tuple(value.name for value in graph.output)
        converted = self._converted.get(outputs) or convert(graph, opsets, self.model.path)
        if self._most > 1:
            self._converted[outputs] = converted
        return load_sessions(converted, list(outputs), self.model.path, count, share(threads, count))

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        """The passes of the batch, side by side."""
        count = len(next(iter(masks.values())))
        try:
            networks = self._networks_for(count)
            before = sum(network.copy_seconds for network in networks)
            # Not the sessions' own memory, which goes when they do; beside a pass, copies take no time.
            predictions = np.empty((count, *self.image.shape[1:]), np.float32)

            def compute(first: int) -> None:
                for index in range(first, count, len(networks)):
                    predictions[index] = self._pass(networks[first], masks, index)[0]

            self._workers.run(compute, len(networks))
        except MemoryError:
            # Fewer passes at a time get by with fewer networks, which are made when they come.
            self._networks = []
            raise
        self.copy_seconds += (sum(network.copy_seconds for network in networks) - before) / len(networks)
        return predictions

    def _pass(self, network: _Network, masks: Mapping[str, BoolArray], index: int) -> FloatArray:
        inputs: dict[str, NDArray[Any]] = {name: mask[index : index + 1] for name, mask in masks.items()}
        return network.staged.run({IMAGE: self.image, **inputs})

    def _networks_for(self, count: int) -> list[_Network]:
        """Networks for `count` passes.

        Once there are several, they stay for one smaller batch, as passes end with one; for a second of its kind they
        make room for fewer, because the batch may have become smaller for want of memory.
        """
        if self._networks is None:
            raise RuntimeError("the engine is not prepared")
        wanted = min(count, self._most)
        fewer_again = wanted < len(self._networks) and wanted == self._wanted_before
        self._wanted_before = wanted
        if wanted > len(self._networks) or fewer_again:
            # Before the next are made.
            self._networks.clear()
            self._networks += self._load_networks(wanted)
        return self._networks[:wanted]

    def provider(self) -> str:
        """Always the CPU."""
        return "MNN CPU"

    def close(self) -> None:
        """Free the networks and their memory."""
        self._networks = None
        self._converted.clear()
        self._workers.close()
        trim_heap()


def _is_whole(axes: Mapping[str, int]) -> bool:
    """Whether data of `axes` is run without windows."""
    return axes["H"] * axes["W"] <= WHOLE_PIXELS


@dataclass(frozen=True, slots=True)
class _Network:
    """What computes one pass at a time.

    Attributes:
        staged: runs its sessions.
        sessions: of every part those that run side by side.
    """

    staged: WindowedPass
    sessions: list[Sessions]

    @property
    def copy_seconds(self) -> float:
        """Time that went into copies."""
        copied = sum(sum(session.copy_seconds for session in part) / len(part) for part in self.sessions)
        return copied + self.staged.copy_seconds
