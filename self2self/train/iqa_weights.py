"""Finds the weights of PaQ-2-PiQ: the user's file, the cache, or one download.

The cache is the folder that pyiqa itself uses, so a file that either of them has downloaded serves
both. A file is hashed before it is parsed, and its bytes are read only once, so the loaded bytes
are the hashed ones. The published file has the first digits of its SHA-256 in its name, as files
of torch.hub do. The run's settings keep the whole hash, and continuing the fit checks it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from self2self.errors import EngineUnavailableError, FileFormatError, InputError, OutputError, first_line, typed
from self2self.machine.files import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

FILE = "P2P_RoIPoolModel-fit.10.bs.120-ca69882e.pth"
SHA256_PREFIX = "ca69882e"
URL = f"https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/{FILE}"
TIMEOUT_SECONDS = 30
MAXIMUM_BYTES = 200_000_000
"""The file has about 47 MB; a server that sends without end must not fill the disk."""


@dataclass(frozen=True, slots=True)
class IqaWeights:
    """The weights file of a fit; two are equal if their hashes are.

    Attributes:
        sha256: hash of the file, 64 hexadecimal digits.
        path: absolute path that the file had.
    """

    sha256: str
    path: str = field(compare=False)

    @property
    def published(self) -> bool:
        """Whether the hash has the known first digits of the file that pyiqa publishes."""
        return self.sha256.startswith(SHA256_PREFIX)


def cache_path() -> Path:
    """The path of the cached file; the environment variable `TORCH_HOME` moves it."""
    import torch

    return Path(torch.hub.get_dir()) / "pyiqa" / FILE


def find_weights(given: Path | None, note: Callable[[str], None]) -> IqaWeights:
    """The weights file to use, hashed; it is downloaded only if none is given and none is cached.

    Args:
        given: the user's own file, of any hash; None for the published file.
        note: called with a message before a download.

    Raises:
        InputError: the given file cannot be read.
        FileFormatError: the cached or downloaded file is not the published one.
        EngineUnavailableError: the file cannot be downloaded.
    """
    path = given or cache_path()
    if given is None and not path.is_file():
        note(f"downloading the weights of PaQ-2-PiQ (47 MB, for non-commercial use) to {path}.")
        download(path)
    weights = IqaWeights(hashlib.sha256(_read(path)).hexdigest(), str(path.resolve()))
    if given is None and not weights.published:
        raise FileFormatError(
            f"{path}: has SHA-256 {weights.sha256[:8]}…; expected {SHA256_PREFIX}…, so it was not loaded. "
            f"Remove it to fetch it again, or name it by {typed('--iqa-weights')} if you trust it."
        )
    return weights


def load_tensors(weights: IqaWeights) -> dict[str, Tensor]:
    """The tensors of the file by name, after a check of its hash.

    Raises:
        InputError: the file cannot be read.
        FileFormatError: the file has changed, or holds more than tensors.
    """
    import torch

    data = _read(Path(weights.path))
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != weights.sha256:
        raise FileFormatError(
            f"{weights.path}: has SHA-256 {sha256[:8]}…; this fit uses {weights.sha256[:8]}…, so it was not loaded. "
            f"Name the file by {typed('--iqa-weights')}, or start anew with {typed('--force')}."
        )
    try:
        values: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can make the reader fail in any way
        raise FileFormatError(
            f"{weights.path}: PyTorch refuses to read it as weights alone ({first_line(error)}). "
            f"Expected the file {URL}"
        ) from error
    if not isinstance(values, Mapping) or not all(isinstance(value, torch.Tensor) for value in values.values()):
        raise FileFormatError(f"{weights.path}: is not a table of tensors by name. Expected the file {URL}")
    return {str(name): value for name, value in values.items()}


def download(path: Path) -> None:
    """Download the published file to `path`, or leave nothing there.

    Raises:
        EngineUnavailableError: no network, no such file, no space for it, or an incomplete download.
        FileFormatError: the server sent another file.
    """
    digest = hashlib.sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            for chunk in _downloaded_chunks(path):
                digest.update(chunk)
                file.write(chunk)
            if not digest.hexdigest().startswith(SHA256_PREFIX):
                raise FileFormatError(
                    f"{URL}: sent a file with SHA-256 {digest.hexdigest()[:8]}…; expected {SHA256_PREFIX}…, so it was "
                    f"not kept. Get the file in another way and name it by {typed('--iqa-weights FILE')}."
                )
    except (OutputError, OSError) as error:
        raise EngineUnavailableError(
            f"{typed('--iqa')}: the weights cannot be written to {path.parent} ({error.__cause__ or error}). "
            f"Set TORCH_HOME to another folder, or name a file by {typed('--iqa-weights FILE')}."
        ) from error


def _downloaded_chunks(path: Path) -> Iterator[bytes]:
    """The chunks of the file at `URL`; `path` is for messages.

    Raises:
        EngineUnavailableError: the download failed.
    """
    import http.client
    import urllib.request

    try:
        with urllib.request.urlopen(URL, timeout=TIMEOUT_SECONDS) as response:
            length = response.headers.get("Content-Length")
            count = 0
            while chunk := response.read(1 << 20):
                count += len(chunk)
                if count > MAXIMUM_BYTES:
                    raise http.client.HTTPException(f"more than {MAXIMUM_BYTES} bytes came")
                yield chunk
            if length is not None and count != int(length):
                raise http.client.HTTPException(f"the connection ended after {count} of {length} bytes")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise EngineUnavailableError(
            f"{typed('--iqa')}: the weights of PaQ-2-PiQ cannot be downloaded ({reason}). Get {URL} on another "
            "machine, then "
            f"give {typed('--iqa-weights FILE')} or put it at {path}; or fit without {typed('--iqa')}."
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read as weights of PaQ-2-PiQ ({error.strerror or error}). "
            f"Name the file by {typed('--iqa-weights FILE')}; it is published at {URL}"
        ) from error
