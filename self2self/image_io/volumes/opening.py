"""Opens a volume, whichever kind it is."""

from __future__ import annotations

from pathlib import Path

from self2self.errors import Self2SelfError
from self2self.image_io.volumes.kinds import TIFF_SUFFIXES, hdf5_file, is_zarr
from self2self.image_io.volumes.volume import Needed, Volume, is_remote

ZARR, HDF5 = Needed("zarr", "zarr"), Needed("h5py", "hdf5")
LARGE_TIFF_BYTES = 10**9
"""Size of a TIFF from which on it is denoised block by block."""


def is_tiff_for_blocks(path: Path, *, asked: bool = False) -> bool:
    """Whether `path` is a TIFF that is denoised block by block: a large one that can be, or any if it is `asked` for.

    Such a file is an image as well, which other commands read page by page.
    """
    if path.suffix.lower() not in TIFF_SUFFIXES or is_remote(path):
        return False
    try:
        if asked or path.stat().st_size < LARGE_TIFF_BYTES:
            return asked and path.is_file()
        with open_volume(path):
            return True
    except (OSError, ValueError, Self2SelfError):
        # It is cut off or has alpha, for example: whoever reads its pages takes it, or says what is wrong.
        return False


def open_volume(path: Path) -> Volume:
    """Open a volume.

    Raises:
        InputError: it is damaged, or it is not clear which array is meant.
        EngineUnavailableError: the package that reads it is not installed.
    """
    if is_zarr(path):
        ZARR.check(path)
        from self2self.image_io.volumes.zarr_volume import ZarrVolume

        return ZarrVolume(path)
    file = hdf5_file(path)
    if file is None:
        from self2self.image_io.volumes.tiff_volume import TiffVolume

        return TiffVolume(path)
    HDF5.check(path)
    from self2self.image_io.volumes.hdf5_volume import Hdf5Volume

    return Hdf5Volume(path, file)
