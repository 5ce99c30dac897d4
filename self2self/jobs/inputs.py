"""The images that the arguments of a command name: files, and the images in folders."""

from __future__ import annotations

from pathlib import Path

from self2self.errors import InputError, Self2SelfError
from self2self.image_io import check_readable
from self2self.jobs.observer import Observer


def named_images(paths: list[Path], observer: Observer) -> list[Path]:
    """Replace every folder by the images in it, in the order of their names.

    Args:
        paths: files and folders. A file stays as it is, even if it does not exist.
        observer: gets a note on what of a folder is left out: folders in it, and files that cannot be read as images.

    Raises:
        InputError: a folder has no images.
    """
    images = []
    for path in paths:
        images += _images_in(path, observer) if path.is_dir() else [path]
    return images


def has_images(folder: Path) -> bool:
    """Whether some file in `folder` can be read as an image."""
    return any(_is_image(path) for path in _visible(folder))


def _images_in(folder: Path, observer: Observer) -> list[Path]:
    listed = _visible(folder)
    images = [path for path in listed if _is_image(path)]
    if not images:
        raise InputError(f"{folder}: has no images; expected a file or a folder with image files. Check the folder.")
    left_out = [path.name + "/" * path.is_dir() for path in listed if path not in images]
    if left_out:
        observer.note(f"{folder}: {len(images)} images are taken; left out: {', '.join(left_out)}")
    return images


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_image(path: Path) -> bool:
    try:
        check_readable(path)
    except Self2SelfError:
        return False
    return True
