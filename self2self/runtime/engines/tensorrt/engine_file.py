"""Defines the key of an engine on disk, and the JSON file beside the engine that stores the key.

An engine belongs to one ONNX file, one version of one library, one GPU and one range of shapes. With any other it does
not load, or silently computes something else. The key combines all of them. The JSON file stores it together with the
SHA-256 of the engine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from self2self.runtime.engines.profiles import Profile

FORMAT_VERSION = 1
"""Version of the JSON file."""


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Everything that decides whether an engine can be used.

    Attributes:
        model_sha256: SHA-256 of the ONNX file.
        library, library_version: module that built the engine.
        gpu: name and compute capability of the GPU that the engine was built on; empty for TensorRT-RTX.
        capabilities: compute capabilities that the engine was built for; empty for the library's default.
        precision: type inside the graph.
        profile: ranges of shapes that the engine accepts.
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
        """SHA-256 of the whole key."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def difference(self, stored: EngineKey) -> str:
        """Why an engine with the key `stored` cannot be used for this key; empty if it can."""
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
class EngineFile:
    """The content of the JSON file beside an engine.

    Attributes:
        key: of the engine.
        build_seconds: duration of the build.
        layer_count: layers of the network before fusion.
        engine_bytes: size of the engine.
        engine_sha256: SHA-256 of the engine.
    """

    key: EngineKey
    build_seconds: float
    layer_count: int
    engine_bytes: int
    engine_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they are written; `read` reads them back."""
        values = {**asdict(self), "key": self.key.to_json()}
        return {"format_version": FORMAT_VERSION, "key_sha256": self.key.sha256(), **values}

    @classmethod
    def read(cls, path: Path) -> EngineFile:
        """Read the JSON file at `path`.

        Raises:
            OSError: the file cannot be read.
            KeyError, TypeError, ValueError: the file is damaged or of another format version.
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


class UnusableEngineError(Exception):
    """An engine on disk cannot be used; the message says why. `cache` then builds it again and notes the reason."""


def read_engine(path: Path, key: EngineKey) -> tuple[EngineFile, bytes]:
    """Read the engine at `path` and its JSON file, and check both against `key`.

    Raises:
        UnusableEngineError: the engine has another key, or is damaged; the message says so in a few words.
    """
    side = side_path(path)
    try:
        info = EngineFile.read(side)
    except FileNotFoundError:
        raise UnusableEngineError(f"{side.name} is missing") from None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UnusableEngineError(f"{side.name} is damaged") from error
    difference = key.difference(info.key)
    if difference:
        raise UnusableEngineError(difference)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnusableEngineError(f"it cannot be read ({error.strerror})") from error
    if len(data) != info.engine_bytes:
        raise UnusableEngineError(f"it has {len(data)} bytes, not {info.engine_bytes}")
    if hashlib.sha256(data).hexdigest() != info.engine_sha256:
        raise UnusableEngineError("its bytes were changed")
    return info, data


def side_files(folder: Path) -> Iterator[EngineFile]:
    """The content of every readable JSON file in `folder`."""
    for side in sorted(folder.glob("*.engine.json")):
        try:
            yield EngineFile.read(side)
        except (OSError, KeyError, TypeError, ValueError):
            continue


def side_path(path: Path) -> Path:
    """The JSON file of the engine at `path`."""
    return path.with_name(path.name + ".json")


def _plain(value: object) -> str:
    if isinstance(value, Profile):
        return value.slug()
    if isinstance(value, tuple):
        return "+".join(value) or "any"
    return str(value) or "none"
