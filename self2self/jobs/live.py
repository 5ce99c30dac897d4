"""Exports a network that a user's own code makes with live dropout, and runs such a file over arrays."""

from __future__ import annotations

import importlib
import os
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from self2self.errors import InputError, OutputError, UsageError, first_line, shown, typed
from self2self.jobs.job_key import settings_key
from self2self.machine.files import atomic_path, atomic_write, check_new, remove_leftovers
from self2self.machine.marks import Mark, read_mark

if TYPE_CHECKING:
    from collections.abc import Callable

    from self2self.live.export import LiveExport
    from self2self.live.statistics import OutputStatistics

STATISTICS = {
    "mean": "mean",
    "std": "std",
    "entropy": "entropy",
    "mi": "mutual_information",
    "vr": "variation_ratio",
    "quantiles": "quantiles",
}
"""Names of `--stat`, and the attributes of `OutputStatistics` that they stand for."""
_OPTIONS = ("dynamic", "include", "exclude", "kind")
"""Arguments of `export_live` that a factory may return."""


def factory_of(target: str) -> Callable[[], Any]:
    """Import the function that `target` names, such as ``package.module:factory``. This runs the module's code.

    Modules are searched in the current folder first.

    Raises:
        UsageError: there is no such module or function, or the module cannot be imported.
    """
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise UsageError(
            f"{typed('--model')} is {target!r}; expected MODULE:FACTORY, such as networks:make_classifier."
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise UsageError(
                f"{typed('--model')}: there is no module {module_name} here ({here}) or among the installed packages."
            ) from error
        raise UsageError(
            f"{typed('--model')}: {module_name} cannot be imported ({shown(first_line(error))})."
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # The user's own code may raise anything, also SystemExit.
        raise UsageError(
            f"{typed('--model')}: {module_name} cannot be imported ({type(error).__name__}: "
            f"{shown(first_line(error))})."
        ) from error
    factory: Any = getattr(module, name, None)
    if not callable(factory):
        raise UsageError(f"{typed('--model')}: {module_name} has no function {name}.")
    return factory  # type: ignore[no-any-return]


def _made_by(target: str) -> tuple[Any, Any, dict[str, Any]]:
    """The model, the example inputs and the options that the factory called `target` returns."""
    import torch

    factory = factory_of(target)
    try:
        # Weights that nobody has seeded are the same in every run, so that a repeated command knows its own file.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = factory()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UsageError(
            f"{typed('--model')}: {target} raises {type(error).__name__} ({shown(first_line(error))})."
        ) from error
    if isinstance(made, tuple) and len(made) == 2:
        made = (*made, {})
    if not (
        isinstance(made, tuple) and len(made) == 3 and isinstance(made[2], Mapping) and set(made[2]) <= {*_OPTIONS}
    ):
        raise UsageError(
            f"{typed('--model')}: {target} returns {type(made).__name__}; expected model, example_inputs or model, "
            f"example_inputs, options, where options may have {', '.join(_OPTIONS)}."
        )
    return made[0], made[1], dict(made[2])


@dataclass(frozen=True, slots=True)
class LiveChoice:
    """Which draws of a network become inputs.

    Attributes:
        only: patterns of modules or nodes whose draws stay; none for those of the factory, or all.
        exclude: patterns of modules or nodes whose draws do not stay.
        kind: of the outputs; None for that of the factory, or value.
        list_only: write nothing.
    """

    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    kind: str | None = None
    list_only: bool = False

    def options(self) -> dict[str, Any]:
        """The arguments of `export_live` that were chosen."""
        chosen = {"include": self.only or None, "exclude": self.exclude or None, "kind": self.kind}
        return {name: value for name, value in chosen.items() if value is not None}


def live_export_job(
    target: str, output: Path | None, choice: LiveChoice, *, force: bool = False
) -> tuple[LiveExport, bool]:
    """Export the model that a factory makes; returns what was exported, and whether the same file was there already.

    Args:
        target: ``package.module:factory``.
        output: of the file; None for ``FACTORY.onnx`` in the current folder.
        choice: which draws become inputs.
        force: whether an existing file is replaced.

    Raises:
        UsageError: the factory or an option is wrong, or the model cannot be exported (`export_live`).
        OutputError: the file exists already, or cannot be written.
        VerificationError, EngineUnavailableError, ResourceError: as for `export_live`.
    """
    from self2self.live.export import live_file

    path = output or Path(f"{target.rpartition(':')[2]}.onnx")
    job = settings_key("live", {}, target=target, only=choice.only, exclude=choice.exclude, kind=choice.kind)

    def make(path: Path | None) -> tuple[LiveExport, bytes]:
        model, example_inputs, options = _made_by(target)
        return live_file(model, example_inputs, path, **{**options, **choice.options()})

    return _written(path, job, make, choice, force=force)


def live_onnx_job(
    file: Path,
    output: Path | None,
    choice: LiveChoice,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    fixed: bool = False,
    all_dropout: bool = False,
    force: bool = False,
) -> tuple[LiveExport, bool]:
    """Export an ONNX file of another program; returns what was exported, and whether the same file was there already.

    Args:
        file: the file.
        output: of the new file; None for ``FILE.live.onnx`` in the current folder.
        choice: which draws become inputs.
        shapes: as in `export_live_onnx`, like the next two.
        fixed: see there.
        all_dropout: see there.
        force: whether an existing file is replaced.

    Raises:
        Self2SelfError: as for `export_live_onnx`; an OutputError if the new file exists already.
    """
    from self2self.live.export import live_onnx_file

    path = output or Path(f"{file.stem}.live.onnx")
    if path.resolve() == file.resolve():
        raise UsageError(f"{typed('-o')} {path}: is the file itself. Choose another name.")
    options = {**choice.options(), "shapes": shapes, "fixed": fixed, "all_dropout": all_dropout}
    files = {"file": file} if file.is_file() and os.access(file, os.R_OK) else {}
    job = settings_key("live-onnx", files, **{name: str(value) for name, value in options.items()})
    return _written(path, job, lambda path: live_onnx_file(file, path, **options), choice, force=force)


def _written(
    path: Path,
    job: str,
    make: Callable[[Path | None], tuple[LiveExport, bytes]],
    choice: LiveChoice,
    *,
    force: bool,
) -> tuple[LiveExport, bool]:
    """Write what `make` makes to `path`, unless the same job has written the same bytes there."""
    if choice.list_only:
        return make(None)[0], False
    is_ours = read_mark(path, job) is not None
    check_new(path, force=force or is_ours)
    remove_leftovers(path.resolve().parent)
    done, data = make(path)
    if is_ours and not force:
        # The command does not tell the weights, so only the bytes do.
        if path.read_bytes() != data:
            raise OutputError(
                f"{path}: exists already, made by the same command of other code or weights. Replace it with "
                f"{typed('--force')}, or choose another place with {typed('-o')}."
            )
        return done, True
    atomic_write(path, data, mark=Mark(job))
    return done, False


@dataclass(frozen=True, slots=True)
class Predicted:
    """What was written.

    Attributes:
        path: of the file.
        passes: number of passes.
        arrays: name of each array in the file → its shape.
        notes: what the user should know of the arrays.
        done_already: whether an earlier run of the same command has written it.
    """

    path: Path
    passes: int
    arrays: dict[str, tuple[int, ...]]
    notes: tuple[str, ...] = ()
    done_already: bool = False


def live_predict_job(
    model: Path,
    inputs: Path,
    output: Path,
    *,
    statistics: Sequence[str] = ("mean", "std"),
    passes: int | Literal["auto"] = "auto",
    seed: int = 0,
    masks: str = "independent",
    quantiles: Sequence[float] = (),
    batch: int | None = None,
    tolerance: float | None = None,
    engine: str = "ort",
    force: bool = False,
) -> Predicted:
    """Run a file of `export_live` over the arrays of an ``.npz`` or ``.npy`` file, and write statistics as ``.npz``.

    Args:
        model: the ONNX file.
        inputs: ``.npz`` with an array for each input, or ``.npy`` for a model with one input.
        output: file with an array for each of `statistics`; of models with several outputs, for each of each, called
            ``OUTPUT.STATISTIC``.
        statistics: names of `STATISTICS`.
        passes: as in `LiveModel.predict`, like the next five.
        seed: see there.
        masks: see there.
        quantiles: see there.
        batch: see there.
        tolerance: see there; None for its default.
        engine: what computes, as in `load_live`.
        force: whether an existing file is replaced.

    Raises:
        UsageError: an option is wrong, or a statistic is asked of an output without classes.
        InputError, FileFormatError: a file cannot be used.
        OutputError, ResourceError, EngineUnavailableError: as for `load_live`, or `output` cannot be written.
    """
    from self2self.live.contract import OF_CLASSES
    from self2self.live.model import load_live

    if unknown := [name for name in statistics if name not in STATISTICS]:
        raise UsageError(
            f"{typed('--stat')} has {shown(', '.join(unknown))}; expected some of {', '.join(STATISTICS)}."
        )
    if ("quantiles" in statistics) != bool(quantiles):
        raise UsageError(
            f"{typed('--stat quantiles')} and {typed('--quantiles')} go together, such as "
            f"{typed('--stat quantiles')} {typed('--quantiles 0.05,0.95')}."
        )
    for path, what in ((model, "model"), (inputs, "input")):
        if output.resolve() == path.resolve():
            raise UsageError(f"{typed('-o', output)}: is the {what} itself. Choose another name.")
    if output.suffix.lower() != ".npz":
        raise OutputError(
            f"{typed('-o', output)}: expected a name that ends in .npz. Type: {typed('-o', output.with_suffix('.npz'))}"
        )
    job = ""
    if model.is_file() and inputs.is_file():
        files = {"model": model, "inputs": inputs}
        options = {"passes": passes, "seed": seed, "masks": masks, "quantiles": list(quantiles), "batch": batch}
        options |= {"engine": engine}
        job = settings_key("predict", files, statistics=list(statistics), tolerance=tolerance, **options)
    remove_leftovers(output.resolve().parent)
    earlier = None if force else read_mark(output, job)
    if earlier is not None and earlier.result is not None:
        shapes = {name: tuple(shape) for name, shape in earlier.result["arrays"].items()}
        return Predicted(output, earlier.result["passes"], shapes, tuple(earlier.result["notes"]), done_already=True)
    # Where the mark has no room for the result, the same command writes its own file again, with the same bytes.
    check_new(output, force=force or earlier is not None)
    live = load_live(model, engine)
    kinds = {item.name: item.kind for item in live.contract.outputs}
    of_classes = [name for name in statistics if name in ("entropy", "mi", "vr")]
    if of_classes and not set(kinds.values()) & set(OF_CLASSES):
        raise UsageError(
            f"{typed('--stat', ','.join(of_classes))} needs classes, and no output of {model} has them. "
            "Export it again: self2self export --model MODULE:FACTORY --kind logits"
        )
    values = read_arrays(inputs)
    prediction = live.predict(
        values,
        passes,
        seed,
        masks=masks,  # type: ignore[arg-type]
        quantiles=quantiles,
        batch=batch,
        tolerance=tolerance,
    )
    arrays = _named(prediction.outputs, statistics)
    done = Predicted(
        output, prediction.passes, {name: array.shape for name, array in arrays.items()}, _notes(values, arrays)
    )
    mark = Mark(job, {"passes": done.passes, "arrays": done.arrays, "notes": done.notes})
    with atomic_path(output, mark=mark) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    return done


def _notes(inputs: Any, outputs: Mapping[str, Any]) -> tuple[str, ...]:
    """What to say of values that are not finite: they spread through a network without an error."""
    named = inputs if isinstance(inputs, dict) else {"the input": inputs}
    counts = {
        name: int(np.size(array) - np.isfinite(array).sum())
        for values in (named, outputs)
        for name, array in values.items()
        if np.asarray(array).dtype.kind == "f"
    }
    return tuple(f"{name}: {count} values are NaN or infinite." for name, count in counts.items() if count)


def _named(outputs: Mapping[str, OutputStatistics], statistics: Sequence[str]) -> dict[str, Any]:
    """The wanted arrays by name; outputs without classes have no entropies."""
    arrays = {}
    for output, values in outputs.items():
        for name in statistics:
            array = getattr(values, STATISTICS[name])
            if array is not None:
                arrays[name if len(outputs) == 1 else f"{output}.{name}"] = array
    return arrays


def read_arrays(path: Path) -> Any:
    """Read the arrays of an ``.npz`` file by their names, or the one array of an ``.npy`` file.

    Raises:
        InputError: the file is missing, damaged, or holds Python objects.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Write one with numpy.savez, one array for each input.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or shown(first_line(error))}).") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: is no .npz or .npy file with arrays, or is damaged. Write one with numpy.savez."
        ) from error
