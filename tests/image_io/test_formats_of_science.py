"""What FITS, DICOM, MRC, NIfTI and NPY keep beside the values."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from self2self.errors import OutputError
from self2self.image_io import check_output, open_stack, read_image, write_image
from tests.image_files import noise, save
from tests.image_io.format_cases import (
    dicom,
    read_nifti,
    round_trip,
    rounded,
    stored_pages,
    write_nifti,
)


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
