"""ncnn on the CPU: 3x3 convolutions by Winograd's algorithm, which needs fewer multiplications.

The exported graph is translated when the engine is prepared (`ncnn_graph`). ncnn has no batch
axis, so a batch is its passes one by one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from self2self.budget import pass_bytes
from self2self.contract import IMAGE, Contract
from self2self.errors import EngineUnavailableError, FileFormatError, Obstacle, ResourceError
from self2self.masks import BoolArray
from self2self.runtime.engine import Engine, FloatArray, first_line, is_installed
from self2self.runtime.model import read_proto
from self2self.runtime.ncnn_graph import NcnnGraph, UnsupportedGraphError, translate
from self2self.runtime.windows import WHOLE_PIXELS, Runner, Staged, Values
from self2self.system import compute_threads, trim_heap

if TYPE_CHECKING:
    import onnx

_OUT_OF_MEMORY = -100
_WINDOW_BYTES = 160 * 10**6
_WINDOWED_BYTES_PER_MASK_ELEMENT = 3
"""Of an image that is run in windows: what they take together, and masks and what the parts hand on for each element.

From peaks at 512x512 and 1024x1024, sums and engine included: 155 MB and 2.5 bytes for the paper's network, 128 MB and
3.1 bytes for the fast one, 90 MB and 4.0 bytes for a narrow one, whose sums weigh more.
"""


class NcnnEngine(Engine):
    """ncnn in float32 on the CPU."""

    name = "ncnn"
    # Of an image that runs as one: masks as float32, and Winograd's transforms of whole activations. Measured at
    # 256x256 and 512x512: 22.6 for the paper's network, 26.1 for the fast one, 23.2 for a narrow one.
    bytes_per_mask_element = 27
    gains_by_batches = False
    copy_seconds: float = 0.0
    _staged: Staged | None = None

    @classmethod
    def pass_bytes(cls, contract: Contract, axes: Mapping[str, int]) -> int:
        """As for every engine; less for an image that is run in windows."""
        if axes["H"] * axes["W"] <= WHOLE_PIXELS:
            return super().pass_bytes(contract, axes)
        return _WINDOW_BYTES + pass_bytes(contract, axes, _WINDOWED_BYTES_PER_MASK_ELEMENT)

    @classmethod
    def version(cls) -> str:
        """The version of ncnn."""
        return f"ncnn {_import_ncnn().__version__}"

    def prepare(self) -> None:
        """Translate the graph and load it."""
        _import_ncnn()
        path = self.model.path
        try:
            graph = read_proto(path).graph
            height, width = self.image.shape[2:]
            self._staged = Staged(graph, height, width, self._load, between=_give_back)
        except UnsupportedGraphError as error:
            raise FileFormatError(f"{path}: the engine ncnn does not know its {error}. Use --engine ort.") from error
        except (ValueError, TypeError) as error:
            raise FileFormatError(
                f"{path}: the engine ncnn cannot read its weights ({first_line(error)}). Use --engine ort."
            ) from error

    def _load(self, graph: onnx.GraphProto) -> Runner:
        """What runs `graph`."""
        import ncnn

        translated = translate(graph)
        net = ncnn.Net()
        options = net.opt
        options.num_threads = compute_threads()
        options.use_vulkan_compute = False
        options.blob_allocator, options.workspace_allocator = _pools()
        for reduced in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
            # Older versions lack some of these, and what they name.
            if hasattr(options, f"use_{reduced}"):
                setattr(options, f"use_{reduced}", False)
        path = self.model.path
        try:
            # From a file, because a network that is loaded from memory goes on using that memory.
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                weights = Path(folder) / "weights.bin"
                weights.write_bytes(translated.weights)
                # In its bindings, load_model takes a path, and load_param_mem a text.
                failed = net.load_param_mem(translated.param) or net.load_model(str(weights))
        except MemoryError as error:
            raise ResourceError(f"out of memory while loading {path}. Close other programs and try again.") from error
        except OSError as error:
            raise ResourceError(
                f"{path}: ncnn's copy of the weights cannot be written to {tempfile.gettempdir()} ({error.strerror}). "
                "Free some space there, or use --engine ort."
            ) from error
        if failed:
            raise FileFormatError(f"{path}: ncnn cannot load it (code {failed}). Use --engine ort.")
        return partial(self._extract, net, translated)

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        """The passes of the batch one by one; the result is a new array."""
        count = len(next(iter(masks.values())))
        staged = self._staged
        if staged is None:
            raise RuntimeError("the engine is not prepared")
        predictions = np.empty((count, *self.image.shape[1:]), np.float32)
        for index in range(count):
            inputs: dict[str, Any] = {name: mask[index] for name, mask in masks.items()}
            predictions[index] = staged.run({IMAGE: self.image[0], **inputs})
        return predictions

    def _extract(self, net: Any, graph: NcnnGraph, values: Values) -> list[FloatArray]:
        """The outputs of `graph`, in memory that ncnn lends."""
        import ncnn

        extractor = net.create_extractor()
        start = time.perf_counter()
        for name, fed in graph.inputs.items():
            channels, height, width = values[name].shape
            # Memory of ncnn's own: a layer may work in place on memory that was only lent to it.
            owned = ncnn.Mat(width, height, channels, allocator=_pools()[0])
            np.multiply(values[name], np.float32(fed.scale), out=np.asarray(owned))
            extractor.input(fed.blob, owned)
            # Otherwise this name would keep it, after the only layer that reads it has run.
            del owned
        self.copy_seconds += time.perf_counter() - start
        outputs = []
        for blob in graph.outputs.values():
            failed, output = extractor.extract(blob)
            if failed == _OUT_OF_MEMORY:
                raise MemoryError("ncnn could not allocate a blob")
            if failed:
                raise FileFormatError(f"{self.model.path}: ncnn cannot run it (code {failed}). Use --engine ort.")
            outputs.append(np.asarray(output))
        return outputs

    def provider(self) -> str:
        """Always the CPU."""
        return "ncnn CPU"

    def close(self) -> None:
        """Free the network and the buffers."""
        self._staged = None
        _give_back()


@cache
def _pools() -> tuple[Any, Any]:
    """Where ncnn's layers take their memory, for activations and for what they compute with.

    Pools of ncnn's own give a large piece for a small one and nothing back before the network goes. For all
    networks and for good, because a pool must not go before what was taken from it.
    """
    import ncnn

    return ncnn.PoolAllocator(), ncnn.PoolAllocator()


def _give_back() -> None:
    """Free what the pools keep for the next layer."""
    for pool in _pools():
        pool.clear()
    trim_heap()


def _import_ncnn() -> Any:
    if not is_installed("ncnn"):
        raise EngineUnavailableError.of(
            "ncnn", Obstacle.NOT_INSTALLED, "ncnn is not installed", "Install it: pip install ncnn."
        )
    try:
        import ncnn
    except (ImportError, OSError) as error:
        raise EngineUnavailableError.of(
            "ncnn",
            Obstacle.DOES_NOT_LOAD,
            f"ncnn does not load ({first_line(error)})",
            "Install it again: pip install --force-reinstall ncnn.",
        ) from error
    return ncnn
