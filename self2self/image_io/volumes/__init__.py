"""Reads and writes volumes, arrays of any number of axes that do not fit into memory: OME-Zarr, zarr, HDF5, TIFF.

    with open_volume("embryo.ome.zarr") as volume:
        volume.axes, volume.shape                    # ("TCZYX", (20, 2, 100, 2048, 2048))
        block = volume.read((slice(0, 1), ...))      # only the chunks of the block are read

- `volume`: what a volume and a target are; `kinds`: which kind a path is; `opening`: opens it.
- `zarr_volume`, `ome_zarr`, `hdf5_volume`, `tiff_volume`: one kind each. `kept_blocks`: results of one writer.
- `pyramid`: smaller levels of a volume.
"""

from self2self.image_io.volumes.kinds import check_volume_output, default_volume_output, is_volume
from self2self.image_io.volumes.opening import is_tiff_for_blocks, open_volume
from self2self.image_io.volumes.volume import Selection, Target, Volume, place

__all__ = [
    "Selection",
    "Target",
    "Volume",
    "check_volume_output",
    "default_volume_output",
    "is_tiff_for_blocks",
    "is_volume",
    "open_volume",
    "place",
]
