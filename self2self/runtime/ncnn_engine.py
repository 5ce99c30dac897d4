"""ncnn on the CPU: 3x3 convolutions by Winograd's algorithm, which needs fewer multiplications.

The exported graph is translated when the engine is prepared (`ncnn_graph`). ncnn has no batch
axis, so a batch is its passes one by one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from self2self.contract import IMAGE, PREDICTION
from self2self.errors import EngineUnavailableError, FileFormatError, Obstacle, ResourceError
from self2self.masks import BoolArray
from self2self.runtime.engine import Engine, FloatArray, first_line, is_installed
from self2self.runtime.model import read_proto
from self2self.runtime.ncnn_graph import NcnnGraph, UnsupportedGraphError, translate
from self2self.system import compute_threads

_OUT_OF_MEMORY = -100


class NcnnEngine(Engine):
    """ncnn in float32 on the CPU."""

    name = "ncnn"
    # Masks as float32, and Winograd's transforms of whole activations. Measured at 256x256 and 512x512:
    # 22.6 for the paper's network, 26.1 for the fast one, 23.2 for a narrow one.
    bytes_per_mask_element = 27
    gains_by_batches = False
    copy_seconds: float = 0.0
    _net: Any = None
    _graph: NcnnGraph

    @classmethod
    def version(cls) -> str:
        """The version of ncnn."""
        return f"ncnn {_import_ncnn().__version__}"

    def prepare(self) -> None:
        """Translate the graph and load it."""
        ncnn = _import_ncnn()
        path = self.model.path
        try:
            self._graph = translate(read_proto(path).graph)
        except UnsupportedGraphError as error:
            raise FileFormatError(f"{path}: the engine ncnn does not know its {error}. Use --engine ort.") from error
        except (ValueError, TypeError) as error:
            raise FileFormatError(
                f"{path}: the engine ncnn cannot read its weights ({first_line(error)}). Use --engine ort."
            ) from error
        net = ncnn.Net()
        options = net.opt
        options.num_threads = compute_threads()
        options.use_vulkan_compute = False
        for reduced in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
            # Older versions lack some of these, and what they name.
            if hasattr(options, f"use_{reduced}"):
                setattr(options, f"use_{reduced}", False)
        try:
            # From a file, because a network that is loaded from memory goes on using that memory.
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                weights = Path(folder) / "weights.bin"
                weights.write_bytes(self._graph.weights)
                # In its bindings, load_model takes a path, and load_param_mem a text.
                failed = net.load_param_mem(self._graph.param) or net.load_model(str(weights))
        except MemoryError as error:
            raise ResourceError(f"out of memory while loading {path}. Close other programs and try again.") from error
        except OSError as error:
            raise ResourceError(
                f"{path}: ncnn's copy of the weights cannot be written to {tempfile.gettempdir()} ({error.strerror}). "
                "Free some space there, or use --engine ort."
            ) from error
        if failed:
            raise FileFormatError(f"{path}: ncnn cannot load it (code {failed}). Use --engine ort.")
        self._net = net
        self._inputs: dict[str, tuple[Any, FloatArray]] = {}

    def run(self, masks: Mapping[str, BoolArray]) -> FloatArray:
        """The passes of the batch one by one; the result is a new array."""
        count = len(next(iter(masks.values())))
        predictions = np.empty((count, *self.image.shape[1:]), np.float32)
        for index in range(count):
            extractor = self._net.create_extractor()
            start = time.perf_counter()
            self._feed(extractor, IMAGE, self.image[0])
            for name, mask in masks.items():
                self._feed(extractor, name, mask[index])
            self.copy_seconds += time.perf_counter() - start
            failed, prediction = extractor.extract(self._graph.outputs[PREDICTION])
            if failed == _OUT_OF_MEMORY:
                raise MemoryError("ncnn could not allocate a blob")
            if failed:
                raise FileFormatError(f"{self.model.path}: ncnn cannot run it (code {failed}). Use --engine ort.")
            predictions[index] = prediction
        return predictions

    def _feed(self, extractor: Any, name: str, values: FloatArray | BoolArray) -> None:
        import ncnn

        fed = self._graph.inputs[name]
        if name not in self._inputs or self._inputs[name][1].shape != values.shape:
            channels, height, width = values.shape
            # Memory of ncnn's own: a layer may work in place on memory that was only lent to it.
            owned = ncnn.Mat(width, height, channels)
            self._inputs[name] = owned, np.asarray(owned)
        owned, view = self._inputs[name]
        np.multiply(values, np.float32(fed.scale), out=view)
        extractor.input(fed.blob, owned)

    def provider(self) -> str:
        """Always the CPU."""
        return "ncnn CPU"

    def close(self) -> None:
        """Free the network and the buffers."""
        self._net = None
        self._inputs = {}


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
