"""Which images the arguments of a command mean, and how parts share them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from self2self.errors import InputError, UsageError
from self2self.jobs.inputs import Part, named_images
from self2self.jobs.observer import Observer
from self2self.jobs.output_options import OutputOptions


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(path)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.png", "a.png", "a.denoised.png", "in/c.png", "in/deep/d.tif", ".hidden/e.png"):
        image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("nothing")
    return tmp_path


def names(folder: Path, images: list[Path]) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in images]


def test_a_folder_stands_for_the_images_in_it_and_says_what_is_left_out(tree: Path) -> None:
    notes: list[str] = []
    images = named_images([tree], Observer(note=notes.append))
    assert names(tree, images) == ["a.png", "b.png"]
    assert "in/, notes.txt; for the images in folders: --recursive" in notes[0]
    assert "a.denoised.png" in notes[1]


def test_recursive_takes_inner_folders_but_no_hidden_ones_and_no_links(tree: Path) -> None:
    (tree / "loop").symlink_to(tree, target_is_directory=True)
    images = named_images([tree], Observer(), recursive=True)
    assert names(tree, images) == ["a.png", "b.png", "in/c.png", "in/deep/d.tif"]


def test_recursive_keeps_the_layout_in_the_folder_of_results(tree: Path) -> None:
    outputs = OutputOptions(output="out/").for_several((tree,))
    images = named_images([tree], Observer(), recursive=True)
    assert [outputs.output_for(path).as_posix() for path in images] == [
        "out/a.denoised.png",
        "out/b.denoised.png",
        "out/in/c.denoised.png",
        "out/in/deep/d.denoised.tif",
    ]


def test_equal_names_in_two_folders_are_refused_unless_the_layout_keeps_them_apart(tmp_path: Path) -> None:
    images = [image(tmp_path / "day" / "a.png"), image(tmp_path / "night" / "a.png")]
    with pytest.raises(UsageError, match="both be written to"):
        OutputOptions(output="out/").check(images)
    OutputOptions(output="out/").for_several((tmp_path,)).check(images)


def test_a_result_is_an_input_only_if_it_is_named_alone(tree: Path) -> None:
    result = tree / "a.denoised.png"
    assert named_images([result], Observer()) == [result]
    with pytest.raises(InputError, match="results of self2self, and there is no other image"):
        named_images([result, image(tree / "b.denoised.tif")], Observer())


def test_a_folder_of_folders_says_how_to_search_them(tree: Path) -> None:
    with pytest.raises(InputError, match=r"has no images.*--recursive"):
        named_images([image(tree / "outer" / "inner" / "x.png").parents[1]], Observer())


@given(st.integers(1, 40), st.lists(st.integers()))
def test_parts_share_all_values_and_none_twice(count: int, values: list[int]) -> None:
    parts = [Part.parse(f"{number}/{count}").of(values) for number in range(1, count + 1)]
    assert sorted(value for part in parts for value in part) == sorted(values)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "1/0", "a/b", "1/4/2", "-1/4", "1.0/2", "²/4"])
def test_a_part_that_is_none_is_refused_with_what_to_type(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected K/N.*--part 1/8"):
        Part.parse(text)
