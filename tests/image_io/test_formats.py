"""Round trips through every format of `formats/`, compared with what the library of the format itself reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from self2self.errors import EngineUnavailableError, InputError
from self2self.image_io import default_output, open_stack, read_image, write_image
from self2self.image_io.format import Format
from self2self.image_io.formats import FORMATS
from tests.image_files import noise
from tests.image_io.format_cases import (
    CASES,
    Array,
    Case,
    assert_same,
    stored_pages,
    write_dicom,
    write_exr,
    write_fits,
    write_nifti,
)


def test_every_format_has_a_round_trip() -> None:
    # Those have tests of their own.
    others = {"png", "tiff", "jpeg", "webp", "bmp", "raw"}
    written = {file_format.name for file_format in FORMATS if file_format.write is not None}
    assert written - others <= CASES.keys()


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


def test_a_stack_may_become_a_tiff(tmp_path: Path) -> None:
    import tifffile

    samples = noise((3, 12, 15, 1), np.int16)
    write_nifti(tmp_path / "in.nii", samples)
    with open_stack(tmp_path / "in.nii") as stack:
        stack.write(tmp_path / "out.tif", stored_pages(stack))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), samples[..., 0])


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
