"""Keeps engines on disk, in ``engines/`` beside the model, and builds those that are missing.

An engine that is stale, foreign, truncated or changed, by the JSON file beside it (`engine_file`), is built again, with
a note to the user about the reason.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from self2self.errors import EngineUnavailableError, OutputError, ResourceError, typed, writing
from self2self.machine.files import atomic_write
from self2self.machine.nvidia import Gpu
from self2self.model.contract import Contract
from self2self.runtime.engines.profiles import Profile, Size
from self2self.runtime.engines.tensorrt.builder import Library, build, capability_members
from self2self.runtime.engines.tensorrt.engine_file import (
    EngineFile,
    EngineKey,
    UnusableEngineError,
    read_engine,
    side_files,
    side_path,
)

T = TypeVar("T")

FOLDER = "engines"
"""Name of the folder beside the model."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request for an engine.

    Attributes:
        library: the library that builds and runs the engine.
        path: of the ONNX file.
        data: bytes of the ONNX file.
        contract: of the ONNX file.
        key: the key that the engine has to have.
    """

    library: Library
    path: Path
    data: bytes
    contract: Contract
    key: EngineKey

    @property
    def engine_path(self) -> Path:
        """Path of the engine on disk."""
        target = self.key.gpu or "-".join(self.key.capabilities) or "any"
        words = [self.path.stem, self.library.engine, _slug(target), self.key.profile.slug()]
        return self.path.parent / FOLDER / (".".join(words) + ".engine")


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """An engine that is ready to use.

    Attributes:
        engine: the result of `load`.
        path: of the engine on disk, even where it could not be written.
        info: its description, as in the JSON file.
        built: whether it was built by this call.
    """

    engine: T
    path: Path
    info: EngineFile
    built: bool


def request_for(
    library: Library,
    path: Path,
    contract: Contract,
    profile: Profile,
    *,
    gpu: Gpu | None = None,
    capabilities: tuple[str, ...] = (),
    fixed_size: Size | None = None,
) -> Request:
    """Describe the engine that an exported model needs.

    Args:
        library: the library that builds and runs the engine.
        path: of the ONNX file.
        contract: of the ONNX file.
        profile: ranges of shapes that the engine has to accept.
        gpu: the GPU of this machine; TensorRT cannot build without a GPU.
        capabilities: compute capabilities to build for, with TensorRT-RTX only; empty for all from 8.0 up.
        fixed_size: the only (height, width) of the graph; None for any.

    Raises:
        UsageError: the profile does not suit the model, or a capability is unknown.
        EngineUnavailableError: the library is missing, or needs a GPU to build.
    """
    profile.check(contract, fixed_size)
    if gpu is None and not library.builds_without_gpu:
        raise EngineUnavailableError(
            f"engine {library.engine}: {library.title} builds an engine on the GPU that is to run it, and here is "
            f"none. Use {typed('--engine trt-rtx')}, which builds anywhere."
        )
    trt = library.load()
    if capabilities:
        capability_members(library, trt, capabilities)
    data = path.read_bytes()
    key = EngineKey(
        model_sha256=hashlib.sha256(data).hexdigest(),
        library=library.module,
        library_version=str(trt.__version__),
        gpu="" if gpu is None or library.builds_without_gpu else f"{gpu.name} {gpu.capability}",
        capabilities=tuple(sorted(capabilities)),
        precision=contract.precision,
        profile=profile,
    )
    return Request(library, path, data, contract, key)


def load_or_build(
    request: Request,
    load: Callable[[bytes], T | None],
    note: Callable[[str], None],
    *,
    rebuild: bool = False,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Loaded[T]:
    """The engine of `request`, from disk if a usable one is there, otherwise built.

    Args:
        request: describes the engine.
        load: makes an engine of its bytes; None if the library refuses them.
        note: called with one line about why an engine is built again, or cannot be kept.
        rebuild: build the engine even if a usable one is on disk.
        on_progress: as for `builder.build`.

    Raises:
        UsageError, EngineUnavailableError, FileFormatError: as for `builder.build`.
    """
    path = request.engine_path
    if not rebuild and (path.exists() or side_path(path).exists()):
        try:
            info, data = read_engine(path, request.key)
            engine = load(data)
        except UnusableEngineError as error:
            note(f"{path}: {error}; building it again.")
        else:
            if engine is not None:
                return Loaded(engine, path, info, built=False)
            note(f"{path}: {request.library.title} refuses to load it; building it again.")
    built = build(
        request.library,
        request.data,
        request.key.profile.shapes(request.contract),
        source=str(request.path),
        capabilities=request.key.capabilities,
        on_progress=on_progress,
    )
    digest = hashlib.sha256(built.data).hexdigest()
    info = EngineFile(request.key, round(built.seconds, 3), built.layer_count, len(built.data), digest)
    try:
        with writing(path.parent):
            path.parent.mkdir(exist_ok=True)
        # The engine is written first: a reader between the two writes then finds a hash that does not match.
        atomic_write(path, built.data)
        atomic_write(side_path(path), (json.dumps(info.to_json(), indent=2) + "\n").encode())
    except (OutputError, ResourceError) as error:
        note(f"the engine cannot be kept and will be built again next time: {error}")
    engine = load(built.data)
    if engine is None:
        raise EngineUnavailableError(
            f"engine {request.library.engine}: {request.library.title} refuses the engine that it has just built "
            f"from {request.path}. Use {typed('--engine ort')}."
        )
    return Loaded(engine, path, info, built=True)


def is_kept(request: Request) -> bool:
    """Whether the engine of `request` is on disk and matches its JSON file."""
    try:
        read_engine(request.engine_path, request.key)
    except UnusableEngineError:
        return False
    return True


def find_covering(request: Request, size: Size, capability: str) -> Request | None:
    """Find a usable engine that was built ahead of time for other shapes, but accepts `size`.

    Args:
        request: for `size` alone.
        size: (height, width) after padding.
        capability: compute capability of the GPU, such as ``"8.6"``.

    Returns:
        a request whose engine is on disk and matches its JSON file; None if there is no such engine.
    """
    for info in side_files(request.path.parent / FOLDER):
        key = replace(request.key, profile=info.key.profile, capabilities=info.key.capabilities)
        other = replace(request, key=key)
        if info.key.capabilities and capability not in info.key.capabilities:
            continue
        if request.key.capabilities and not info.key.capabilities:
            # This GPU needs an engine that was built for its capability by name.
            continue
        if not info.key.profile.covers(size) or key.difference(info.key):
            continue
        if is_kept(other):
            return other
    return None


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text).strip("-").lower()
