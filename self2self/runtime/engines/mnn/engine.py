"""Runs a model with MNN on the CPU; MNN computes 3x3 convolutions by Winograd's algorithm, with fewer multiplications.

The exported graph is rewritten and converted when the engine is prepared (`mnn.graph`, `mnn.session`). The passes of a
batch are computed at the same time, each with its share of the threads, because one pass cannot keep all threads busy.
For a larger image, the windows of one pass (`windows`) are computed at the same time instead, except for the middle of
the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from self2self.errors import FileFormatError, first_line, typed
from self2self.machine.system import compute_threads, trim_heap
from self2self.machine.workers import Workers
from self2self.model.contract import IMAGE, Contract
from self2self.model.masks import BoolArray
from self2self.runtime.engines.engine import Engine, FloatArray, count_passes
from self2self.runtime.engines.mnn.session import Sessions, convert, import_mnn, load_sessions, threads_per_network
from self2self.runtime.engines.windows import WHOLE_PIXELS, WindowedPass
from self2self.runtime.memory_budget import pass_bytes
from self2self.runtime.model import Model

if TYPE_CHECKING:
    import onnx

_LARGEST_BATCHED_PIXELS = 2**16
"""Largest image for which several passes at a time are worth their memory: at 256x256 they take an eighth less time
than one pass after the other in parallel windows, at 512x512 only a fortieth (docs/performance.md)."""
_WINDOW_BYTES = 75 * 10**6
_WINDOWED_BYTES_PER_PIXEL = 270
_WINDOWED_BYTES_PER_MASK_ELEMENT = 2.5
"""Memory of an image that is run in windows: of each thread, and of the activations and masks that the parts share.

Measured peaks at 256x256, 512x512 and 1024x1024 on two threads, running sums and engine included, with the estimates by
these constants in brackets: 138, 351 and 1086 MB (221, 432 and 1279) for the paper's network, 120, 305 and 936 MB (203,
364 and 1006) for the fast one, 60, 161 and 436 MB (180, 269 and 626) for a narrow one.
"""


class MnnEngine(Engine):
    """MNN in float32 on the CPU."""

    name = "mnn"
    runs_plain = True
    copy_seconds: float = 0.0

    def __init__(self, model: Model, image: FloatArray) -> None:
        super().__init__(model, image)
        height, width = image.shape[2:]
        self._largest_batch = 1 if model.contract.plain else self.useful_batch({"H": height, "W": width})
        self._networks: list[_Network] | None = None
        self._previous_count = 1
        """Number of networks that the batch before needed."""
        self._converted: dict[tuple[str, ...], bytes] = {}
        """Converted graphs by the names of their outputs, kept where more networks may have to be loaded."""
        self._workers = Workers(compute_threads())

    @classmethod
    def pass_bytes(cls, contract: Contract, axes: Mapping[str, int]) -> int:
        """Memory of one pass, in bytes; an image that is run in windows takes less than in other engines."""
        further = cls.further_pass_bytes(contract, axes)
        return further if _is_whole(axes) else compute_threads() * _WINDOW_BYTES + further

    @classmethod
    def further_pass_bytes(cls, contract: Contract, axes: Mapping[str, int]) -> int:
        """Memory of each further pass, in bytes, without windows: several passes share the windows' memory of one."""
        if _is_whole(axes):
            return super().pass_bytes(contract, axes)
        kept = _WINDOWED_BYTES_PER_PIXEL * axes["H"] * axes["W"]
        return kept + pass_bytes(contract, axes, _WINDOWED_BYTES_PER_MASK_ELEMENT)

    @classmethod
    def useful_batch(cls, axes: Mapping[str, int]) -> int:
        """One pass for each thread; for a large image a single pass, whose windows are computed at the same time."""
        return compute_threads() if axes["H"] * axes["W"] <= _LARGEST_BATCHED_PIXELS else 1

    @classmethod
    def version(cls) -> str:
        """The version of MNN."""
        return f"MNN {import_mnn().version()}"

    def prepare(self) -> None:
        """Convert the graph and load it."""
        self._networks = self._load_networks(1)

    def _load_networks(self, count: int) -> list[_Network]:
        """Load `count` networks, each with as many threads as in the largest batch.

        MNN chooses its arithmetic by the number of threads. If that number followed the batch, so would the fifth
        decimal of the result, and the batch depends on the speed of the machine.
        """
        proto = self.model.engine_proto()
        threads = threads_per_network(compute_threads(), self._largest_batch)
        return [self._load_network(proto, threads) for _ in range(count)]

    def _load_network(self, proto: onnx.ModelProto, threads: int) -> _Network:
        opsets = list(proto.opset_import)
        height, width = self.image.shape[2:]
        sessions: list[Sessions] = []

        def load(graph: onnx.GraphProto, count: int) -> Sessions:
            sessions.append(self._load(graph, opsets, count, threads))
            return sessions[-1]

        try:
            windowed = WindowedPass(proto.graph, height, width, load, workers=threads, side_by_side=self._workers.run)
            return _Network(windowed, sessions)
        except (ValueError, TypeError) as error:
            raise FileFormatError(
                f"{self.model.path}: the engine mnn cannot read its weights ({first_line(error)}). Use "
                f"{typed('--engine ort')}."
            ) from error

    def _load(
        self, graph: onnx.GraphProto, opsets: list[onnx.OperatorSetIdProto], count: int, threads: int
    ) -> Sessions:
        outputs = tuple(value.name for value in graph.output)
        converted = self._converted.get(outputs) or convert(graph, opsets, self.model.path)
        if self._largest_batch > 1:
            self._converted[outputs] = converted
        return load_sessions(converted, list(outputs), self.model.path, count, threads_per_network(threads, count))

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        """Compute the passes of the batch at the same time."""
        count = count_passes(masks)
        try:
            networks = self._networks_for(count)
            before = sum(network.copy_seconds for network in networks)
            # The sessions' own memory is freed with them; compared with a pass, copies take no time.
            predictions = np.empty((count, *self.image.shape[1:]), np.float32)

            def compute(first: int) -> None:
                for index in range(first, count, len(networks)):
                    predictions[index] = self._pass(networks[first], masks, index)[0]

            self._workers.run(compute, len(networks))
        except MemoryError:
            # A smaller batch needs fewer networks, which its run loads.
            self._networks = []
            raise
        self.copy_seconds += (sum(network.copy_seconds for network in networks) - before) / len(networks)
        return predictions

    def _pass(self, network: _Network, masks: Mapping[str, BoolArray], index: int) -> FloatArray:
        inputs: dict[str, NDArray[Any]] = {name: mask[index : index + 1] for name, mask in masks.items()}
        return network.windowed.run({IMAGE: self.image, **inputs})

    def _networks_for(self, count: int) -> list[_Network]:
        """Networks for a batch of `count` passes.

        Networks beyond `count` are kept for one smaller batch, because the last batch of a run is often smaller. At a
        second batch of that size they are freed, because memory may have become short.
        """
        if self._networks is None:
            raise RuntimeError("the engine is not prepared")
        wanted = min(count, self._largest_batch)
        fewer_again = wanted < len(self._networks) and wanted == self._previous_count
        self._previous_count = wanted
        if wanted > len(self._networks) or fewer_again:
            # Their memory has to be free before the next are loaded.
            self._networks.clear()
            self._networks += self._load_networks(wanted)
        return self._networks[:wanted]

    def provider(self) -> str:
        """MNN on the CPU, always."""
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
    """A network, which computes one pass at a time.

    Attributes:
        windowed: runs the sessions, in windows where the image is large.
        sessions: for every part of the graph, the sessions that run at the same time.
    """

    windowed: WindowedPass
    sessions: list[Sessions]

    @property
    def copy_seconds(self) -> float:
        """Seconds that went into copies."""
        copied = sum(sum(session.copy_seconds for session in part) / len(part) for part in self.sessions)
        return copied + self.windowed.copy_seconds
