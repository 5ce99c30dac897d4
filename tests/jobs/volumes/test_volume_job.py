"""A volume is denoised with one fit, and its bits depend neither on its format, nor on who makes which block when."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from self2self.errors import InputError, OutputError, UsageError
from self2self.image_io.volumes import opening
from self2self.jobs import EnsembleOptions, FitOptions, Observer, OutputOptions, Part, StackResult, denoise_job
from self2self.jobs.volumes import blocks, volume_job
from self2self.jobs.volumes.result import VolumeResult
from self2self.jobs.volumes.volume_job import Workers
from tests.commands import ROOT, run_cli
from tests.volumes import FITTING, OPTIONS, PASSES, values, write_ome_zarr

zarr = pytest.importorskip("zarr", minversion="3", reason="pip install 'self2self[zarr]'")

SHAPE = (2, 150, 60)
"""Three blocks of two pages."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Blocks of 64 rows; the folder of the test is the current one."""
    monkeypatch.setattr(blocks, "SIDE", 64)
    monkeypatch.setattr(blocks, "HALO", 32)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """What an undisturbed run makes of `values(SHAPE)`."""
    folder = tmp_path_factory.mktemp("expected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "SIDE", 64)
        patch.setattr(blocks, "HALO", 32)
        patch.chdir(folder)
        fits["run"] = folder / "run"
        denoise(write_ome_zarr(folder / "volume.ome.zarr", values(SHAPE)))
    return read("volume.denoised.ome.zarr/s0", folder)


fits: dict[str, Path] = {}
"""The run folder of the fit to `values(SHAPE)`, which is made once."""


def denoise(path: Path, *, outputs: OutputOptions | None = None, new_fit: bool = False, **more: Any) -> Any:
    run = None if new_fit else fits.get("run")
    fitting = replace(FITTING, run=run, **more.pop("fitting", {}))
    return denoise_job(path, fitting, PASSES, outputs or OutputOptions(), **more)


def read(name: str, folder: Path = Path()) -> np.ndarray:
    return np.asarray(zarr.open_array(str((folder / name).resolve()), mode="r")[...])


def hidden() -> list[str]:
    return sorted(path.name for path in Path().iterdir() if path.name.startswith("."))


def test_the_result_is_an_image_of_the_same_kind_with_new_levels(expected: np.ndarray) -> None:
    noisy = values(SHAPE)
    path = write_ome_zarr(Path("volume.ome.zarr"), noisy, shards=(1, 128, 128), levels=3)
    result = denoise(path)
    assert isinstance(result, VolumeResult)
    assert (result.is_whole, result.blocks, result.axes) == (True, 3, "ZYX")
    made = zarr.open_group("volume.denoised.ome.zarr", mode="r")
    assert np.array_equal(made["s0"][...], expected)
    assert made["s0"].shards == (2, 64, 60)
    source = zarr.open_group(str(path), mode="r").attrs["ome"]
    assert made.attrs["ome"] == source
    means = expected.astype(float)
    for level in (1, 2):
        fine = [np.pad(page, [(0, -side % 2) for side in page.shape], mode="edge") for page in means]
        means = np.round([page.reshape(page.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3)) for page in fine])
        assert np.abs(made[f"s{level}"][...] - means).max() <= 1
    assert hidden() == []


def test_noise_goes_and_the_scene_stays() -> None:
    clean, noisy = values(SHAPE, noise=0).astype(float), values(SHAPE)
    path = write_ome_zarr(Path("volume.ome.zarr"), noisy)
    denoise_job(path, FitOptions(steps=0), EnsembleOptions())
    made = read("volume.denoised.ome.zarr/s0")
    before, after = (np.sqrt(np.mean((array - clean) ** 2)) for array in (noisy, made))
    assert after < 0.5 * before
    # The three blocks of a page have one range of values and one fit, so no row stands out where they meet.
    error = np.sqrt(((made - clean) ** 2).mean(axis=(0, 2)))
    assert error[[63, 64, 127, 128]].max() < 2 * np.median(error)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_both_versions_of_ome_zarr_have_the_same_bits(version: str, expected: np.ndarray) -> None:
    path = write_ome_zarr(Path("volume.ome.zarr"), values(SHAPE), version=version, levels=2)
    denoise(path)
    assert np.array_equal(read("volume.denoised.ome.zarr/s0"), expected)
    yaozarrs = pytest.importorskip("yaozarrs", reason="pip install yaozarrs")
    yaozarrs.validate_zarr_store("volume.denoised.ome.zarr")


def test_a_plain_array_keeps_its_names_and_attributes(expected: np.ndarray) -> None:
    array = zarr.create_array(
        "plain.zarr", shape=SHAPE, chunks=(1, 64, 64), dtype="uint16", dimension_names="zyx", attributes={"lens": "63x"}
    )
    array[...] = values(SHAPE)
    denoise(Path("plain.zarr"))
    made = zarr.open_array("plain.denoised.zarr", mode="r")
    assert np.array_equal(made[...], expected)
    assert made.metadata.dimension_names == ("z", "y", "x")
    assert made.attrs["lens"] == "63x"


def test_an_array_of_hdf5_has_the_same_bits(expected: np.ndarray) -> None:
    h5py = pytest.importorskip("h5py", reason="pip install 'self2self[hdf5]'")
    with h5py.File("scan.h5", "w") as file:
        array = file.create_dataset("entry/data", data=values(SHAPE), chunks=(1, 64, 32), compression="gzip")
        array.attrs["exposure"] = 0.5
        file["entry/dark"] = np.zeros((8, 8), np.float32)
    with pytest.raises(InputError, match=r"several arrays.*entry/dark.*Name one: scan.h5/entry/dark"):
        denoise(Path("scan.h5"))
    notes: list[str] = []
    denoise(Path("scan.h5/entry/data"), observer=Observer(note=notes.append))
    with h5py.File("scan.denoised.h5") as file:
        made = file["entry/data"]
        assert np.array_equal(made[...], expected)
        assert (made.chunks, made.compression, made.attrs["exposure"]) == ((1, 64, 32), "gzip", 0.5)
        assert list(file["entry"]) == ["data"]
    assert any("holds 1 other arrays, which the result leaves out" in note for note in notes)
    assert hidden() == []


TIFFS = {
    "rows where they lie": {},
    "strips": {"compression": "zlib", "rowsperstrip": 7},
    "tiles": {"compression": "zlib", "predictor": True, "tile": (32, 48)},
    "ImageJ": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "OME": {"ome": True, "metadata": {"axes": "ZYX"}, "tile": (16, 16)},
    "BigTIFF": {"bigtiff": True, "byteorder": ">"},
}


@pytest.mark.parametrize("kind", TIFFS)
def test_a_tiff_has_the_same_bits(kind: str, expected: np.ndarray) -> None:
    tifffile.imwrite("scan.tif", values(SHAPE), photometric="minisblack", resolution=(300, 300), **TIFFS[kind])
    result = denoise(Path("scan.tif"), fitting={"axes": "ZYX"})
    assert (result.is_whole, result.blocks, result.output) == (True, 3, Path("scan.denoised.tif"))
    with tifffile.TiffFile("scan.denoised.tif") as made, tifffile.TiffFile("scan.tif") as source:
        assert np.array_equal(made.asarray(), expected)
        first, like = made.pages.first, source.pages.first
        assert first.resolution == (300, 300)
        assert (first.tile if first.is_tiled else ()) == (like.tile if like.is_tiled else ())
        assert (made.is_bigtiff, made.byteorder, made.is_imagej, made.is_ome) == (
            source.is_bigtiff,
            source.byteorder,
            source.is_imagej,
            source.is_ome,
        )
        assert made.series[0].axes == source.series[0].axes
    assert denoise(Path("scan.tif"), fitting={"axes": "ZYX"}).to_json()["done_already"] is True
    assert hidden() == []


def test_the_parts_of_several_volumes_are_whole_volumes() -> None:
    for name in ("a", "b"):
        write_ome_zarr(Path(f"{name}.ome.zarr"), values(SHAPE))
    told = run_cli("denoise", "a.ome.zarr", "b.ome.zarr", "-o", "out/", *OPTIONS, "--part", "1/2", "--json").stdout
    (result,) = json.loads(told)["images"]
    assert result["blocks"] == 3
    assert Path("out/a.denoised.ome.zarr").is_dir()


def test_a_large_tiff_is_a_volume_unless_options_ask_for_pages(
    expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = values((2, 2, *SHAPE[1:]))
    noisy[:, 0] = values(SHAPE)
    tifffile.imwrite("scan.tif", noisy, imagej=True, metadata={"axes": "ZCYX"})
    by_pages = denoise_job(Path("scan.tif"), FITTING, PASSES, OutputOptions("pages.tif"))
    assert isinstance(by_pages, StackResult)
    monkeypatch.setattr(opening, "LARGE_TIFF_BYTES", Path("scan.tif").stat().st_size)
    assert isinstance(
        denoise_job(
            Path("scan.tif"), FITTING, replace(PASSES, passes=2), OutputOptions("std.tif", uncertainty=Path("map.tif"))
        ),
        StackResult,
    )
    for number in (2, 1):
        result = denoise(Path("scan.tif"), new_fit=True, part=Part(number, 2))
        assert isinstance(result, VolumeResult)
        assert result.is_whole == (number == 1)
    assert result.axes == "ZCYX"
    assert np.array_equal(tifffile.imread("scan.denoised.tif")[:, 0], expected)
    told = run_cli("denoise", "scan.tif", "-o", "parts.tif", *OPTIONS, "--part", "1/2", "--json").stdout
    assert json.loads(told)["blocks"] == 6
    # What blocks cannot keep is left to pages.
    rgba = np.repeat(values(SHAPE)[..., None], 4, axis=3)
    tifffile.imwrite("alpha.tif", rgba, photometric="rgb", extrasamples=("unassalpha",))
    assert isinstance(denoise_job(Path("alpha.tif"), FITTING, PASSES), StackResult)
    with pytest.raises(InputError, match=r"alpha.tif: .*has colours other than grey or RGB"):
        denoise(Path("alpha.tif"), fitting={"axes": "ZYXS"})


def test_colours_of_a_tiff_are_denoised_together_and_its_tiles_need_not_be_stored() -> None:
    noisy = np.stack([values(SHAPE, seed=seed) for seed in range(3)], axis=-1)
    noisy[:, 96:] = 0
    for name, options in (("tiles", {"tile": (32, 32), "compression": "zlib"}), ("rows", {})):
        tifffile.imwrite(f"{name}.tif", noisy, photometric="rgb", **options)
        denoise(Path(f"{name}.tif"), new_fit=True, fitting={"axes": "ZYXS"})
    made = tifffile.imread("tiles.denoised.tif")
    assert np.array_equal(made, tifffile.imread("rows.denoised.tif"))
    assert not np.array_equal(made[:, :96], noisy[:, :96])


def test_a_strip_of_a_tiff_that_is_damaged_costs_its_blocks_alone(kill_before_block: Any) -> None:
    tifffile.imwrite("scan.tif", values((9, 150, 60)), photometric="minisblack", compression="zlib", rowsperstrip=30)
    content = Path("scan.tif").read_bytes()
    with tifffile.TiffFile("scan.tif") as file:
        start = file.pages[8].dataoffsets[4]
    kill_before_block(0)
    with pytest.raises(Killed):
        denoise(Path("scan.tif"), new_fit=True, fitting={"axes": "ZYX"})
    kill_before_block()
    with Path("scan.tif").open("r+b") as file:
        file.seek(start)
        file.write(bytes(40))
    with pytest.raises(InputError, match=r"\d of 9 blocks cannot be read, and \d are done and kept") as caught:
        denoise(Path("scan.tif"), new_fit=True, fitting={"axes": "ZYX"})
    assert "scan.tif" in str(caught.value)
    Path("scan.tif").write_bytes(content)
    assert denoise(Path("scan.tif"), new_fit=True, fitting={"axes": "ZYX"}).kept > 0
    assert tifffile.imread("scan.denoised.tif").shape == (9, 150, 60)


def test_the_axes_may_come_in_any_order_and_channels_are_fitted_apart(expected: np.ndarray) -> None:
    array = zarr.create_array("yxzc.zarr", shape=(150, 60, 2, 2), chunks=(64, 64, 1, 1), dtype="uint16")
    first = values(SHAPE)
    both = np.stack([first, values(SHAPE, seed=1) // 8])
    array[...] = both.transpose(2, 3, 1, 0)
    result = denoise(Path("yxzc.zarr"), fitting={"axes": "YXZC"}, new_fit=True)
    assert [plan.channels for plan in result.groups] == [(0, 1), (1, 2)]
    made = read("yxzc.denoised.zarr").transpose(3, 2, 0, 1)
    assert np.array_equal(made[0], expected)
    # In its own range: what is predicted for this channel lies within it.
    assert both[1].min() <= made[1].min() <= made[1].max() <= both[1].max()


def test_parts_in_any_order_make_the_same_bits_and_the_last_one_finishes(expected: np.ndarray) -> None:
    path = write_ome_zarr(Path("volume.ome.zarr"), values(SHAPE))
    for number in (3, 1):
        result = denoise(path, part=Part(number, 3))
        assert not result.is_whole
        assert not Path("volume.denoised.ome.zarr").exists()
    assert denoise(path, part=Part(2, 3)).is_whole
    assert np.array_equal(read("volume.denoised.ome.zarr/s0"), expected)
    assert hidden() == []


def test_workers_of_an_executor_make_the_same_bits(expected: np.ndarray) -> None:
    path = write_ome_zarr(Path("volume.ome.zarr"), values(SHAPE))
    with ThreadPoolExecutor(2) as executor:
        denoise(path, workers=Workers(executor))
    assert np.array_equal(read("volume.denoised.ome.zarr/s0"), expected)


class Killed(BaseException):
    """Ends a run as a kill does: nothing is cleaned up."""


@pytest.fixture
def kill_before_block(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that says before which block the next run ends."""
    original = volume_job.denoise_block
    at: list[int] = []

    def denoise_block(task: Any, *arguments: Any) -> Any:
        if task.block.number in at:
            raise Killed
        return original(task, *arguments)

    monkeypatch.setattr(volume_job, "denoise_block", denoise_block)
    yield lambda *numbers: at.__setitem__(slice(None), numbers)


def test_any_set_of_finished_blocks_counts(kill_before_block: Any, expected: np.ndarray) -> None:
    path = write_ome_zarr(Path("volume.ome.zarr"), values(SHAPE))
    kill_before_block(1)
    for part in (Part(1, 3), Part(3, 3), Part(2, 3)):
        try:
            denoise(path, part=part)
        except Killed:
            assert part.number == 2
    (folder,) = Path().glob(".*.parts")
    # A kill in the middle of a line leaves a part of it.
    with next(folder.glob("blocks-*.jsonl")).open("a") as lines:
        lines.write('{"block": 1, "pas')
    kill_before_block()
    made: list[int] = []
    result = denoise(path, observer=Observer(page_started=lambda number, total: made.append(number)))
    assert (result.kept, made) == (2, [3])
    assert np.array_equal(read("volume.denoised.ome.zarr/s0"), expected)


def test_a_chunk_that_is_damaged_costs_its_block_alone_and_the_same_command_completes_it() -> None:
    noisy = values((9, 150, 60))
    path = write_ome_zarr(Path("volume.ome.zarr"), noisy)
    denoise(path, new_fit=True)
    whole = read("volume.denoised.ome.zarr/s0")
    shutil.rmtree("volume.denoised.ome.zarr")
    chunk = path / "s0/c/8/2/0"
    content = chunk.read_bytes()
    chunk.write_bytes(b"\0" * 100)
    notes: list[str] = []
    with pytest.raises(InputError) as caught:
        denoise(path, new_fit=True, observer=Observer(note=notes.append))
    message = str(caught.value)
    assert "\n" not in message
    assert "3 of 9 blocks cannot be read, and 6 are done and kept" in message
    assert "z 8, y 0-149, x 0-59" in message
    assert "Copy it again; the same command then does the rest" in message
    chunk.write_bytes(content)
    assert denoise(path, new_fit=True).kept == 6
    # The range of values was found without the damaged part, so the bits may be others.
    assert np.abs(read("volume.denoised.ome.zarr/s0").astype(int) - whole).max() <= 0.05 * np.ptp(whole)


@pytest.mark.usefixtures("expected")
def test_a_finished_volume_is_known_and_another_one_is_not_replaced() -> None:
    path = write_ome_zarr(Path("volume.ome.zarr"), values(SHAPE))
    values_of_first = denoise(path).to_json()
    again = denoise(path)
    assert again.to_json()["done_already"] is True
    assert again.to_json()["blocks"] == values_of_first["blocks"]
    with pytest.raises(OutputError, match=r"volume.denoised.ome.zarr: exists already, made with other options \(seed"):
        denoise(path, fitting={"seed": 3})
    denoise(path, fitting={"strength": 0.5}, outputs=OutputOptions(force=True))
    assert hidden() == []


def write_zarr(array: np.ndarray) -> Path:
    return write_ome_zarr(Path("scan.ome.zarr"), array)


def write_hdf5(array: np.ndarray) -> Path:
    h5py = pytest.importorskip("h5py", reason="pip install 'self2self[hdf5]'")
    with h5py.File("scan.h5", "w") as file:
        file.create_dataset("data", data=array, chunks=(1, 64, 32))
    return Path("scan.h5")


def write_tiff(array: np.ndarray) -> Path:
    tifffile.imwrite("scan.tif", array, photometric="minisblack")
    return Path("scan.tif")


WRITERS = {"zarr": write_zarr, "hdf5": write_hdf5, "tiff": write_tiff}


def write_again(path: Path, writer: Any, array: np.ndarray) -> None:
    """Write a volume anew, a second later."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    writer(array)
    for file in [path, *path.rglob("*")]:
        later = file.stat().st_mtime_ns + 10**9
        os.utime(file, ns=(later, later))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_finished_volume_is_known_by_what_it_was_made_of(kind: str) -> None:
    noisy, writer, axes = values(SHAPE), WRITERS[kind], {"axes": "ZYX"}
    path = writer(noisy)
    denoise(path, fitting=axes)
    write_again(path, writer, noisy)
    assert denoise(path, fitting=axes).to_json()["done_already"] is True
    noisy[1, 140, 3] += 1
    write_again(path, writer, noisy)
    with pytest.raises(OutputError, match=rf"exists already, and {path} has changed since it was made. .*--force"):
        denoise(path, fitting=axes)


@pytest.mark.usefixtures("expected")
@pytest.mark.parametrize("kind", WRITERS)
def test_blocks_of_a_volume_that_has_changed_are_not_used(kind: str, kill_before_block: Any) -> None:
    noisy, writer, axes = values(SHAPE), WRITERS[kind], {"axes": "ZYX"}
    path = writer(noisy)
    kill_before_block(2)
    with pytest.raises(Killed):
        denoise(path, fitting=axes)
    changed = noisy.copy()
    changed[1, 10, 3] += 1
    write_again(path, writer, changed)
    with pytest.raises(UsageError, match=r"was begun: .*2 of its blocks would be different now. .*--force") as caught:
        denoise(path, fitting=axes)
    assert "\n" not in str(caught.value)
    write_again(path, writer, noisy)
    kill_before_block()
    assert denoise(path, fitting=axes).kept == 2


@pytest.mark.usefixtures("expected")
def test_blocks_begin_anew_with_force_where_the_volume_has_changed(kill_before_block: Any) -> None:
    noisy = values(SHAPE)
    path = write_zarr(noisy)
    kill_before_block(2)
    with pytest.raises(Killed):
        denoise(path)
    noisy[1, 10, 3] += 1
    write_again(path, write_zarr, noisy)
    kill_before_block()
    assert denoise(path, outputs=OutputOptions(force=True)).kept == 0
    assert hidden() == []


def test_a_plan_that_was_made_of_other_values_is_not_used(kill_before_block: Any) -> None:
    path = write_zarr(values(SHAPE))
    kill_before_block(0)
    with pytest.raises(Killed):
        denoise(path, new_fit=True)
    write_again(path, write_zarr, values(SHAPE) // 9)
    kill_before_block()
    with pytest.raises(UsageError, match="has changed since it was begun: its fit would be different"):
        denoise(path, new_fit=True)


@pytest.mark.usefixtures("expected")
def test_a_volume_that_changes_while_it_is_denoised_gives_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = values(SHAPE)
    path = write_zarr(noisy)
    original = volume_job.denoise_block

    def changing(task: Any, *arguments: Any) -> Any:
        if task.block.number == 1:
            noisy[0, 10, 3] += 1
            write_again(path, write_zarr, noisy)
        return original(task, *arguments)

    monkeypatch.setattr(volume_job, "denoise_block", changing)
    with pytest.raises(UsageError, match=r"was begun: .*1 of its blocks would be different"):
        denoise(path)
    assert not Path("scan.denoised.ome.zarr").exists()


@pytest.mark.usefixtures("expected")
def test_arrays_of_one_group_are_not_mixed(kill_before_block: Any) -> None:
    group = zarr.create_group("two.zarr")
    for name in ("a", "b"):
        group.create_array(name, shape=SHAPE, chunks=(1, 64, 64), dtype="uint16")[...] = values(SHAPE, seed=ord(name))
    kill_before_block(1)
    with pytest.raises(Killed):
        denoise(Path("two.zarr/a"), new_fit=True, fitting={"axes": "ZYX"})
    kill_before_block()
    with pytest.raises(UsageError, match="was begun with other settings"):
        denoise(Path("two.zarr/b"), new_fit=True, fitting={"axes": "ZYX"})
    denoise(Path("two.zarr/a"), new_fit=True, fitting={"axes": "ZYX"})
    with pytest.raises(OutputError, match=r"exists already, made with other options .*array a, asked for b"):
        denoise(Path("two.zarr/b"), new_fit=True, fitting={"axes": "ZYX"})


@pytest.mark.usefixtures("expected")
def test_a_result_that_has_lost_a_chunk_is_not_done() -> None:
    path = write_zarr(values(SHAPE))
    denoise(path)
    next(
        file for file in Path("scan.denoised.ome.zarr/s0").rglob("*") if file.is_file() and file.parent.name != "s0"
    ).unlink()
    with pytest.raises(OutputError, match=r"exists already\. .*--force"):
        denoise(path)


@pytest.mark.usefixtures("expected")
def test_what_a_source_links_to_counts() -> None:
    path = write_zarr(values(SHAPE))
    Path("scan.ome.zarr/s0").rename("elsewhere")
    Path("scan.ome.zarr/s0").symlink_to(Path("elsewhere").resolve())
    denoise(path)
    array = zarr.open_array("elsewhere", mode="r+")
    array[0, 0, 0] = 1
    with pytest.raises(OutputError, match="has changed since it was made"):
        denoise(path)


def test_the_sources_of_a_virtual_array_count() -> None:
    h5py = pytest.importorskip("h5py", reason="pip install 'self2self[hdf5]'")
    with h5py.File("part.h5", "w") as file:
        file.create_dataset("data", data=values(SHAPE))
    layout = h5py.VirtualLayout(shape=SHAPE, dtype="uint16")
    layout[...] = h5py.VirtualSource("part.h5", "data", shape=SHAPE)
    with h5py.File("scan.h5", "w") as file:
        file.create_virtual_dataset("data", layout)
    denoise(Path("scan.h5"), fitting={"axes": "ZYX"})
    with h5py.File("part.h5", "r+") as file:
        file["data"][0, 0, 0] = 1
    with pytest.raises(OutputError, match="has changed since it was made"):
        denoise(Path("scan.h5"), fitting={"axes": "ZYX"})


@pytest.mark.usefixtures("expected")
def test_other_settings_do_not_go_on_with_blocks(kill_before_block: Any) -> None:
    path = write_ome_zarr(Path("volume.ome.zarr"), values(SHAPE))
    kill_before_block(2)
    with pytest.raises(Killed):
        denoise(path)
    with pytest.raises(UsageError, match=r"was begun with other settings \(.*strength.*start anew with --force"):
        denoise(path, fitting={"strength": 0.5})


def test_blocks_without_anything_to_denoise_are_copied() -> None:
    noisy = values((2, 150, 60), noise=200)
    noisy[:, 80:] = 17
    path = write_ome_zarr(Path("volume.ome.zarr"), noisy)
    denoise(path, new_fit=True)
    made = read("volume.denoised.ome.zarr/s0")
    assert (made[:, 128:] == 17).all()
    assert not np.array_equal(made[:, :60], noisy[:, :60])


def test_values_that_are_not_finite_stay_as_they_are() -> None:
    noisy = values((1, 150, 60)).astype(np.float32)
    noisy[0, 60:70, 30:50] = np.nan
    denoise(write_ome_zarr(Path("volume.ome.zarr"), noisy), new_fit=True)
    made = read("volume.denoised.ome.zarr/s0")
    assert np.array_equal(np.isnan(made), np.isnan(noisy))
    assert made.dtype == np.float32


@pytest.mark.parametrize(
    ("fitting", "told"),
    [
        ({"axes": "TZYX"}, r"volume.ome.zarr: --axes TZYX has 4 letters; the array has 3 axes, \(2, 150, 60\)"),
        ({"axes": "XYZ"}, r"with the axes XYZ, pages have 150x2 pixels; .* for example --axes ZYX"),
        ({"channel_axis": 7}, r"--channel-axis is 7; the array has 3 axes"),
        ({"fit_pages": "each"}, r"--fit-pages each is for images, and volume.ome.zarr is a volume. Leave it out"),
        ({"page": 3}, r"--page 3: volume.ome.zarr has 2 pages, counted from 1"),
    ],
)
def test_wrong_options_are_named(fitting: dict[str, Any], told: str) -> None:
    write_ome_zarr(Path("volume.ome.zarr"), values(SHAPE))
    with pytest.raises(UsageError if "XYZ" not in told else InputError, match=told) as caught:
        denoise(Path("volume.ome.zarr"), fitting=fitting)
    assert "\n" not in str(caught.value)


def test_an_output_of_another_kind_is_refused() -> None:
    path = write_ome_zarr(Path("volume.ome.zarr"), values(SHAPE))
    with pytest.raises(UsageError, match=r"-o clean.tif: volume.ome.zarr is zarr, .* extension .zarr"):
        denoise(path, outputs=OutputOptions(Path("clean.tif")))


def test_the_command_takes_volumes_alone_and_in_folders() -> None:
    Path("scans").mkdir()
    write_ome_zarr(Path("scans/volume.ome.zarr"), values((1, 150, 60)))
    told = run_cli("denoise", "scans/volume.ome.zarr", *OPTIONS, "--json").stdout
    assert json.loads(told)["blocks"] == 3
    shutil.rmtree("scans/volume.denoised.ome.zarr")
    told = run_cli("denoise", "scans", "-o", "results/", *OPTIONS, "--json").stdout
    assert [item["output"] for item in json.loads(told)["images"]] == ["results/volume.denoised.ome.zarr"]
    refused = run_cli("fit", "scans/volume.ome.zarr", expect=3).stderr
    assert "is a volume; expected an image file. Denoise it with: self2self denoise" in refused


MEMORY = """
import sys
from pathlib import Path
import numpy as np, tifffile, zarr
from self2self.jobs import EnsembleOptions, FitOptions, denoise_job
from self2self.machine.system import peak_memory_bytes
pages = int(sys.argv[1])
noisy = np.random.default_rng(0).normal(1000, 100, (1, 64, 64)).astype(np.uint16)
if sys.argv[2] == "volume.zarr":
    array = zarr.create_array(sys.argv[2], shape=(pages, 640, 640), chunks=(1, 640, 640), dtype="uint16", fill_value=7)
else:
    array = tifffile.memmap(sys.argv[2], shape=(pages, 640, 640), dtype="uint16")
    array[:] = 7
for page in (0, pages // 2, pages - 1):
    array[page] = np.tile(noisy, (1, 10, 10))
del array
Path("/proc/self/clear_refs").write_text("5")
fitting = FitOptions(steps=1, neighbours=0, init="scratch", axes="TYX")
denoise_job(Path(sys.argv[2]), fitting, EnsembleOptions(passes=1, engine="ort"))
print(peak_memory_bytes())
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["volume.zarr", "volume.tif"])
def test_memory_does_not_grow_with_the_volume(name: str, tmp_path: Path) -> None:
    peaks = []
    for pages in (8, 300):
        folder = tmp_path / str(pages)
        folder.mkdir()
        # One thread and one heap, because several make the peak a matter of chance.
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
        command = [sys.executable, "-c", MEMORY, str(pages), name]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    # The larger one has 239 MB more as it is stored, twice as much as floats. Peaks of equal volumes differ by 90 MB.
    assert peaks[1] < peaks[0] + 160e6


def test_a_zarr_at_an_address_is_read_and_written_there(expected: np.ndarray) -> None:
    pytest.importorskip("fsspec", reason="pip install fsspec")
    array = zarr.create_array("memory://bucket/plain.zarr", shape=SHAPE, chunks=(1, 64, 64), dtype="uint16")
    array[...] = values(SHAPE)
    result = denoise(Path("memory://bucket/plain.zarr"), fitting={"axes": "ZYX"})
    assert result.is_whole
    made = zarr.open_array("memory://bucket/plain.denoised.zarr", mode="r")
    assert np.array_equal(made[...], expected)
    assert denoise(Path("memory://bucket/plain.zarr"), fitting={"axes": "ZYX"}).to_json()["done_already"] is True
    assert hidden() == []
