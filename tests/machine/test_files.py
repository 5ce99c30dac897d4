"""Test atomic writes in trouble: a full disk, kill -9, a missing folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from self2self.errors import OutputError, ResourceError
from self2self.machine.files import (
    atomic_path,
    atomic_write,
    check_new,
    hidden_sibling,
    holds_only_leftovers,
    remove_folder,
    remove_leftovers,
    scratch_folder,
)


def test_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    atomic_write(path, b"one")
    path.chmod(0o640)
    atomic_write(path, memoryview(b"two"))
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_new_files_obey_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        atomic_write(tmp_path / "x", b"")
    finally:
        os.umask(old)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_path_has_the_suffix_and_folder_of_the_target(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.onnx") as temporary:
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".onnx")
        temporary.write_bytes(b"1")
    assert (tmp_path / "x.onnx").read_bytes() == b"1"


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_alone(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/x").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real/x")
    atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/x").read_bytes() == b"new"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "none/x", tmp_path / "file/x", tmp_path / "pipe", tmp_path / ("x" * 300)):
        with pytest.raises(OutputError) as caught:
            atomic_write(place, b"x")
        assert "\n" not in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "pipe"]


FULL = """
import resource, signal, sys
from self2self.errors import ResourceError
from self2self.machine.files import atomic_write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    atomic_write(sys.argv[1], bytes(100_000))
except ResourceError as error:
    print(error)
"""


def test_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    result = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    assert "no space left" in result.stdout
    assert result.stderr == ""
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_enospc_is_a_resource_error(tmp_path: Path) -> None:
    with pytest.raises(ResourceError), atomic_path(tmp_path / "x"), Path("/dev/full").open("wb") as full:
        full.write(b"x")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, time
from self2self.machine.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_kill_9_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
    assert path.read_bytes() == b"old"
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_file_that_could_not_be_written_is_refused_beforehand(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    for name, text in {
        "old": "old: exists already. Replace it with --force, or choose another name.",
        "folder": "folder: is a folder; expected the name of a file. Choose another name.",
        "none/new": f"none/new: the folder {tmp_path}/none does not exist. Create it with mkdir -p {tmp_path}/none",
    }.items():
        with pytest.raises(OutputError) as caught:
            check_new(tmp_path / name, force=False, option="--html", instead="choose another name")
        assert str(caught.value) == f"--html {tmp_path}/{text}"
    check_new(tmp_path / "new", force=False)
    check_new(tmp_path / "old", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "old"]
    assert (tmp_path / "old").read_bytes() == b"old"


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a pipe"])
def test_what_cannot_be_replaced_in_the_end_is_refused_beforehand_in_the_same_words(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
    with pytest.raises(OutputError) as before:
        check_new(path, force=True)
    with pytest.raises(OutputError) as after:
        atomic_write(path, b"x")
    assert str(before.value) == str(after.value)


HOLDING = """
import sys
from self2self.machine.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    print(temporary, flush=True)
    sys.stdin.read()
"""


def test_leftovers_of_the_dead_go_and_files_of_the_living_stay(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path / "x.png")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with process:
        assert process.stdout is not None
        living = Path(process.stdout.readline().strip())
        (tmp_path / ".0123456789ab.partial.png").write_bytes(b"dead")
        (tmp_path / ".0123456789ac.partial").mkdir()
        (tmp_path / ".0123456789ac.partial" / "page.npy").write_bytes(b"dead")
        theirs = [tmp_path / name for name in (".partial.png", "0123456789ab.partial.png", ".0123.partial.png")]
        for path in theirs:
            path.write_bytes(b"of someone else")
        assert not holds_only_leftovers(tmp_path)
        remove_leftovers(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([living, *theirs])
        process.kill()
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(theirs)


def test_a_folder_goes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pages" / "deep").mkdir(parents=True)
    (tmp_path / "pages" / "deep" / "file").write_bytes(b"1")

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", die)
        remove_folder(tmp_path / "pages")
    assert not (tmp_path / "pages").exists()
    assert holds_only_leftovers(tmp_path)
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []
    remove_folder(tmp_path / "none")


def test_a_scratch_folder_is_private_and_goes_with_its_block(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), scratch_folder(tmp_path / "new") as folder:
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "a").mkdir()
        (folder / "a" / "file").write_bytes(b"1")
        # A second one leaves the first alone.
        with scratch_folder(tmp_path / "new") as second:
            assert second != folder
        assert (folder / "a" / "file").is_file()
        _ = 1 / 0
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("parent", ["Path(sys.argv[1])", "None"])
def test_the_next_scratch_folder_removes_that_of_a_killed_process(
    parent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    # Someone else's pipe of such a name keeps nobody waiting.
    os.mkfifo(tmp_path.with_name("pipe"))
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom self2self.machine.files import scratch_folder\n"
        f"with scratch_folder({parent}) as folder:\n"
        "    (folder / 'private').write_text('x')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2], check=False)
    (left,) = tmp_path.iterdir()
    assert (left / "private").is_file()
    tmp_path.with_name("pipe").rename(tmp_path / ".0123456789ab.partial.png")
    with scratch_folder(tmp_path if "argv" in parent else None) as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert not left.exists()


def test_scratch_folders_of_many_threads_are_kept_apart(tmp_path: Path) -> None:
    """Each looks for leftovers while others have just made theirs."""

    def use(number: int) -> None:
        for _ in range(20):
            with scratch_folder(tmp_path) as folder:
                (folder / "file").write_text(str(number))
                assert (folder / "file").read_text() == str(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.png", "照" * 83 + ".png", "b" * 251 + ".tif"], ids=["short", "Chinese", "long"])
def test_what_is_kept_beside_a_file_has_a_name_that_file_systems_take(tmp_path: Path, name: str) -> None:
    place, other = (hidden_sibling(tmp_path / of, ".parts") for of in (name, name[:-5] + "x" + name[-4:]))
    place.mkdir()
    assert place.parent == tmp_path
    assert place.name.startswith(f".{name[0]}")
    assert place.name.endswith(".parts")
    assert place != other
    assert (place.name == f".{name}.parts") == (len(name) < 50)
