"""How tests write and read each format of `formats/` without self2self."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from self2self.image_io import Stack, read_image, write_image
from self2self.image_io.image import Image

Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """How the tests write and read a format without self2self.

    Attributes:
        extension: of the files.
        write: writes (pages, H, W, C), or (H, W, C) where there are no pages.
        read: returns what `write` was given.
        types: dtypes that a file can hold.
        channels: numbers of channels, alpha included.
        pages: numbers of pages; empty for formats with one image.
        tolerance: of values, for formats with loss.
    """

    extension: str
    write: Callable[[Path, Array], object]
    read: Callable[[Path], Array]
    types: tuple[str, ...]
    channels: tuple[int, ...] = (1,)
    pages: tuple[int, ...] = ()
    tolerance: int = 0
    greatest: dict[str, int] = field(default_factory=dict)


def squeezed(array: Array) -> Array:
    return array[..., 0] if array.shape[-1] == 1 else array


def with_channels(array: Array, axes: int) -> Array:
    return array[..., None] if array.ndim == axes else array


def write_npy(path: Path, array: Array) -> None:
    np.save(path, squeezed(array))


def write_fits(path: Path, array: Array) -> None:
    from astropy.io import fits

    fits.PrimaryHDU(array[..., 0]).writeto(path, overwrite=True)


def read_fits(path: Path) -> Array:
    from astropy.io import fits

    values = np.asarray(fits.getdata(path))[..., None]
    return values.astype(values.dtype.newbyteorder("="))


def write_mrc(path: Path, array: Array) -> None:
    import mrcfile

    mrcfile.write(path, array[..., 0], overwrite=True)


def read_mrc(path: Path) -> Array:
    import mrcfile

    return mrcfile.read(path)[..., None]


def write_nifti(path: Path, array: Array) -> None:
    import nibabel

    volume = np.moveaxis(array[..., 0], (0, 1, 2), (2, 1, 0))
    nibabel.Nifti1Image(volume, np.diag([2.0, 3.0, 4.0, 1.0]), dtype=array.dtype).to_filename(path)


def read_nifti(path: Path) -> Array:
    import nibabel

    return np.moveaxis(np.asarray(nibabel.load(path).dataobj), (0, 1, 2), (2, 1, 0))[..., None]


def dicom(array: Array) -> Any:
    import pydicom
    from pydicom.dataset import FileMetaDataset

    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = pydicom.uid.CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientName, dataset.RescaleSlope, dataset.RescaleIntercept = "Doe^J", "2.5", "-1024"
    kind = "MONOCHROME2" if array.shape[-1] == 1 else "RGB"
    dataset.set_pixel_data(squeezed(array), kind, 8 * array.dtype.itemsize, generate_instance_uid=False)
    return dataset


def write_dicom(path: Path, array: Array) -> None:
    dicom(array).save_as(path, enforce_file_format=True)


def read_dicom(path: Path) -> Array:
    import pydicom

    dataset = pydicom.dcmread(path)
    return with_channels(dataset.pixel_array, 3 if "NumberOfFrames" in dataset else 2)


def write_exr(path: Path, array: Array) -> None:
    import OpenEXR

    names = {1: ("Y",), 2: ("Y", "A"), 3: ("R", "G", "B"), 4: ("R", "G", "B", "A")}[array.shape[-1]]
    channels = {name: np.ascontiguousarray(array[..., index]) for index, name in enumerate(names)}
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage, "owner": "the owner"}
    OpenEXR.File(header, channels).write(str(path))


def read_exr(path: Path) -> Array:
    import OpenEXR

    channels = OpenEXR.File(str(path), separate_channels=True).channels()
    return np.stack([channels[name].pixels for name in ("R", "G", "B", "Y", "A") if name in channels], axis=2)


def write_heic(path: Path, array: Array) -> None:
    import pillow_heif

    mode = {1: "L", 3: "RGB", 4: "RGBA"}[array.shape[-1]] + (";16" if array.dtype == np.uint16 else "")
    file = pillow_heif.from_bytes(mode, array.shape[1::-1], array.tobytes())
    file.save(path, quality=-1, chroma=444, matrix_coefficients=0)


def read_heic(path: Path) -> Array:
    import pillow_heif

    return with_channels(np.asarray(pillow_heif.open_heif(path, convert_hdr_to_8bit=False)), 2)


def write_avif(path: Path, array: Array) -> None:
    bits = 8 if array.dtype == np.uint8 else 10
    path.write_bytes(imagecodecs.avif_encode(squeezed(array), level=100, bitspersample=bits))


def read_avif(path: Path) -> Array:
    return with_channels(imagecodecs.avif_decode(path.read_bytes()), 2)


def write_jpeg_xl(path: Path, array: Array) -> None:
    path.write_bytes(imagecodecs.jpegxl_encode(squeezed(array), lossless=True))


def read_jpeg_xl(path: Path) -> Array:
    return with_channels(imagecodecs.jpegxl_decode(path.read_bytes()), 2)


def write_netpbm(path: Path, array: Array) -> None:
    if array.dtype == np.float32:
        header = f"{'PF' if array.shape[-1] == 3 else 'Pf'}\n{array.shape[1]} {array.shape[0]}\n1.0\n"
        path.write_bytes(header.encode() + array[::-1].astype(">f4").tobytes())
        return
    height, width, channels = array.shape
    kind = {1: "GRAYSCALE", 2: "GRAYSCALE_ALPHA", 3: "RGB", 4: "RGB_ALPHA"}[channels]
    greatest = np.iinfo(array.dtype).max
    header = f"P7\nWIDTH {width}\nHEIGHT {height}\nDEPTH {channels}\nMAXVAL {greatest}\nTUPLTYPE {kind}\nENDHDR\n"
    path.write_bytes(header.encode() + array.astype(array.dtype.newbyteorder(">")).tobytes())


def read_netpbm(path: Path) -> Array:
    data = path.read_bytes()
    if data[:1] == b"P" and data[1:2] in b"Ff":
        magic, size, scale, _ = data.split(b"\n", 3)
        width, height = map(int, size.split())
        values = np.frombuffer(
            data[-4 * width * height * (3 if magic == b"PF" else 1) :], "<f4" if b"-" in scale else ">f4"
        )
        return values.reshape(height, width, -1)[::-1].astype(np.float32)
    if data[:2] == b"P7":
        fields = dict(line.split(b" ", 1) for line in data.split(b"ENDHDR")[0].splitlines() if b" " in line)
        width, height, channels = (int(fields[name]) for name in (b"WIDTH", b"HEIGHT", b"DEPTH"))
        greatest = int(fields[b"MAXVAL"])
    else:
        magic, sizes, value = data.split(None, 1)[0], data.split(None, 4)[1:3], data.split(None, 4)[3]
        (width, height), greatest, channels = map(int, sizes), int(value), 3 if magic == b"P6" else 1
    dtype = np.dtype(">u2" if greatest > 255 else "u1")
    count = width * height * channels * dtype.itemsize
    return np.frombuffer(data[-count:], dtype).reshape(height, width, channels).astype(dtype.newbyteorder("="))


INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32")

CASES = {
    "npy": Case(".npy", write_npy, np.load, (*INTEGERS, "float16", "float32", "float64"), (1, 3, 4), (1, 2, 5)),
    "fits": Case(".fits", write_fits, read_fits, (*INTEGERS, "float32", "float64"), pages=(1, 3)),
    "mrc": Case(".mrc", write_mrc, read_mrc, ("int8", "int16", "uint16", "float16", "float32"), pages=(1, 3)),
    "nifti": Case(".nii", write_nifti, read_nifti, (*INTEGERS, "float32", "float64"), pages=(1, 3)),
    "nifti-gz": Case(".nii.gz", write_nifti, read_nifti, ("int16", "float32"), pages=(1, 3)),
    "dicom": Case(".dcm", write_dicom, read_dicom, ("uint8", "int8", "uint16", "int16"), (1,), pages=(1, 3)),
    "exr": Case(".exr", write_exr, read_exr, ("float16", "float32"), (1, 2, 3, 4)),
    "heic": Case(".heic", write_heic, read_heic, ("uint8", "uint16"), (1, 3, 4)),
    "avif": Case(".avif", write_avif, read_avif, ("uint8", "uint16"), (1, 2, 3, 4), greatest={"uint16": 1023}),
    "jpegxl": Case(".jxl", write_jpeg_xl, read_jpeg_xl, ("uint8", "uint16", "float16", "float32"), (1, 2, 3, 4)),
    "netpbm": Case(".pnm", write_netpbm, read_netpbm, ("uint8", "uint16"), (1, 2, 3, 4)),
    "pfm": Case(".pfm", write_netpbm, read_netpbm, ("float32",), (1, 3)),
}


def rounded(pixels: Array, image: Image) -> Array:
    """Stored values (H, W, C) of `pixels`, to compare with those of a file."""
    values = np.moveaxis(pixels, 0, 2).astype(np.float64) * image.scale + image.offset
    return np.rint(values) if image.dtype.kind in "ui" else values


def stored_pages(stack: Stack) -> Iterator[Array]:
    for index in range(stack.pages):
        image = stack.read_page(index)
        yield rounded(image.pixels, image).astype(image.dtype)


def round_trip(path: Path, extension: str | None = None) -> Path:
    image = read_image(path)
    out = path.with_name(f"out{extension or path.suffix}")
    write_image(out, image.pixels, image)
    return out


def assert_same(written: Array, expected: Array) -> None:
    assert written.dtype.newbyteorder("=") == expected.dtype
    assert written.shape == expected.shape
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(written, expected, rtol=1e-6, atol=1e-3 if expected.dtype == np.float16 else 1e-6)
    else:
        np.testing.assert_array_equal(written, expected)
