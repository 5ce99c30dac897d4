"""The address of the page: its port, its end, and what is missing."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from self2self.gui.server import listening
from tests.commands import ROOT, run_cli


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which another program listens."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_that_is_taken_is_refused_in_one_line(taken: int) -> None:
    pytest.importorskip("nicegui", reason="NiceGUI is not installed: pip install '.[gui]'")
    error = run_cli("gui", "--port", str(taken), expect=2).stderr
    assert error == (
        f"error: --port {taken}: cannot be used (Address already in use). Choose another, or leave --port out.\n"
    )


@pytest.mark.parametrize("port", ["-1", "70000"])
def test_a_port_that_does_not_exist_is_refused_in_one_line(port: str) -> None:
    pytest.importorskip("nicegui", reason="NiceGUI is not installed: pip install '.[gui]'")
    assert run_cli("gui", "--port", port, expect=2).stderr == f"error: --port is {port}; expected 1 to 65535.\n"


def test_a_second_page_finds_a_port_of_its_own(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("self2self.gui.server.USUAL_PORT", taken)
    with listening(None) as listener:
        address, port = listener.getsockname()
        assert address == "127.0.0.1"
        assert port != taken


def test_the_missing_extra_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nicegui", None)
    error = run_cli("gui", expect=4).stderr
    assert error == (
        "error: self2self gui: needs NiceGUI, and nicegui is not installed. Install it: pip install 'self2self[gui]'\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_end_removes_all_files(number: signal.Signals, tmp_path: Path) -> None:
    pytest.importorskip("nicegui", reason="NiceGUI is not installed: pip install '.[gui]'")
    variables = {"PYTHONPATH": str(ROOT), "SELF2SELF_CACHE": str(tmp_path / "cache"), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "self2self", "gui", "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **variables},
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        root, _, _ = address.partition("?")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(root, timeout=60)
        cookie, _, _ = cookie_of(address).partition(";")

        def ask(path: str, **options: object) -> tuple[int, str]:
            request = urllib.request.Request(root + path, headers={"Cookie": cookie}, **options)  # type: ignore[arg-type]
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()

        assert ask("page.js")[0] == 200
        # No path from the browser opens a file of this computer.
        for path in ("files/..%2f..%2fetc%2fpasswd", "files/%2fetc%2fpasswd", "files/x", "docs", "openapi.json"):
            assert "root:" not in ask(path)[1]
        assert ask("files/%2fetc%2fpasswd")[0] == 404
        assert ask("upload", data=b"no image", method="POST") == (200, '{"name":"image"}')
        assert list((tmp_path / "cache" / "gui").iterdir())
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert errors == ""
    finally:
        process.kill()
        process.communicate()
    assert list(tmp_path.iterdir()) == [tmp_path / "cache"]
    assert list((tmp_path / "cache" / "gui").iterdir()) == []


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def cookie_of(address: str) -> str:
    """The cookie that the address with the key gives."""
    try:
        urllib.request.build_opener(NoRedirect).open(address, timeout=60)
    except urllib.error.HTTPError as answer:
        return str(answer.headers["set-cookie"])
    raise AssertionError("no redirection")
