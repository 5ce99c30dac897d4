"""`self2self export`: export a run to an ONNX file, or build a TensorRT engine from it ahead of time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from self2self.errors import InputError, UsageError, typed
from self2self.imaging.padding import padded_size
from self2self.jobs.fit import read_fitted_image, read_reference
from self2self.jobs.job_key import settings_key
from self2self.jobs.observer import Observer
from self2self.machine.files import check_new, remove_leftovers
from self2self.machine.marks import Mark, read_mark
from self2self.machine.nvidia import Gpu, find_gpu
from self2self.runtime.engines.profiles import BATCHES, Profile, Size
from self2self.runtime.model import load_model
from self2self.train.checkpoint import load_network
from self2self.train.run_folder import PACKAGE_SUFFIXES, Run

if TYPE_CHECKING:
    from self2self.export.precision import PrecisionCheck
    from self2self.export.verify import Verification
    from self2self.model.contract import Contract
    from self2self.model.network import Self2SelfNet
    from self2self.runtime.engines.tensorrt.cache import Loaded

FloatArray = NDArray[np.float32]

PLAIN_FORMATS = ("onnx", *PACKAGE_SUFFIXES)
"""File formats of `plain_job`. All but ``onnx`` are packages for other programs."""


def export_job(
    run: Run, output: Path | None = None, *, size: tuple[int, int] | None = None, force: bool = False
) -> tuple[Path, Verification]:
    """`self2self export`: write and verify the ONNX file of a run.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    from self2self.export import export_model

    run.config()
    path = output or run.onnx_path
    network, contract = load_network(run.model_path)
    _check_free(path, network, contract, size, force=force)
    return path, export_model(network, contract, path, size=size)


def precision_job(
    run: Run,
    precision: str,
    output: Path | None = None,
    *,
    size: tuple[int, int] | None = None,
    reference: Path | None = None,
    force: bool = False,
) -> tuple[Path, Verification, PrecisionCheck]:
    """`self2self export --precision`: write an ONNX file that computes in half precision, and check its loss.

    The loss is measured on the image of the run, in comparison with float32.

    Args:
        run: run folder of a finished fit.
        precision: ``"fp16"`` or ``"bf16"``.
        output: None for ``RUN/model.PRECISION.onnx``.
        size: fixed (height, width); None for any size.
        reference: clean image for a comparison of PSNR; None for none.
        force: whether an existing file may be replaced.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    from self2self.export.precision import check_precision_name, export_in_precision

    check_precision_name(precision)
    config = run.config()
    path = output or run.onnx_path_for(precision)
    network, contract = load_network(run.model_path)
    _check_free(path, network, replace(contract, precision=precision), size, force=force)
    image = read_fitted_image(config)
    clean = None if reference is None else read_reference(reference, image)
    graph, check = export_in_precision(network, contract, path, precision, image.pixels, reference=clean, size=size)
    return path, graph, check


def _check_free(
    path: Path, network: Self2SelfNet, contract: Contract, size: tuple[int, int] | None, *, force: bool
) -> None:
    """Refuse a path that cannot be written; a file with the bytes of this export is no obstacle.

    Leftovers of killed exports beside `path` are removed.

    Raises:
        OutputError, ResourceError: `path` cannot be written, or is another file and `force` is off.
    """
    from self2self.export.to_onnx import build_model, serialise

    is_same = path.is_file() and path.read_bytes() == serialise(build_model(network, contract, size))
    check_new(path, force=force or is_same)
    remove_leftovers(path.resolve().parent)


def plain_job(
    run: Run,
    output: Path | None = None,
    *,
    size: tuple[int, int] | None = None,
    precision: str = "fp32",
    file_format: str = "onnx",
    force: bool = False,
    observer: Observer,
) -> tuple[Path, Verification]:
    """`self2self export --plain`: write and verify a plain model, after making the single pass of the run.

    Args:
        run: run folder of a finished fit.
        output: None for ``RUN/model.plain.onnx``, in half precision ``RUN/model.plain.fp16.onnx``, or
            ``RUN/RUN.SUFFIX`` for packages.
        size: fixed (height, width); None for any size.
        precision: ``"fp32"`` or ``"fp16"``.
        file_format: ``"onnx"``, ``"dtmodel"`` for a model package of darktable, or ``"bioimageio"`` for one of
            BioImage.IO.
        force: whether an existing file may be replaced.
        observer: gets a note if a single pass falls short of the mean of passes.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    from self2self.export.plain import export_plain

    if file_format not in PLAIN_FORMATS:
        raise UsageError(f"{typed('--format')} is {file_format!r}; expected one of: {', '.join(PLAIN_FORMATS)}.")
    is_package = file_format in PACKAGE_SUFFIXES
    if is_package and (size is not None or precision != "fp32"):
        raise UsageError(
            f"{typed('--format', file_format)} has a size and a precision of its own; leave out {typed('--size')} "
            f"and {typed('--precision')}."
        )
    path = output or (run.package_path_for(file_format) if is_package else run.plain_onnx_path_for(precision))
    settings = {"size": size, "precision": precision, "format": file_format, "name": run.package_name}
    weights = run.model_path
    job = settings_key("plain", {"weights": weights}, **settings) if weights.is_file() else ""
    # The same command over its own file writes it again, with the same bytes.
    check_new(path, force=force or read_mark(path, job) is not None)
    remove_leftovers(path.resolve().parent)
    if not run.plain_path.is_file():
        _make_and_check_single_pass(run, observer)
    if is_package:
        return path, _export_package(run, path, file_format, Mark(job))
    network, contract = load_network(run.plain_path)
    return path, export_plain(network, replace(contract, precision=precision), path, size=size, mark=Mark(job))


def _export_package(run: Run, path: Path, file_format: str, mark: Mark) -> Verification:
    """Write the plain model of a run as a package for another program."""
    from self2self.export.bioimageio import export_bioimageio
    from self2self.export.dtmodel import export_dtmodel

    network, contract = load_network(run.plain_path)
    if file_format == "bioimageio":
        return export_bioimageio(network, contract, path, run.package_name, mark)
    black, white = read_fitted_image(run.config()).black_and_white
    ends = -black / (white - black), (1 - black) / (white - black)
    return export_dtmodel(network, contract, path, run.package_name, ends, mark)


def _make_and_check_single_pass(run: Run, observer: Observer) -> None:
    """Make the single pass of `run`, with a note where a single pass falls short of the mean of passes."""
    from self2self.train.single_pass import BothWeights, make_single_pass

    config = run.config()
    pixels = read_fitted_image(config).pixels
    make_single_pass(run, pixels, observer.calibration_step)
    check = BothWeights.of(run).check(pixels, seed=config.seed)
    if not check.passed:
        observer.note(f"{run.folder}: a single pass is {check.text}; passes give a better image.")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """An engine to build ahead of time.

    Attributes:
        engine: ``trt`` or ``trt-rtx``.
        size: (height, width) that the engine is optimised for; None for the size of the run's image.
        minimum, maximum: smallest and largest (height, width) that the engine takes; None for `size`.
        batches: smallest, best and largest number of passes in one run of the engine.
        capabilities: compute capabilities to build for, such as ``"8.6"``; empty for the usual ones.
        precision: precision of the ONNX file of the run, from which the engine is built.
    """

    engine: str
    size: Size | None = None
    minimum: Size | None = None
    maximum: Size | None = None
    batches: tuple[int, int, int] = BATCHES
    capabilities: tuple[str, ...] = ()
    precision: str = "fp32"


def engine_job(run: Run, options: EngineOptions, *, force: bool = False, observer: Observer) -> Loaded[bytes]:
    """`self2self export --engine`: build an engine into ``engines/``, or use the one that is there.

    The ONNX file that the engine is built from is made first where it is missing.

    Args:
        run: run folder of a finished fit.
        options: which engine to build.
        force: whether to build even if ``engines/`` has a usable engine.
        observer: gets the progress, and the reason why an engine is built again.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    from self2self.runtime.engines.tensorrt.builder import LIBRARIES
    from self2self.runtime.engines.tensorrt.cache import load_or_build, request_for

    library = LIBRARIES.get(options.engine)
    if library is None:
        raise UsageError(f"{typed('--engine')} is {options.engine!r}; export builds one of: {', '.join(LIBRARIES)}.")
    config = run.config()
    path = _made_or_exported_path(run, options.precision, observer)
    model = load_model(path)
    gpu = find_gpu()
    size = options.size or model.size
    if size is None:
        _, height, width = read_fitted_image(config).pixels.shape
        size = padded_size(height, width, model.contract.size_multiple, model.contract.minimum_size)
    request = request_for(
        library,
        path,
        model.contract,
        Profile(options.minimum or size, size, options.maximum or size, options.batches),
        gpu=gpu if isinstance(gpu, Gpu) else None,
        capabilities=options.capabilities,
        fixed_size=model.size,
    )
    # The engine is not loaded here, because that needs a GPU. `infer` loads it, and builds it again if that fails.
    return load_or_build(request, lambda data: data, observer.note, rebuild=force, on_progress=observer.build_step)


def _made_or_exported_path(run: Run, precision: str, observer: Observer) -> Path:
    """The ONNX file of `run` in `precision`, which is exported now if it is missing.

    Raises:
        Self2SelfError: as for `export_job` and `precision_job`.
    """
    from self2self.export.precision import check_precision_name

    check_precision_name(precision)
    path = run.onnx_path_for(precision)
    if not path.is_file():
        observer.note(f"{path}: is exported first.")
        if precision == "fp32":
            export_job(run)
        else:
            precision_job(run, precision)
    return path


def exported_path(run: Run, precision: str) -> Path:
    """The ONNX file of `run` that computes in `precision`.

    Raises:
        UsageError: there is no such precision.
        InputError: the run has not been exported in that precision yet.
    """
    from self2self.export.precision import check_precision_name

    check_precision_name(precision)
    path = run.onnx_path_for(precision)
    if not path.is_file():
        option = "" if precision == "fp32" else f" --precision {precision}"
        raise InputError(f"{run.folder}: has no {path.name} yet. Make it: self2self export {run.folder}{option}")
    return path
