"""Identifies the work of a command: equal keys mean that the results have the same bits.

A finished file carries the key of its job and its settings (`machine.marks`). So a repeated command finds what is done,
and says how it differs from the result of other settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from self2self.jobs.fit_config import FitOptions
from self2self.machine.marks import file_sha256
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.train.run_folder import Run
from self2self.version import VERSION

_NOT_IN_THE_RESULT = {"batch", "allow_fallback", "uncertainty"}
"""Options of the ensemble that leave the denoised image as it is."""
_OPTION_OF_FIELD = {"balanced": "masks", "restore": "corrections", "source": "image"}
"""Names of settings in messages, where they are not those of the fields."""
_DIGEST_LETTERS = 64


@dataclass(frozen=True, slots=True)
class Job:
    """What decides the bits of a result.

    Attributes:
        key: hash of all settings and files.
        settings: those settings that are not the default, and the digests of files, by the name of their option.
    """

    key: str
    settings: dict[str, Any]


def infer_identity(source: Path, model: Path, options: EnsembleOptions) -> Job:
    """The identity of `infer` for the image or stack `source`; both files are read.

    Raises:
        OSError: a file cannot be read.
    """
    return _job(file_sha256(source), {"model": file_sha256(model)}, options)


def denoise_identity(source: Path, fitting: FitOptions, options: EnsembleOptions) -> Job:
    """The identity of `denoise` for the image or stack `source`; the weights that the fit starts from are read, too.

    Raises:
        OSError: a file cannot be read.
    """
    return _job(file_sha256(source), {"fit": _fit_settings(fitting)}, options)


def volume_identity(volume: dict[str, Any], fitting: FitOptions, options: EnsembleOptions) -> Job:
    """The identity of `denoise` for a volume, which is too large to be read; `volume` says what is known of it.

    Raises:
        OSError: weights that the fit starts from cannot be read.
    """
    return _job(volume, {"fit": _fit_settings(fitting)}, options)


def _fit_settings(fitting: FitOptions) -> dict[str, Any]:
    settings = asdict(fitting)
    # Neither the place of the fit nor the time that it waits for changes its bits.
    del settings["run"], settings["wait"]
    files = {"iqa_weights": fitting.iqa_weights, "init": fitting.init and Run(Path(fitting.init)).model_path}
    for name, path in files.items():
        if path and path.is_file():
            settings[name] = file_sha256(path)
    return settings


def settings_key(what: str, files: Mapping[str, Path], **settings: Any) -> str:
    """A key like that of `Job`, for results other than denoised images.

    Args:
        what: kind of the result.
        files: that decide its bits, by their role; they are read.
        settings: that decide its bits.

    Raises:
        OSError: a file cannot be read.
    """
    return _hashed({"what": what, "files": {name: file_sha256(path) for name, path in files.items()}, **settings})


def differences(earlier: dict[str, Any], asked: dict[str, Any]) -> str:
    """In which `Job.settings` two jobs differ, in words; empty if in none."""
    earlier, asked = _each_by_itself(earlier), _each_by_itself(asked)
    names = sorted({*earlier, *asked}, key=lambda name: (name == "version", name))
    changed = [name for name in names if earlier.get(name) != asked.get(name)]
    return "; ".join(f"{_in_words(name, earlier.get(name))}, asked for {_value(asked.get(name))}" for name in changed)


def _each_by_itself(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings in which what is known of a volume has names of its own."""
    volume = settings.get("source")
    if not isinstance(volume, dict):
        return settings
    return {**{name: value for name, value in settings.items() if name != "source"}, **volume}


def _in_words(name: str, value: Any) -> str:
    return f"{_OPTION_OF_FIELD.get(name, name).replace('_', ' ')} {_value(value)}"


def _value(value: Any) -> str:
    if value is None:
        return "the default"
    # The older name of the weights that are meant by --init pretrained.
    text = "pretrained" if value == "natural" else str(value)
    return text[:8] if len(text) == _DIGEST_LETTERS else text


def _job(source: Any, made_with: dict[str, Any], options: EnsembleOptions) -> Job:
    passes = {key: value for key, value in asdict(options).items() if key not in _NOT_IN_THE_RESULT}
    values = {"version": VERSION, "source": source, "passes": passes, **made_with}
    defaults = {field.name: field.default for kind in (FitOptions, EnsembleOptions) for field in fields(kind)}
    flat = {**passes, **made_with.get("fit", {})} | {name: values[name] for name in values.keys() - {"passes", "fit"}}
    chosen = {name: value for name, value in flat.items() if name not in defaults or value != defaults[name]}
    return Job(_hashed(values), json.loads(json.dumps(chosen, default=str)))


def _hashed(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps({"version": VERSION, **values}, sort_keys=True, default=str).encode()).hexdigest()
