"""Round trips through every format of `formats/`, compared with what the library of the format itself reads."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from self2self.errors import EngineUnavailableError, InputError, OutputError
from self2self.image_io import Stack, check_output, default_output, open_stack, read_image, write_image
from self2self.image_io.format import Format
from self2self.image_io.formats import FORMATS
from self2self.image_io.image import Image
from tests.image_files import ICC, exif_block, noise, save

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


def test_every_format_has_a_round_trip() -> None:
    # Those have tests of their own.
    others = {"png", "tiff", "jpeg", "webp", "bmp", "raw"}
    written = {file_format.name for file_format in FORMATS if file_format.write is not None}
    assert written - others <= CASES.keys()


def rounded(pixels: Array, image: Image) -> Array:
    """Stored values (H, W, C) of `pixels`, to compare with those of a file."""
    values = np.moveaxis(pixels, 0, 2).astype(np.float64) * image.scale + image.offset
    return np.rint(values) if image.dtype.kind in "ui" else values


def assert_same(written: Array, expected: Array) -> None:
    assert written.dtype.newbyteorder("=") == expected.dtype
    assert written.shape == expected.shape
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(written, expected, rtol=1e-6, atol=1e-3 if expected.dtype == np.float16 else 1e-6)
    else:
        np.testing.assert_array_equal(written, expected)


def samples_of(case: Case, shape: tuple[int, ...], dtype: str, seed: int) -> Array:
    samples = noise(shape, dtype, seed)
    if dtype in ("uint32", "int32"):
        # The network sees 24 bits.
        samples = (samples // 2**11).astype(dtype)
    return samples % np.asarray(case.greatest[dtype] + 1, dtype) if dtype in case.greatest else samples


@pytest.mark.parametrize("name", CASES)
def test_round_trip(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    path = tmp_path / f"in{case.extension}"
    sides = st.integers(8, 40)

    @settings(max_examples=8, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(sides, sides, st.sampled_from(case.types), st.sampled_from(case.channels), st.integers(0, 9))
    def check(height: int, width: int, dtype: str, channels: int, seed: int) -> None:
        samples = samples_of(case, (height, width, channels), dtype, seed)
        case.write(path, samples[None] if case.pages and name not in ("npy", "dicom") else samples)
        expected = case.read(path)
        image = read_image(path)
        assert image.dtype == expected.dtype.newbyteorder("=")
        assert image.pixels.shape == (channels if channels in (1, 3) else channels - 1, height, width)
        out = default_output(image)
        assert out.name == f"in.denoised{case.extension}"
        write_image(out, image.pixels, image, force=True)
        assert_same(case.read(out), expected)

    check()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.pages])
def test_round_trip_of_pages(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    path, out = tmp_path / f"in{case.extension}", tmp_path / f"out{case.extension}"

    @settings(max_examples=4, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.integers(2, 4), st.integers(8, 20), st.sampled_from(case.types), st.sampled_from(case.channels))
    def check(pages: int, side: int, dtype: str, channels: int) -> None:
        samples = samples_of(case, (pages, side, side + 5, channels), dtype, pages)
        case.write(path, samples)
        with open_stack(path) as stack:
            assert stack.pages == pages
            stack.check_pages()
            stack.write(out, stored_pages(stack))
        assert_same(case.read(out), case.read(path))
        with pytest.raises(InputError, match=f"has {pages} pages"):
            read_image(path)

    check()


def stored_pages(stack: Stack) -> Iterator[Array]:
    for index in range(stack.pages):
        image = stack.read_page(index)
        yield rounded(image.pixels, image).astype(image.dtype)


def test_a_stack_may_become_a_tiff(tmp_path: Path) -> None:
    import tifffile

    samples = noise((3, 12, 15, 1), np.int16)
    write_nifti(tmp_path / "in.nii", samples)
    with open_stack(tmp_path / "in.nii") as stack:
        stack.write(tmp_path / "out.tif", stored_pages(stack))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), samples[..., 0])


def round_trip(path: Path, extension: str | None = None) -> Path:
    image = read_image(path)
    out = path.with_name(f"out{extension or path.suffix}")
    write_image(out, image.pixels, image)
    return out


def test_fits_keeps_scale_header_and_other_parts(tmp_path: Path) -> None:
    from astropy.io import fits

    raw = noise((20, 30), np.int16)
    image = fits.ImageHDU(raw)
    image.header.update({"BSCALE": 0.25, "BZERO": 3.0, "BLANK": -32768, "OBJECT": "M 51", "EXPTIME": 30.0})
    table = fits.BinTableHDU.from_columns([fits.Column("x", "E", array=np.arange(5.0))])
    parts = fits.HDUList([fits.PrimaryHDU(), image, table])
    parts.writeto(tmp_path / "in.fits")
    source = read_image(tmp_path / "in.fits")
    assert source.dtype == np.int16
    assert source.notes == ("its other parts (extensions) are kept as they are",)
    assert round_trip(tmp_path / "in.fits").read_bytes() == (tmp_path / "in.fits").read_bytes()
    parts.writeto(tmp_path / "sums.fits", checksum=True)
    source = read_image(tmp_path / "sums.fits")
    write_image(tmp_path / "turned.fits", source.pixels[:, ::-1], source)
    with fits.open(tmp_path / "turned.fits", checksum=True) as file:
        assert file[1].verify_checksum() == file[1].verify_datasum() == 1
        np.testing.assert_allclose(file[1].data, raw[::-1] * 0.25 + 3)
        assert file[1].header["OBJECT"] == "M 51"
        np.testing.assert_array_equal(file[2].data["x"], np.arange(5.0))


def test_compressed_fits_becomes_plain(tmp_path: Path) -> None:
    from astropy.io import fits

    raw = noise((20, 30), np.int16)
    packed = fits.CompImageHDU(raw, compression_type="RICE_1")
    packed.header["OBJECT"] = "M 51"
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(tmp_path / "in.fits")
    with fits.open(round_trip(tmp_path / "in.fits")) as file:
        np.testing.assert_array_equal(file[0].data, raw)
        assert file[0].header["OBJECT"] == "M 51"
    assert "compressed" in read_image(tmp_path / "in.fits").notes[0]


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint16, 12), (np.int16, 12), (np.uint16, 16)])
def test_dicom_keeps_header_scale_and_stored_bits(tmp_path: Path, dtype: type, bits: int) -> None:
    import pydicom

    values = (noise((20, 30), dtype) // 2 ** (16 - bits)).astype(dtype)
    dataset = dicom(values[..., None])
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.add_new(0x00280120, "SS" if dtype == np.int16 else "US", int(values[0, 0]))
    dataset.save_as(tmp_path / "in.dcm", enforce_file_format=True)
    image = read_image(tmp_path / "in.dcm")
    assert image.unmeasured is not None
    padding = values == values[0, 0]
    np.testing.assert_array_equal(image.unmeasured.where, padding)
    write_image(tmp_path / "out.dcm", image.pixels * np.float32(1.5), image)
    out = pydicom.dcmread(tmp_path / "out.dcm")
    assert (out.BitsStored, out.PatientName, out.RescaleSlope) == (bits, "Doe^J", 2.5)
    assert out.ImageType[0] == "DERIVED"
    assert out.SOPInstanceUID not in ("1.2.3", "")
    low, high = (0, 2**bits - 1) if dtype == np.uint16 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    expected = np.clip(rounded(image.pixels * np.float32(1.5), image)[..., 0], low, high)
    expected[padding] = values[0, 0]
    np.testing.assert_array_equal(out.pixel_array, expected)
    with pytest.raises(OutputError, match="DICOM cannot hold images of other formats"):
        check_output(tmp_path / "x.dcm", force=False, like=read_image(save(tmp_path / "x.png", noise((8, 8)))))


def test_mrc_keeps_its_header(tmp_path: Path) -> None:
    import mrcfile

    with mrcfile.new(tmp_path / "in.mrc") as file:
        file.set_data(noise((20, 30), np.float32))
        file.voxel_size = (1.5, 2.0, 2.5)
        file.header.origin.x = 7
        file.add_label("a label")
        file.header.exttyp = b"SERI"
        file.set_extended_header(np.frombuffer(b"extended" * 4, "V8"))
    out = round_trip(tmp_path / "in.mrc")
    with mrcfile.open(tmp_path / "in.mrc") as old, mrcfile.open(out) as new:
        for name in ("cella", "exttyp", "origin", "mapc", "ispg", "label", "nlabl"):
            np.testing.assert_array_equal(new.header[name], old.header[name])
        assert new.extended_header.tobytes() == old.extended_header.tobytes()
    report = io.StringIO()
    assert mrcfile.validate(out, print_file=report), report.getvalue()


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_nifti_keeps_axes_slope_and_place(tmp_path: Path, extension: str) -> None:
    import nibabel

    raw = noise((12, 11, 2, 3), np.int16)
    image = nibabel.Nifti1Image(raw, np.diag([2.0, 3.0, 4.0, 1.0]))
    image.header.set_xyzt_units("mm", "sec")
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"a comment"))
    image.header.set_slope_inter(0.5, 10)
    path, out = tmp_path / f"in{extension}", tmp_path / f"out{extension}"
    image.to_filename(path)
    expected = np.asarray(nibabel.load(path).dataobj)
    with open_stack(path) as stack:
        assert stack.pages == 6
        stack.write(out, stored_pages(stack))
    written = nibabel.load(out)
    np.testing.assert_array_equal(np.asarray(written.dataobj), expected)
    np.testing.assert_array_equal(written.affine, nibabel.load(path).affine)
    assert written.header.get_xyzt_units() == ("mm", "sec")
    assert written.header.extensions[0].get_content() == b"a comment"
    assert written.dataobj.slope == nibabel.load(path).dataobj.slope


@pytest.mark.parametrize(("source", "target"), [(".nii.gz", ".nii"), (".nii", ".nii.gz")])
def test_the_name_of_a_nifti_decides_its_compression(tmp_path: Path, source: str, target: str) -> None:
    samples = noise((1, 12, 15, 1), np.int16)
    write_nifti(tmp_path / f"in{source}", samples)
    image = read_image(tmp_path / f"in{source}")
    write_image(tmp_path / f"out{target}", image.pixels, image)
    assert (tmp_path / f"out{target}").read_bytes().startswith(b"\x1f\x8b") == target.endswith(".gz")
    np.testing.assert_array_equal(read_nifti(tmp_path / f"out{target}"), samples)


@pytest.mark.parametrize("bits", [10, 12])
def test_avif_keeps_its_bits(tmp_path: Path, bits: int) -> None:
    samples = noise((20, 30, 3), np.uint16) % np.uint16(2**bits)
    (tmp_path / "in.avif").write_bytes(imagecodecs.avif_encode(samples, level=100, bitspersample=bits))
    assert f"its {bits}-bit values" in read_image(tmp_path / "in.avif").notes[0]
    np.testing.assert_array_equal(read_avif(round_trip(tmp_path / "in.avif")), samples)


def test_exr_keeps_its_header_and_other_channels(tmp_path: Path) -> None:
    import OpenEXR

    colours, depth = noise((20, 30, 3), np.float16), noise((20, 30), np.float32, 1)
    channels = {f"beauty.{name}": np.ascontiguousarray(colours[..., k]) for k, name in enumerate("RGB")}
    header = {"compression": OpenEXR.PIZ_COMPRESSION, "type": OpenEXR.scanlineimage, "owner": "the owner"}
    OpenEXR.File(header, {**channels, "Z": depth}).write(str(tmp_path / "in.exr"))
    image = read_image(tmp_path / "in.exr")
    assert image.notes == ("its other channels are copied as they are: Z",)
    out = OpenEXR.File(str(round_trip(tmp_path / "in.exr")), separate_channels=True)
    assert out.header()["owner"] == "the owner"
    assert out.header()["compression"] == OpenEXR.PIZ_COMPRESSION
    np.testing.assert_array_equal(out.channels()["Z"].pixels, depth)
    for name, values in channels.items():
        np.testing.assert_allclose(out.channels()[name].pixels, values, atol=1e-3)


@pytest.mark.parametrize("extension", [".avif", ".heic"])
def test_metadata_of_photographs_survives(tmp_path: Path, extension: str) -> None:
    if extension == ".heic":
        import pillow_heif

        pillow_heif.register_heif_opener()
    exif = exif_block(1)
    picture = PillowImage.fromarray(np.full((32, 48, 3), 90, np.uint8))
    picture.save(tmp_path / f"in{extension}", exif=b"Exif\0\0" + exif, icc_profile=ICC, xmp=b"<x/>")
    with PillowImage.open(round_trip(tmp_path / f"in{extension}")) as written:
        assert written.info["icc_profile"] == ICC
        assert written.info["xmp"] == b"<x/>"
        assert written.getexif()[271] == "Camera maker"
        np.testing.assert_allclose(np.asarray(written), 90, atol=3)


def test_exif_and_xmp_survive_in_jpeg_xl(tmp_path: Path) -> None:
    path = save(tmp_path / "in.png", noise((20, 30, 3)), exif=exif_block(1))
    image = read_image(path)
    write_image(tmp_path / "a.jxl", image.pixels, image)
    (tmp_path / "a.jxl").write_bytes((tmp_path / "a.jxl").read_bytes() + b"\0\0\0\x0cxml <x/>")
    again = read_image(round_trip(tmp_path / "a.jxl"))
    assert again.metadata.exif == image.metadata.exif
    assert again.metadata.xmp == b"<x/>"


@pytest.mark.parametrize("magic", ["P2", "P3", "P5", "P6"])
@pytest.mark.parametrize("greatest", [255, 1000, 65535])
def test_netpbm_keeps_its_kind_and_white(tmp_path: Path, magic: str, greatest: int) -> None:
    import netpbmfile

    samples = noise((9, 10, 3 if magic in ("P3", "P6") else 1), np.uint16).astype(int) % (greatest + 1)
    samples = squeezed(samples).astype(np.uint8 if greatest == 255 else np.uint16)
    samples.flat[0] = greatest
    netpbmfile.imwrite(tmp_path / "in.pnm", samples, magicnumber=magic, maxval=greatest)
    image = read_image(tmp_path / "in.pnm")
    write_image(tmp_path / "out.pnm", image.pixels * np.float32(2), image)
    with netpbmfile.NetpbmFile(tmp_path / "out.pnm") as file:
        assert (file.magicnumber, file.maxval) == (magic, greatest)
        doubled = rounded(image.pixels * np.float32(2), image).reshape(samples.shape)
        np.testing.assert_array_equal(file.asarray(), np.clip(doubled, 0, greatest))


def test_bitmaps_become_grey(tmp_path: Path) -> None:
    bits = noise((16, 16)) > 127
    (tmp_path / "in.pbm").write_bytes(b"P4\n16 16\n" + np.packbits(~bits, axis=1).tobytes())
    image = read_image(tmp_path / "in.pbm")
    np.testing.assert_array_equal(rounded(image.pixels, image)[..., 0], bits * 255)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3), (4, 20, 30), (2, 20, 30, 3), (1, 20, 30)])
def test_npy_keeps_its_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    samples = noise(shape, np.uint16)
    np.save(tmp_path / "in.npy", samples.astype(">u2"))
    with open_stack(tmp_path / "in.npy") as stack:
        if stack.pages > 1:
            stack.write(tmp_path / "out.npy", stored_pages(stack))
        else:
            round_trip(tmp_path / "in.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), samples)


REFUSED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "npy of one axis": ("x.npy", lambda path: np.save(path, np.zeros(9)), "has the shape"),
    "npy of complex": ("x.npy", lambda path: np.save(path, np.zeros((9, 9), complex)), "type complex128"),
    "npy of objects": ("x.npy", lambda path: np.save(path, np.array([[{}]])), "damaged"),
    "small fits": (
        "x.fits",
        lambda path: write_fits(path, np.zeros((1, 4, 9, 1))),
        "9x4 pixels; expected at least 8x8",
    ),
    "small dicom": ("x.dcm", lambda path: write_dicom(path, np.zeros((4, 9, 1), np.uint8)), "9x4 pixels"),
    "small exr": ("x.exr", lambda path: write_exr(path, np.zeros((4, 9, 3), np.float32)), "9x4 pixels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused(tmp_path: Path, case: str) -> None:
    name, make, text = REFUSED[case]
    make(tmp_path / name)
    with pytest.raises(InputError, match=text):
        read_image(tmp_path / name)


@pytest.mark.parametrize("name", CASES)
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    case = CASES[name]
    path = tmp_path / f"x{case.extension}"
    samples = noise((64, 60, 1), case.types[0])
    case.write(path, samples[None] if case.pages and name not in ("npy", "dicom") else samples)
    sound = path.read_bytes()
    for cut in (len(sound) * 3 // 5, len(sound) // 3):
        path.write_bytes(sound[:cut])
        with pytest.raises(InputError) as caught:
            read_image(path)
        assert "\n" not in str(caught.value)
    if name != "exr":
        # Its library tells of errors on its own, too.
        assert capfd.readouterr().err == ""


NAMED = {
    "an OpenEXR": b"v/1\x01",
    "a FITS": b"SIMPLE  =",
    "a DICOM": bytes(128) + b"DICM",
    "an MRC": bytes(208) + b"MAP ",
    "a NIfTI": bytes(344) + b"n+1\0",
    "a HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "a Netpbm": b"P6\n",
    "a camera raw": b"FUJIFILM",
}


@pytest.mark.parametrize("kind", NAMED)
def test_a_missing_reader_is_named_with_what_installs_it(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(NAMED[kind])
    monkeypatch.setattr(Format, "is_installed", property(lambda self: not self.needs))
    with pytest.raises(EngineUnavailableError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: is {kind} file; reading it needs the package ")
    extra = {"a HEIC": "heic", "a camera raw": "raw"}.get(kind, "formats")
    assert message.endswith(f"Install it: pip install 'self2self[{extra}]'")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("kind", "head"), [("a GIF", b"GIF89a"), ("an HDF5", b"\x89HDF\r\n\x1a\n"), ("a JPEG 2000", b"\0\0\0\x0cjP  ")]
)
def test_a_format_that_is_only_known_is_named(tmp_path: Path, kind: str, head: bytes) -> None:
    (tmp_path / "x").write_bytes(head + bytes(20))
    with pytest.raises(InputError, match=f"is {kind} file; expected PNG, .* Convert it to PNG or TIFF first"):
        read_image(tmp_path / "x")
