"""Which kind of volume a path is."""

from __future__ import annotations

from pathlib import Path

from self2self.errors import UsageError, typed
from self2self.image_io.volumes.volume import is_remote

ZARR_FILES = (".zgroup", ".zarray", "zarr.json")
"""Files of which a folder of zarr has at least one."""
ZARR_SUFFIXES: tuple[str, ...] = (".zarr",)
HDF5_SUFFIXES: tuple[str, ...] = (".h5", ".hdf5", ".hdf", ".he5", ".nxs")
TIFF_SUFFIXES: tuple[str, ...] = (".tif", ".tiff")
HDF5_HEAD = b"\x89HDF\r\n\x1a\n"
RESULT_MARK = ".denoised"


def is_volume(path: Path) -> bool:
    """Whether `path` is a zarr group or array, an HDF5 file or an array in one, or the address of a zarr."""
    return is_zarr(path) or hdf5_file(path) is not None


def is_zarr(path: Path) -> bool:
    """Whether `path` is a folder of zarr, or an address with ``.zarr`` in it."""
    if is_remote(path):
        return ".zarr" in str(path)
    try:
        return path.is_dir() and any((path / name).is_file() for name in ZARR_FILES)
    except OSError:
        # The name is too long, for example: whoever reads the file says so.
        return False


def hdf5_file(path: Path) -> Path | None:
    """The HDF5 file that `path` is, or that has the array which `path` names; None if there is none."""
    # Most files are told by their names, without opening them.
    named = next((part for part in (path, *path.parents) if part.suffix.lower() in HDF5_SUFFIXES), None)
    if named is None or is_remote(path):
        return None
    try:
        with named.open("rb") as file:
            return named if file.read(len(HDF5_HEAD)) == HDF5_HEAD else None
    except (OSError, ValueError):
        return None


def default_volume_output(path: Path) -> Path:
    """``<stem>.denoised.<extension>`` beside the volume, or beside the file or the zarr that holds it."""
    source = hdf5_file(path) or zarr_folder(path)
    suffixes = ".ome.zarr" if source.name.lower().endswith(".ome.zarr") else source.suffix
    return source.with_name(f"{source.name[: len(source.name) - len(suffixes)]}{RESULT_MARK}{suffixes}")


def check_volume_output(path: Path, output: Path) -> None:
    """Refuse a result of another kind than the volume at `path`, and the volume itself.

    Raises:
        UsageError: says which extension is expected.
    """
    if output.resolve() == path.resolve():
        raise UsageError(f"{typed('-o', output)}: is the input itself. Choose another name.")
    kind, suffixes = "zarr", ZARR_SUFFIXES
    if not is_zarr(path):
        kind, suffixes = ("HDF5", HDF5_SUFFIXES) if hdf5_file(path) is not None else ("TIFF", TIFF_SUFFIXES)
    if output.suffix.lower() not in suffixes:
        raise UsageError(
            f"{typed('-o', output)}: {path} is {kind}, and so is its result. Use the extension {suffixes[0]}, or a "
            "slash at the "
            "end for a folder"
        )


def zarr_folder(path: Path) -> Path:
    """The outermost part of a path that is named ``*.zarr``; the path itself if none is."""
    return next((part for part in reversed((path, *path.parents)) if part.suffix.lower() == ".zarr"), path)
