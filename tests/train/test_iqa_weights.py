"""Weights of the image quality term: hashed before they are parsed, downloaded completely or not at all."""

import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from self2self.cli import app
from self2self.errors import EngineUnavailableError, FileFormatError, InputError
from self2self.train import iqa, iqa_weights
from self2self.train.iqa_weights import FILE, IqaWeights, cache_path, find_weights, load_tensors
from tests.commands import write_noisy


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a URL that does not answer instead of the real one."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(iqa_weights, "URL", "http://127.0.0.1:9/nothing-answers-here")
    return tmp_path / "torch" / "hub" / "pyiqa" / FILE


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.pth"
    torch.save({"a": torch.arange(3.0), "b": torch.zeros(2, 2)}, path)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def publish(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Make `path` pass for the published file."""
    monkeypatch.setattr(iqa_weights, "SHA256_PREFIX", sha256(path)[:8])


class Bomb:
    """An object whose pickle makes a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (os.mkdir, (str(self.path),))


@pytest.fixture
def bomb(tmp_path: Path) -> tuple[Path, Path]:
    """A file of weights that runs code when it is unpickled, and the folder that this code makes."""
    path, made = tmp_path / "bomb.pth", tmp_path / "made"
    torch.save({"a": Bomb(made)}, path)
    return path, made


def test_own_file_is_hashed_and_read(small: Path) -> None:
    weights = find_weights(small, print)
    assert weights == IqaWeights(sha256(small), "compared by the hash alone")
    assert weights.path == str(small)
    assert not weights.published
    assert torch.equal(load_tensors(weights)["a"], torch.arange(3.0))


def test_the_bomb_works(bomb: tuple[Path, Path]) -> None:
    torch.load(bomb[0], weights_only=False)
    assert bomb[1].is_dir()


def test_code_in_an_own_file_is_refused_and_not_run(bomb: tuple[Path, Path]) -> None:
    with pytest.raises(FileFormatError, match=r"bomb\.pth: PyTorch refuses to read it as weights alone") as refusal:
        load_tensors(find_weights(bomb[0], print))
    assert "\n" not in str(refusal.value)
    assert not bomb[1].exists()


def test_cached_file_of_another_hash_is_not_even_opened_as_weights(
    cache: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(small.read_bytes())
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read before its hash was checked"))
    with pytest.raises(FileFormatError, match=rf"has SHA-256 {sha256(small)[:8]}…; expected ca69882e…, so it was not"):
        find_weights(None, print)


def test_cached_file_needs_no_network(cache: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, small)
    cache.parent.mkdir(parents=True)
    small.rename(cache)
    weights = find_weights(None, lambda note: pytest.fail(note))
    assert weights.published
    assert Path(weights.path) == cache_path() == cache


def test_file_that_changed_since_it_was_hashed_is_refused(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = find_weights(small, print)
    torch.save({"a": torch.ones(3)}, small)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read before its hash was checked"))
    with pytest.raises(FileFormatError, match=rf"this fit uses {weights.sha256[:8]}…, so it was not loaded"):
        load_tensors(weights)


@pytest.mark.parametrize("content", ["cut", "empty", "text", "list", "nested"])
def test_a_file_that_is_no_table_of_tensors_is_refused(content: str, small: Path) -> None:
    whole = small.read_bytes()
    if content == "list":
        torch.save([torch.zeros(2)], small)
    elif content == "nested":
        torch.save({"model": {"a": torch.zeros(2)}}, small)
    else:
        small.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"<html>not found</html>"}[content])
    with pytest.raises(FileFormatError, match=r"small\.pth: .*Expected the file http") as refusal:
        load_tensors(find_weights(small, print))
    assert "\n" not in str(refusal.value)


def test_missing_own_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.pth: cannot be read as weights of PaQ-2-PiQ \(No such file"):
        find_weights(tmp_path / "gone.pth", print)
    with pytest.raises(InputError, match=r"cannot be read as weights .*Is a directory"):
        find_weights(tmp_path, print)


class Server(ThreadingHTTPServer):
    """Sends `body`, announced as `length` bytes; 404 without a body."""

    body: bytes | None = None
    length = 0
    asked = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.server.body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.length))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setattr(iqa_weights, "URL", f"http://127.0.0.1:{server.server_port}/{FILE}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_download_is_announced_checked_and_kept(
    cache: Path, small: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, small)
    server.body = small.read_bytes()
    server.length = len(server.body)
    notes: list[str] = []
    weights = find_weights(None, notes.append)
    assert notes == [
        f"downloading the weights of PaQ-2-PiQ (47 MB, for non-commercial use) to {cache}.",
    ]
    assert weights == find_weights(None, notes.append)
    assert server.asked == 1
    assert list(cache.parent.iterdir()) == [cache]
    assert sorted(load_tensors(weights)) == ["a", "b"]


def test_download_of_another_file_is_not_kept(cache: Path, small: Path, server: Server) -> None:
    server.body = small.read_bytes()
    server.length = len(server.body)
    with pytest.raises(FileFormatError, match=r"sent a file with SHA-256 .* expected ca69882e…, so it was not kept"):
        find_weights(None, print)
    assert list(cache.parent.iterdir()) == []


def test_download_that_is_cut_off_leaves_nothing_and_starts_anew(
    cache: Path, small: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, small)
    server.body = small.read_bytes()
    server.length = len(server.body) + 1
    with pytest.raises(EngineUnavailableError, match=r"the connection ended after \d+ of \d+ bytes"):
        find_weights(None, print)
    assert list(cache.parent.iterdir()) == []
    server.length -= 1
    assert find_weights(None, print).published


def test_download_without_end_is_given_up(
    cache: Path, small: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iqa_weights, "MAXIMUM_BYTES", 100)
    server.body = small.read_bytes()
    server.length = len(server.body)
    with pytest.raises(EngineUnavailableError, match="more than 100 bytes came"):
        find_weights(None, print)
    assert list(cache.parent.iterdir()) == []


def test_download_that_is_not_there_says_what_to_do(cache: Path, server: Server) -> None:
    with pytest.raises(EngineUnavailableError, match=r"cannot be downloaded \(.*Not Found\)"):
        find_weights(None, print)
    assert list(cache.parent.iterdir()) == []


def test_cache_that_cannot_be_written_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(EngineUnavailableError, match=r"cannot be written to .*Set TORCH_HOME to another folder"):
        find_weights(None, print)


@pytest.mark.parametrize("command", ["fit", "denoise"])
def test_offline_is_one_line_with_the_address_the_place_and_what_to_type(
    command: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(iqa, "find_spec", lambda name: object())
    write_noisy(tmp_path / "image.png")
    result = CliRunner().invoke(app, [command, "image.png", "--iqa"])
    assert result.exit_code == 4
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error:"))
    for part in (iqa_weights.URL, str(cache), "--iqa-weights FILE", "fit without --iqa"):
        assert part in line
    assert not (tmp_path / "runs").exists()
