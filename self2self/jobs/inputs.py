"""The images that the arguments of a command name: files, and the images in folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from self2self.errors import InputError, Self2SelfError, UsageError, typed
from self2self.image_io import check_readable, is_result_name
from self2self.image_io.volumes import is_volume
from self2self.jobs.observer import Observer

T = TypeVar("T")

NAMES_IN_NOTE = 10
"""Largest number of files that a note lists by name."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of several parts of a list, so that as many machines can share the work.

    Attributes:
        number: which part, from 1.
        count: number of parts.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        """The part that a text such as ``"2/8"`` means.

        Raises:
            UsageError: the text is not ``K/N`` with 1 <= K <= N.
        """
        found = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text, re.ASCII)
        part = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if not 1 <= part.number <= part.count:
            raise UsageError(
                f"{typed('--part', text)}: expected K/N, part K of N, with K from 1 to N. Type for the first of "
                f"eight: {typed('--part 1/8')}"
            )
        return part

    def of(self, values: list[T]) -> list[T]:
        """The values of this part: every `count`-th one, so that parts of a sorted list are alike."""
        return values[self.number - 1 :: self.count]


def named_images(paths: list[Path], observer: Observer, *, recursive: bool = False) -> list[Path]:
    """Replace every folder by the images in it, in the order of their names, and leave out results.

    Files named ``*.denoised.*`` are results of earlier commands: a folder or a pattern of the shell takes them along
    when a command runs again. A single file is taken whatever its name.

    Args:
        paths: files and folders. A file stays as it is, even if it does not exist.
        observer: gets notes on what is left out: results, folders in a folder, and files that are no images.
        recursive: whether folders in folders are searched, too; hidden ones and links to folders are not.

    Raises:
        InputError: a folder has no images, or nothing but results is named.
    """
    if len(paths) == 1 and not _is_folder(paths[0]):
        return paths
    images: list[Path] = []
    results: list[Path] = []
    for path in paths:
        for image in _images_in(path, observer, recursive) if _is_folder(path) else [path]:
            (results if is_result_name(image) else images).append(image)
    if results and not images:
        raise InputError(
            f"{_listed(results)}: named *.denoised.*, so results of self2self, and there is no other image. Name one "
            "file alone to denoise it nevertheless, or rename them."
        )
    if results:
        observer.note(f"left out, as results of self2self are named like this: {_listed(results)}")
    return images


def has_images(folder: Path) -> bool:
    """Whether some file in `folder` can be read as an image."""
    return any(_is_image(path) for path in _visible(folder))


def _images_in(folder: Path, observer: Observer, recursive: bool) -> list[Path]:
    listed = list(_walk(folder)) if recursive else _visible(folder)
    images = [path for path in listed if _is_image(path)]
    if not images:
        inner = not recursive and any(_is_folder(path) for path in listed)
        hint = f"With {typed('--recursive')}, folders in it are searched, too" if inner else "Check the folder"
        raise InputError(f"{folder}: has no images; expected a file or a folder with image files. {hint}.")
    taken = set(images)
    left_out = [path for path in listed if path not in taken]
    if left_out:
        names = _listed([f"{path.relative_to(folder)}{'/' * path.is_dir()}" for path in left_out])
        hint = f"; for the images in folders: {typed('--recursive')}" * any(path.is_dir() for path in left_out)
        observer.note(f"{folder}: {len(images)} images are taken; left out: {names}{hint}")
    return images


def _walk(folder: Path) -> Iterator[Path]:
    """All visible files below `folder`, folder by folder."""
    for path in _visible(folder):
        if not _is_folder(path):
            yield path
        elif not path.is_symlink():
            yield from _walk(path)


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be listed ({error.strerror}); expected a folder that may be read. Check its permissions."
        ) from error


def _is_folder(path: Path) -> bool:
    """Whether `path` is a folder of files, and not one that is a volume."""
    return path.is_dir() and not is_volume(path)


def _is_image(path: Path) -> bool:
    if is_volume(path):
        return True
    try:
        check_readable(path)
    except Self2SelfError:
        return False
    return True


def _listed(values: list[Path] | list[str]) -> str:
    """The first values of a list, and how many there are more."""
    shown = ", ".join(map(os.fspath, values[:NAMES_IN_NOTE]))
    more = len(values) - NAMES_IN_NOTE
    return f"{shown} and {more} more" if more > 0 else shown
