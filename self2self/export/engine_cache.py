"""Engines on disk, in ``engines/`` beside the model, each with a JSON file that says what it is.

An engine belongs to one ONNX file, one version of one library, one GPU and one range of shapes;
with anything else it does not load, or silently computes something else. All of that is the key
in the JSON file, together with the SHA-256 of the engine. What is stale, foreign, truncated or
changed is built again, and the user is told why.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from self2self.contract import Contract
from self2self.errors import EngineUnavailableError, OutputError, ResourceError, writing
from self2self.export.tensorrt import Library, build, capability_members
from self2self.files import atomic_write
from self2self.nvidia import Gpu
from self2self.profiles import Profile, Size

T = TypeVar("T")

FORMAT_VERSION = 1
FOLDER = "engines"


@dataclass(frozen=True, slots=True)
class EngineKey:
    """What an engine belongs to.

    Attributes:
        model_sha256: of the ONNX file.
        library, library_version: module that built it.
        gpu: name and compute capability of the GPU that it was built on; empty for TensorRT-RTX.
        capabilities: compute capabilities that it was built for; empty for the library's default.
        precision: type inside the graph.
        profile: shapes that it takes.
    """

    model_sha256: str
    library: str
    library_version: str
    gpu: str
    capabilities: tuple[str, ...]
    precision: str
    profile: Profile

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**values, "capabilities": list(self.capabilities), "profile": self.profile.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> EngineKey:
        """The inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: `values` is something else.
        """
        texts = {
            name: str(values[name]) for name in cls.__dataclass_fields__ if name not in ("capabilities", "profile")
        }
        capabilities = tuple(map(str, values["capabilities"]))
        return cls(**texts, capabilities=capabilities, profile=Profile.from_json(values["profile"]))

    def sha256(self) -> str:
        """One word for all of it."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def difference(self, stored: EngineKey) -> str:
        """Why an engine with the key `stored` is not the one wanted; empty when it is."""
        if stored.model_sha256 != self.model_sha256:
            return "it was built from another version of the model"
        for name, title in _TITLES.items():
            got, wanted = getattr(stored, name), getattr(self, name)
            if got != wanted:
                return f"it was built for {title} {_plain(got)}, not {_plain(wanted)}"
        return ""


_TITLES = {
    "library": "library",
    "library_version": "library version",
    "gpu": "GPU",
    "capabilities": "compute capability",
    "precision": "precision",
    "profile": "shapes",
}


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
class EngineFile:
    """What the JSON file beside an engine says.

    Attributes:
        key: what the engine belongs to.
        build_seconds: how long it took.
        layer_count: layers of the network before fusion.
        engine_bytes: size of the engine.
        engine_sha256: of the engine.
    """

    key: EngineKey
    build_seconds: float
    layer_count: int
    engine_bytes: int
    engine_sha256: str

    def to_json(self) -> dict[str, Any]:
        """What is written."""
        values = {**asdict(self), "key": self.key.to_json()}
        return {"format_version": FORMAT_VERSION, "key_sha256": self.key.sha256(), **values}

    @classmethod
    def read(cls, path: Path) -> EngineFile:
        """Read the JSON file at `path`.

        Raises:
            OSError: it cannot be read.
            KeyError, TypeError, ValueError: it is damaged or of another format.
        """
        values = json.loads(path.read_bytes())
        if values["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format {values['format_version']}")
        return cls(
            EngineKey.from_json(values["key"]),
            float(values["build_seconds"]),
            int(values["layer_count"]),
            int(values["engine_bytes"]),
            str(values["engine_sha256"]),
        )


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
    if not rebuild and (path.exists() or _side_path(path).exists()):
        try:
            info, data = _read(path, request.key)
            engine = load(data)
        except _UnusableError as error:
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
        atomic_write(_side_path(path), (json.dumps(info.to_json(), indent=2) + "\n").encode())
    except (OutputError, ResourceError) as error:
        note(f"the engine cannot be kept and will be built again next time: {error}")
    engine = load(built.data)
    if engine is None:
        raise EngineUnavailableError(
            f"engine {request.library.engine}: {request.library.title} refuses the engine that it has just built "
            f"from {request.path}. Use --engine ort."
        )
    return Loaded(engine, path, info, built=True)


def find_covering(request: Request, size: Size, capability: str) -> Request | None:
    """A good engine that was built ahead of time for a range of shapes with `size` in it.

    Args:
        request: for `size` alone.
        size: (height, width) after padding.
        capability: compute capability of the GPU, such as ``"8.6"``.

    Returns:
        a request whose engine is on disk and matches its JSON file, or None.
    """
    for info in _side_files(request.path.parent / FOLDER):
        key = replace(request.key, profile=info.key.profile, capabilities=info.key.capabilities)
        other = replace(request, key=key)
        if info.key.capabilities and capability not in info.key.capabilities:
            continue
        if request.key.capabilities and not info.key.capabilities:
            # The GPU is one that has to be named, and this engine names none.
            continue
        if not info.key.profile.covers(size) or key.difference(info.key):
            continue
        try:
            _read(other.engine_path, key)
        except _UnusableError:
            continue
        return other
    return None


class _UnusableError(Exception):
    """Why an engine on disk is not used; never leaves this module."""


def _read(path: Path, key: EngineKey) -> tuple[EngineFile, bytes]:
    side = _side_path(path)
    try:
        info = EngineFile.read(side)
    except FileNotFoundError:
        raise _UnusableError(f"{side.name} is missing") from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise _UnusableError(f"{side.name} is damaged") from error
    difference = key.difference(info.key)
    if difference:
        raise _UnusableError(difference)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _UnusableError(f"it cannot be read ({error.strerror})") from error
    if len(data) != info.engine_bytes:
        raise _UnusableError(f"it has {len(data)} bytes, not {info.engine_bytes}")
    if hashlib.sha256(data).hexdigest() != info.engine_sha256:
        raise _UnusableError("its bytes were changed")
    return info, data


def _side_files(folder: Path) -> Iterator[EngineFile]:
    for side in sorted(folder.glob("*.engine.json")):
        try:
            yield EngineFile.read(side)
        except (OSError, KeyError, TypeError, ValueError):
            continue


def _side_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _plain(value: object) -> str:
    if isinstance(value, Profile):
        return value.slug()
    if isinstance(value, tuple):
        return "+".join(value) or "any"
    return str(value) or "none"


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text).strip("-").lower()
