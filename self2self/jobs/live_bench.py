"""`self2self bench` for a network with live dropout: each engine, whole and with a part that is computed once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from self2self.errors import EngineUnavailableError, FileFormatError, first_line
from self2self.jobs.live import read_arrays
from self2self.machine.files import atomic_write, check_new

if TYPE_CHECKING:
    from self2self.live.contract import LiveContract
    from self2self.live.model import LiveModel

_LENGTH = 64
"""Length of free axes other than the batch, where no inputs are given."""


@dataclass(frozen=True, slots=True)
class LiveBenchOptions:
    """What to measure.

    Attributes:
        inputs: arrays as for `self2self predict`; None for random ones, whose free axes have 64 elements.
        samples: numbers of samples of a batch; the inputs are repeated or cut to them.
        engines: names; none for all that work here.
        rounds: number of rounds; in each, every case runs once.
        passes: passes of each case in a round.
        output: file for the result as JSON; None for none.
        force: whether it may be replaced.
    """

    inputs: Path | None = None
    samples: Sequence[int] = (1, 4)
    engines: Sequence[str] = ()
    rounds: int = 7
    passes: int = 4
    output: Path | None = None
    force: bool = False


def is_live_file(path: Path) -> bool:
    """Whether `path` is a file of `export_live`, by its metadata."""
    from self2self.live.model import LARGEST_FILE_BYTES
    from self2self.model.contract import LIVE_SCHEMA_VERSION, METADATA_PREFIX
    from self2self.runtime.model import read_proto

    if not path.is_file():
        return False
    metadata = {entry.key: entry.value for entry in read_proto(path, LARGEST_FILE_BYTES).metadata_props}
    return metadata.get(f"{METADATA_PREFIX}schema_version") == str(LIVE_SCHEMA_VERSION)


def live_bench_job(path: Path, options: LiveBenchOptions) -> dict[str, Any]:
    """Measure passes of a network in all engines.

    Returns:
        the result, as it is written: a row for each engine and number of samples, with medians over the rounds.

    Raises:
        UsageError, EngineUnavailableError: an engine that was named does not exist, or does not work.
        InputError, FileFormatError: a file cannot be used.
        OutputError: the output exists already, or cannot be written.
    """
    from self2self.live.model import load_live
    from self2self.runtime.engines.graphs import GRAPH_ENGINES

    if options.output is not None:
        check_new(options.output, force=options.force)
    problems: dict[str, str] = {}
    models: dict[str, LiveModel] = {}
    for engine in options.engines or GRAPH_ENGINES:
        try:
            models[engine] = load_live(path, engine)
        except (EngineUnavailableError, FileFormatError) as error:
            if options.engines:
                raise
            problems[engine] = first_line(error)
    first_name, first = next(iter(models.items()))
    contract = first.contract
    given = None if options.inputs is None else first.checked(read_arrays(options.inputs))
    cases: dict[tuple[str, int], _Case] = {}
    for engine, model in models.items():
        for samples in options.samples if contract.batch is not None else (1,):
            cases[engine, samples] = _Case(model, inputs_for(contract, samples, given))
    for turn in range(options.rounds + 1):
        names = list(cases)
        for name in (*names[turn % len(names) :], *names[: turn % len(names)]):
            # The first round only warms up.
            cases[name].run(turn, options.passes, keep=turn > 0)
    reference = {samples: case.pass_seconds for (engine, samples), case in cases.items() if engine == first_name}
    rows = [
        {
            "engine": engine,
            "samples": samples,
            "once_ms": 1000 * case.once_seconds,
            "pass_ms": 1000 * case.pass_seconds,
            "passes_per_second": 1 / case.pass_seconds,
            "ratio": reference[samples] / case.pass_seconds,
        }
        for (engine, samples), case in cases.items()
    ]
    result = {
        "benchmark": "live",
        "model": str(path),
        "computed_once": first.computed_once,
        "rounds": options.rounds,
        "passes": options.passes,
        "problems": problems,
        "rows": rows,
    }
    if options.output is not None:
        atomic_write(options.output, (json.dumps(result, indent=1) + "\n").encode())
    return result


class _Case:
    """A network in one engine, with inputs.

    Attributes:
        once: seconds of what does not depend on any mask, one for each round.
        passes: seconds of a pass, masks included.
    """

    def __init__(self, model: LiveModel, inputs: dict[str, Any]) -> None:
        from self2self.live.draws import axes_of, draw_pass

        self._model, self._inputs = model, inputs
        axes = axes_of(model.contract.axes, inputs)
        self._draws: Callable[[int], dict[str, Any]] = lambda index: draw_pass(model.contract, axes, 0, index)
        self.once: list[float] = []
        self.passes: list[float] = []

    def run(self, turn: int, count: int, *, keep: bool) -> None:
        """Measure one round of `count` passes."""
        start = time.perf_counter()
        carried = self._model.once(self._inputs)
        between = time.perf_counter()
        for index in range(count):
            self._model.one_pass(self._inputs, carried, self._draws(turn * count + index))
        if keep:
            self.once.append(between - start)
            self.passes.append((time.perf_counter() - between) / count)

    @property
    def once_seconds(self) -> float:
        """Median over the rounds."""
        return median(self.once)

    @property
    def pass_seconds(self) -> float:
        """Median over the rounds."""
        return median(self.passes)


def inputs_for(contract: LiveContract, samples: int, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Inputs for so many samples: `given` ones, repeated and cut; or random ones where that is None."""
    random = np.random.default_rng(0)
    lengths = {axis: samples if axis == contract.batch else _LENGTH for axis in contract.axes}
    values: dict[str, Any] = {}
    for item in contract.inputs:
        shape = [dim if isinstance(dim, int) else lengths[dim] for dim in item.dims]
        if given is None:
            kind = np.dtype(item.dtype)
            values[item.name] = (random.normal(size=shape) if kind.kind == "f" else np.ones(shape)).astype(kind)
            continue
        array = given[item.name]
        if contract.batch is not None and item.dims and item.dims[0] == contract.batch:
            array = np.concatenate([array] * -(-samples // len(array)))[:samples]
        values[item.name] = array
    return values


def table(result: Mapping[str, Any]) -> str:
    """The rows as aligned columns, and why an engine is missing."""
    lines = [("engine", "samples", "once ms", "pass ms", "passes/s", "ratio")]
    for row in result["rows"]:
        numbers = (row["once_ms"], row["pass_ms"], row["passes_per_second"], row["ratio"])
        lines.append((row["engine"], str(row["samples"]), *(f"{value:.2f}" for value in numbers)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    shown = ["  ".join(map(str.rjust, line, widths)) for line in lines]
    shown += [f"{engine}: {reason}" for engine, reason in result["problems"].items()]
    return "\n".join(shown)
