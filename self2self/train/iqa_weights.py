"""Where the weights of PaQ-2-PiQ come from: the user's file, the cache, or one download.

The cache is the folder that pyiqa itself uses, so a file that either has fetched serves both. A
file is hashed before anything reads it, and what was hashed is what is loaded: its bytes are
read once. The published file carries the first digits of its SHA-256 in its name, as torch.hub's
files do; the whole hash goes into the run's settings, and continuing the fit asks for it.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from self2self.errors import EngineUnavailableError, FileFormatError, InputError, OutputError, first_line
from self2self.machine.files import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

FILE = "P2P_RoIPoolModel-fit.10.bs.120-ca69882e.pth"
SHA256_START = "ca69882e"
URL = f"https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/{FILE}"
TIMEOUT_SECONDS = 30
MOST_BYTES = 200_000_000
"""The file has about 47 MB; a server that sends without end must not fill the disk."""


@dataclass(frozen=True, slots=True)
class IqaWeights:
    """Which weights a fit uses.

    Attributes:
        sha256: of the file, 64 hexadecimal digits; what makes two fits the same.
        path: absolute; where the file was.
    """

    sha256: str
    path: str = field(compare=False)

    @property
    def published(self) -> bool:
        """Whether it is the file that pyiqa publishes, as far as the known digits tell."""
        return self.sha256.startswith(SHA256_START)


def cache_path() -> Path:
    """Where the published file is kept; `TORCH_HOME` moves it."""
    import torch

    return Path(torch.hub.get_dir()) / "pyiqa" / FILE


def find_weights(given: Path | None, note: Callable[[str], None]) -> IqaWeights:
    """The weights file to use, hashed; fetched only if none is given and none is in the cache.

    Args:
        given: the user's own file, of whatever hash.
        note: told before a download.

    Raises:
        InputError: the given file cannot be read.
        FileFormatError: the cached or fetched file is not the published one.
        EngineUnavailableError: it cannot be fetched.
    """
    path = given or cache_path()
    if given is None and not path.is_file():
        note(f"downloading the weights of PaQ-2-PiQ (47 MB, for non-commercial use) to {path}.")
        download(path)
    weights = IqaWeights(hashlib.sha256(_read(path)).hexdigest(), str(path.resolve()))
    if given is None and not weights.published:
        raise FileFormatError(
            f"{path}: has SHA-256 {weights.sha256[:8]}…; expected {SHA256_START}…, so it was not loaded. "
            "Remove it to fetch it again, or name it by --iqa-weights if you trust it."
        )
    return weights


def load_tensors(weights: IqaWeights) -> dict[str, Tensor]:
    """The tensors of the file by name, once its hash is found to be the recorded one.

    Raises:
        InputError: it cannot be read.
        FileFormatError: it has changed, or holds more than tensors.
    """
    import torch

    data = _read(Path(weights.path))
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != weights.sha256:
        raise FileFormatError(
            f"{weights.path}: has SHA-256 {sha256[:8]}…; this fit uses {weights.sha256[:8]}…, so it was not loaded. "
            "Name the file by --iqa-weights, or start anew with --force."
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
    """Fetch the published file to `path`, or leave nothing there.

    Raises:
        EngineUnavailableError: no network, no such file, no place for it, or it was cut off.
        FileFormatError: what came is another file.
    """
    digest = hashlib.sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            for part in _parts(path):
                digest.update(part)
                file.write(part)
            if not digest.hexdigest().startswith(SHA256_START):
                raise FileFormatError(
                    f"{URL}: sent a file with SHA-256 {digest.hexdigest()[:8]}…; expected {SHA256_START}…, so it was "
                    "not kept. Get the file in another way and name it by --iqa-weights FILE."
                )
    except (OutputError, OSError) as error:
        raise EngineUnavailableError(
            f"--iqa: the weights cannot be written to {path.parent} ({error.__cause__ or error}). "
            "Set TORCH_HOME to another folder, or name a file by --iqa-weights FILE."
        ) from error


def _parts(path: Path) -> Iterator[bytes]:
    """The file at `URL` in pieces."""
    try:
        with urllib.request.urlopen(URL, timeout=TIMEOUT_SECONDS) as answer:
            length = answer.headers.get("Content-Length")
            count = 0
            while part := answer.read(1 << 20):
                count += len(part)
                if count > MOST_BYTES:
                    raise http.client.HTTPException(f"more than {MOST_BYTES} bytes came")
                yield part
            if length is not None and count != int(length):
                raise http.client.HTTPException(f"the connection ended after {count} of {length} bytes")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise EngineUnavailableError(
            f"--iqa: the weights of PaQ-2-PiQ cannot be downloaded ({reason}). Get {URL} on another machine, then "
            f"give --iqa-weights FILE or put it at {path}; or fit without --iqa."
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read as weights of PaQ-2-PiQ ({error.strerror or error}). "
            f"Name the file by --iqa-weights FILE; it is published at {URL}"
        ) from error
