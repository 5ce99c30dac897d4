"""Stacks are read and written one page at a time, and keep their layout and metadata."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from self2self.errors import InputError, OutputError, UsageError
from self2self.image_io import check_stack_output, image_hash, open_stack, read_image, tiff_pages
from self2self.image_io.write import stored_values
from tests.image_files import noise, round_trip, save


def copy(path: Path, out: Path) -> Path:
    """Write the unchanged pages of `path` as a stack."""
    with open_stack(path) as stack:

        def pages() -> Any:
            for index in range(stack.pages):
                image = stack.read_page(index)
                yield stored_values(image.pixels, image)

        stack.write(out, pages())
    return out


LAYOUTS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "grey": (noise((5, 20, 24)), {"photometric": "minisblack"}),
    "grey, 16 bits, big-endian": (noise((3, 20, 24), np.uint16), {"photometric": "minisblack", "byteorder": ">"}),
    "float": (noise((3, 20, 24), np.float32), {"photometric": "minisblack", "resolution": (300, 150)}),
    "dark is high": (noise((3, 20, 24), np.uint16), {"photometric": "miniswhite"}),
    "RGB": (noise((4, 20, 24, 3)), {"photometric": "rgb", "compression": "zlib"}),
    "RGB planes": (noise((4, 3, 20, 24)), {"photometric": "rgb", "planarconfig": "separate"}),
    "RGB with alpha": (noise((2, 20, 24, 4)), {"photometric": "rgb", "extrasamples": [2]}),
    "axes": (noise((2, 3, 20, 24)), {"photometric": "minisblack", "metadata": {"axes": "TZYX"}}),
    "BigTIFF": (noise((3, 20, 24)), {"photometric": "minisblack", "bigtiff": True, "tile": (16, 16)}),
    "imagej": (
        noise((2, 3, 20, 24), np.uint16),
        {
            "imagej": True,
            "resolution": (2.5, 2.5),
            "metadata": {
                "axes": "TZYX",
                "spacing": 3.5,
                "unit": "um",
                "finterval": 0.5,
                "Labels": [f"s{i}" for i in range(6)],
            },
        },
    ),
    "imagej, RGB": (noise((3, 20, 24, 3)), {"imagej": True}),
    "imagej, float": (noise((4, 20, 24), np.float32), {"imagej": True, "metadata": {"axes": "TYX"}}),
    "ome": (
        noise((2, 3, 20, 24), np.uint16),
        {
            "ome": True,
            "photometric": "minisblack",
            "metadata": {
                "axes": "TCYX",
                "PhysicalSizeX": 0.25,
                "PhysicalSizeXUnit": "µm",
                "Channel": {"Name": list("abc")},
            },
        },
    ),
    "ome, RGB": (noise((3, 20, 24, 3)), {"ome": True, "photometric": "rgb", "metadata": {"axes": "ZYXS"}}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_pages_come_back_with_their_layout_axes_and_spacing(name: str, tmp_path: Path) -> None:
    samples, options = LAYOUTS[name]
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, samples, **options)
    out = copy(path, tmp_path / "out.tif")
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []
    with tifffile.TiffFile(path) as source, tifffile.TiffFile(out) as target:
        assert len(target.pages) == len(source.pages) > 1
        assert (target.byteorder, target.is_bigtiff) == (source.byteorder, source.is_bigtiff)
        assert (target.is_imagej, target.is_ome) == (source.is_imagej, source.is_ome)
        assert target.imagej_metadata == source.imagej_metadata
        assert target.ome_metadata == source.ome_metadata
        assert (target.series[0].axes, target.series[0].shape) == (source.series[0].axes, source.series[0].shape)
        assert np.array_equal(target.series[0].asarray(), source.series[0].asarray())
        for before, after in zip(source.pages, target.pages, strict=True):
            keyframe, kept = before.keyframe, after.keyframe
            assert kept.photometric == keyframe.photometric
            assert kept.planarconfig == keyframe.planarconfig
        first, kept_first = source.pages.first, target.pages.first
        assert kept_first.resolution == first.resolution
        assert (kept_first.compression, kept_first.tile) == (first.compression, first.tile)
    if "imagej" in options:
        # ImageJ reads the pixels of all pages as one contiguous block.
        with tifffile.TiffFile(out) as target:
            assert target.series[0].dataoffset is not None


# A map has no alpha, and its channels lie side by side.
@pytest.mark.parametrize(
    "description", ['{"axes": "TZYX", "shape": [2, 3, 20, 24]}', '{"shape": [2, 3, 20, 24], "axes": "TZYX"}']
)
def test_axes_are_kept_as_any_version_of_tifffile_writes_them(tmp_path: Path, description: str) -> None:
    path, out = tmp_path / "stack.tif", tmp_path / "out.tif"
    with tifffile.TiffWriter(path) as writer:
        for index, page in enumerate(noise((6, 20, 24))):
            writer.write(page, description="" if index else description, metadata=None, photometric="minisblack")
    for float_map in (False, True):
        with open_stack(path) as stack:
            dtype = np.float32 if float_map else np.uint8
            stack.write(out, iter([np.zeros((20, 24, 1), dtype)] * stack.pages), float_map=float_map)
        with tifffile.TiffFile(out) as target:
            assert (target.series[0].axes, target.series[0].shape) == ("TZYX", (2, 3, 20, 24))


@pytest.mark.parametrize("name", sorted(LAYOUTS.keys() - {"RGB planes", "RGB with alpha"}))
def test_a_map_of_standard_deviations_keeps_the_axes(name: str, tmp_path: Path) -> None:
    samples, options = LAYOUTS[name]
    path, out = tmp_path / "stack.tif", tmp_path / "map.tif"
    tifffile.imwrite(path, samples, **options)
    with open_stack(path) as stack:
        maps = (np.zeros((*stack.read_page(0).pixels.shape[1:], len(stack.read_page(0).pixels)), np.float32),)
        stack.write(out, iter(maps * stack.pages), float_map=True)
    with tifffile.TiffFile(path) as source, tifffile.TiffFile(out) as target:
        assert (target.series[0].axes, target.series[0].shape) == (source.series[0].axes, source.series[0].shape)
        assert target.series[0].dtype == np.float32
        assert not target.series[0].asarray().any()


def test_a_page_equals_the_same_image_in_a_file_of_its_own(tmp_path: Path) -> None:
    samples = noise((3, 20, 24), np.uint16)
    samples[1] //= 100
    tifffile.imwrite(tmp_path / "stack.tif", samples, photometric="minisblack")
    with open_stack(tmp_path / "stack.tif") as stack:
        assert stack.pages == 3
        for index in (2, 0, 1):
            tifffile.imwrite(tmp_path / "page.tif", samples[index], photometric="minisblack")
            alone, page = read_image(tmp_path / "page.tif"), stack.read_page(index)
            assert image_hash(page) == image_hash(alone)
            assert (page.offset, page.scale) == (alone.offset, alone.scale)
            assert np.array_equal(page.pixels, alone.pixels)
        for index in (-1, 3):
            with pytest.raises(UsageError, match=rf"there is no page {index + 1}; it has 3 pages"):
                stack.read_page(index)


def test_other_files_have_one_page(tmp_path: Path) -> None:
    save(tmp_path / "x.png", noise((16, 16, 3)))
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        writer.write(noise((32, 32)), photometric="minisblack")
        writer.write(noise((16, 16)), photometric="minisblack", subfiletype=1)
    for name in ("x.png", "x.tif"):
        with open_stack(tmp_path / name) as stack:
            assert stack.pages == 1
            assert image_hash(stack.read_page(0)) == image_hash(read_image(tmp_path / name))
            with pytest.raises(UsageError, match="it has one page"):
                stack.read_page(1)


def imagej_in_one_page(path: Path, samples: np.ndarray, *, claimed: int | None = None) -> Path:
    """ImageJ's layout over 4 GB: one page, then the pixels of all slices; the description has their number."""
    with tifffile.TiffWriter(path, byteorder=">") as writer:
        writer.write(
            samples[0],
            photometric="minisblack",
            metadata=None,
            description=f"ImageJ=1.53t\nimages={claimed or len(samples)}\nslices={claimed or len(samples)}\n",
        )
    with path.open("ab") as file, tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        assert page.dataoffsets[0] + page.nbytes == path.stat().st_size
        for plane in samples[1:]:
            file.write(plane.astype(">u2").tobytes())
    return path


def test_slices_behind_one_page_are_read_one_by_one(tmp_path: Path) -> None:
    samples = noise((4, 20, 24), np.uint16)
    path = imagej_in_one_page(tmp_path / "stack.tif", samples)
    assert np.array_equal(tifffile.imread(copy(path, tmp_path / "out.tif")), samples)
    with pytest.raises(InputError, match="cut off"):
        open_stack(imagej_in_one_page(tmp_path / "short.tif", samples, claimed=5))


def test_a_page_keeps_its_own_description_and_date(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    with tifffile.TiffWriter(path) as writer:
        for index in range(3):
            writer.write(
                noise((16, 16)),
                photometric="minisblack",
                metadata=None,
                description=f"page {index}",
                datetime=f"2024:01:0{index + 1} 00:00:00",
            )
    with tifffile.TiffFile(copy(path, tmp_path / "out.tif")) as file:
        pages = [file.pages._getitem(index, aspage=True) for index in range(3)]
        assert [page.description for page in pages] == ["page 0", "page 1", "page 2"]
        assert [page.tags[306].value[9] for page in pages] == ["1", "2", "3"]


def test_a_stack_that_may_exceed_4_gib_becomes_a_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_pages, "MAX_CLASSIC_TIFF_BYTES", 2000)
    for count, big in ((3, False), (20, True)):
        path = tmp_path / f"{count}.tif"
        tifffile.imwrite(path, noise((count, 16, 8)), photometric="minisblack")
        with tifffile.TiffFile(copy(path, tmp_path / "out.tif")) as file:
            assert file.is_bigtiff is big
            assert np.array_equal(file.asarray(), tifffile.imread(path))


OME = (
    '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
    'UUID="urn:uuid:1"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="24" '
    'SizeY="20" SizeZ="3" SizeC="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
    '<TiffData IFD="0" PlaneCount="3"><UUID FileName="a.ome.tif">UUID_OF_THE_FILE</UUID></TiffData>'
    "</Pixels></Image></OME>"
)


@pytest.mark.parametrize("pages", [1, 3])
@pytest.mark.parametrize(
    ("uuid", "reduced", "kept"),
    [("urn:uuid:1", False, True), ("urn:uuid:2", False, False), ("urn:uuid:1", True, False)],
)
def test_ome_about_other_files_or_dropped_pages_is_dropped_with_a_note(
    uuid: str, reduced: bool, kept: bool, pages: int, tmp_path: Path
) -> None:
    description: str | None = OME.replace("UUID_OF_THE_FILE", uuid)
    path = tmp_path / "b.ome.tif"
    options: dict[str, Any] = {"photometric": "minisblack", "metadata": None, "contiguous": False}
    with tifffile.TiffWriter(path) as writer:
        for page in noise((pages, 20, 24)):
            writer.write(page, description=description, **options)
            description = None
        if reduced:
            writer.write(noise((10, 12)), subfiletype=1, **options)
    with open_stack(path) as stack:
        assert stack.pages == pages
        notes = stack.notes if pages > 1 else stack.read_page(0).notes
        assert any("OME" in note for note in notes) is not kept
    with tifffile.TiffFile(copy(path, tmp_path / "out.tif") if pages > 1 else round_trip(path)) as file:
        assert file.is_ome is kept
        assert "a.ome.tif" not in (file.pages.first.description or "")
        assert len(file.pages) == pages


@pytest.mark.parametrize("pages", [1, 3])
def test_a_pyramid_is_dropped_with_a_note(pages: int, tmp_path: Path) -> None:
    path = tmp_path / "pyramid.tif"
    with tifffile.TiffWriter(path) as writer:
        for page in noise((pages, 32, 32)):
            writer.write(page, photometric="minisblack", metadata=None, contiguous=False, subifds=1)
            writer.write(page[::2, ::2], photometric="minisblack", metadata=None, subfiletype=1)
    with open_stack(path) as stack:
        assert stack.pages == pages
        notes = stack.notes if pages > 1 else stack.read_page(0).notes
        assert "smaller copies of its pages (a pyramid) are dropped" in notes


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_imagejs_own_tags_survive_in_a_single_page(byteorder: Any, tmp_path: Path) -> None:
    path = tmp_path / "in.tif"
    kept = {"Info": "key = value", "Labels": ["a"], "Ranges": (3.0, 200.0), "ROI": b"Iout" + bytes(60)}
    tifffile.imwrite(path, noise((20, 24)), imagej=True, byteorder=byteorder, metadata=kept)
    with tifffile.TiffFile(path) as source, tifffile.TiffFile(round_trip(path)) as target:
        assert source.imagej_metadata is not None
        assert source.imagej_metadata["Info"] == kept["Info"]
        assert target.imagej_metadata == source.imagej_metadata


def pages_of(*shapes: tuple[tuple[int, ...], Any]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with tifffile.TiffWriter(path) as writer:
            for shape, dtype in shapes:
                writer.write(noise(shape, dtype), photometric="rgb" if len(shape) == 3 else "minisblack")

    return make


def cut(share: float, **options: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with tifffile.TiffWriter(path) as writer:
            for plane in noise((6, 20, 24)):
                writer.write(plane, photometric="minisblack", contiguous=False, metadata=None, **options)
        data = path.read_bytes()
        path.write_bytes(data[: int(share * len(data))])

    return make


def chain_bites_its_tail(path: Path) -> None:
    tifffile.imwrite(path, noise((3, 20, 24)), photometric="minisblack")
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        last = file.pages[2].offset
        (entries,) = struct.unpack_from("<H", data, last)
        struct.pack_into("<I", data, last + 2 + 12 * entries, file.pages.first.offset)
    path.write_bytes(data)


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "sizes": (pages_of(((20, 24), np.uint8), ((20, 16), np.uint8)), "page 2 is 16x20 .* page 1 is 24x20"),
    "types": (pages_of(((20, 24), np.uint8), ((20, 24), np.uint16)), "page 2 is .*uint16; page 1|page 2 is .*uint16"),
    "channels": (pages_of(((20, 24), np.uint8), ((20, 24, 3), np.uint8)), "page 2 is .*3 channels"),
    "too small": (pages_of(((4, 24), np.uint8), ((4, 24), np.uint8)), "is 24x4 pixels"),
    "cut off at half": (cut(0.5), "cut off"),
    "last page cut off": (cut(0.95), "cut off"),
    "compressed, cut off": (cut(0.6, compression="zlib"), "cut off"),
    "a ring of pages": (chain_bites_its_tail, "breaks off after page 3"),
    "no page": (lambda path: path.write_bytes(b"II*\0\0\0\0\0") and None, "cut off"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_stacks_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, message = REFUSED[name]
    make(tmp_path / "x.tif")
    with pytest.raises(InputError, match=message) as caught:
        open_stack(tmp_path / "x.tif")
    assert "\n" not in str(caught.value)


def test_each_page_has_missing_pixels_of_its_own(tmp_path: Path) -> None:
    samples = noise((3, 20, 24), np.float32)
    samples[1, 4, 4] = np.nan
    tifffile.imwrite(tmp_path / "x.tif", samples, photometric="minisblack")
    with open_stack(tmp_path / "x.tif") as stack:
        stack.check_pages()
        assert stack.read_page(0).missing is None
        page = stack.read_page(1)
        assert page.missing is not None
        assert np.argwhere(page.missing).tolist() == [[4, 4]]
        assert np.isfinite(page.pixels).all()
    with open_stack(tmp_path / "x.tif", nodata=float(samples[0, 3, 2])) as stack:
        page = stack.read_page(0)
        assert page.missing is not None
        assert np.argwhere(page.missing).tolist() == [[3, 2]]


def test_formats_of_one_image_have_no_pages(tmp_path: Path) -> None:
    check_stack_output(tmp_path / "x.tiff", 3)
    with pytest.raises(OutputError, match=r"PNG cannot hold 3 pages\. Use the extension \.tif"):
        check_stack_output(tmp_path / "x.png", 3)
