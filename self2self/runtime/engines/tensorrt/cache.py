"""Engines on disk, in ``engines/`` beside the model: found there, or built and kept.

What is stale, foreign, truncated or changed, by the JSON file beside it (`engine_file`), is built
again, and the user is told why.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from self2self.errors import EngineUnavailableError, OutputError, ResourceError, writing
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


@dataclass(frozen=True, slots=True)
class Request:
    """An engine that is wanted.

    Attributes:
        library: which one builds and runs it.
        path: of the ONNX file.
        data: the ONNX file.
        contract: of the file.
        key: what the engine has to belong to.
    """

    library: Library
    path: Path
    data: bytes
    contract: Contract
    key: EngineKey

    @property
    def engine_path(self) -> Path:
        """Where the engine is kept."""
        target = self.key.gpu or "-".join(self.key.capabilities) or "any"
        words = [self.path.stem, self.library.engine, _slug(target), self.key.profile.slug()]
        return self.path.parent / FOLDER / (".".join(words) + ".engine")


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """An engine that can be used.

    Attributes:
        engine: what `load` made of it.
        path: where it is kept, or would be.
        info: what it is.
        built: whether it was built now.
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
    """Describe the engine for an exported model.

    Args:
        library: which one builds and runs it.
        path: of the ONNX file.
        contract: of the file.
        profile: shapes that the engine has to take.
        gpu: the GPU of this machine; TensorRT cannot build without.
        capabilities: for TensorRT-RTX alone: compute capabilities to build for; by default it
            builds for all from 8.0 up.
        fixed_size: the only (height, width) of the graph; None for any.

    Raises:
        UsageError: the profile does not suit the model, or a capability is unknown.
        EngineUnavailableError: the library is missing, or needs a GPU.
    """
    profile.check(contract, fixed_size)
    if gpu is None and not library.builds_without_gpu:
        raise EngineUnavailableError(
            f"engine {library.engine}: {library.title} builds an engine on the GPU that is to run it, and here is "
            "none. Use --engine trt-rtx, which builds anywhere."
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
    """The engine of `request`, from disk if it is there and good, or built now.

    Args:
        request: what is wanted.
        load: makes the bytes of an engine usable; None if the library refuses them.
        note: told in one line why an engine is built again, or cannot be kept.
        rebuild: build even if there is a good one.
        on_progress: as for `tensorrt.build`.

    Raises:
        UsageError, EngineUnavailableError, FileFormatError: as for `tensorrt.build`.
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
        request.contract,
        request.key.profile,
        source=str(request.path),
        capabilities=request.key.capabilities,
        on_progress=on_progress,
    )
    digest = hashlib.sha256(built.data).hexdigest()
    info = EngineFile(request.key, round(built.seconds, 3), built.layer_count, len(built.data), digest)
    try:
        with writing(path.parent):
            path.parent.mkdir(exist_ok=True)
        # The engine first: a reader that comes between the two finds a hash that does not fit.
        atomic_write(path, built.data)
        atomic_write(side_path(path), (json.dumps(info.to_json(), indent=2) + "\n").encode())
    except (OutputError, ResourceError) as error:
        note(f"the engine cannot be kept and will be built again next time: {error}")
    engine = load(built.data)
    if engine is None:
        raise EngineUnavailableError(
            f"engine {request.library.engine}: {request.library.title} refuses the engine that it has just built "
            f"from {request.path}. Use --engine ort."
        )
    return Loaded(engine, path, info, built=True)


def is_kept(request: Request) -> bool:
    """Whether the very engine of `request` is on disk and matches its JSON file."""
    try:
        read_engine(request.engine_path, request.key)
    except UnusableEngineError:
        return False
    return True


def find_covering(request: Request, size: Size, capability: str) -> Request | None:
    """A good engine that was built ahead of time for other shapes, but takes `size`.

    Args:
        request: for `size` alone.
        size: (height, width) after padding.
        capability: compute capability of the GPU, such as ``"8.6"``.

    Returns:
        a request whose engine is on disk and matches its JSON file, or None.
    """
    for info in side_files(request.path.parent / FOLDER):
        key = replace(request.key, profile=info.key.profile, capabilities=info.key.capabilities)
        other = replace(request, key=key)
        if info.key.capabilities and capability not in info.key.capabilities:
            continue
        if request.key.capabilities and not info.key.capabilities:
            # The GPU is one that has to be named, and this engine names none.
            continue
        if not info.key.profile.covers(size) or key.difference(info.key):
            continue
        if is_kept(other):
            return other
    return None


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text).strip("-").lower()
