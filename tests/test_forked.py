"""Programs in forked processes see and leave what they would in a fresh one."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.commands import ROOT
from tests.forked import run_forked


def test_code_a_module_and_a_script_are_told_their_arguments(tmp_path: Path) -> None:
    program = "import os, sys\nprint(__name__, sys.argv[1:], os.getcwd())\n"
    (tmp_path / "script.py").write_text(program)
    for start in (["-c", program], ["-m", "script"], ["script.py"]):
        done = run_forked([*start, "a", "b c"], tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"__main__ ['a', 'b c'] {tmp_path}\n"


def test_how_a_program_ends_is_told(tmp_path: Path) -> None:
    codes = {"raise SystemExit(7)": 7, "1 / 0": 1, "import os; os.kill(os.getpid(), 9)": -signal.SIGKILL}
    for code, expected in codes.items():
        assert run_forked(["-c", code], tmp_path).returncode == expected
    assert "ZeroDivisionError" in run_forked(["-c", "1 / 0"], tmp_path).stderr
    assert run_forked(["-c", "import atexit; atexit.register(print, 'the end')"], tmp_path).stdout == "the end\n"


def test_a_program_that_hangs_is_ended_and_shows_its_stack(tmp_path: Path) -> None:
    code = "import signal, time\n\ndef waits_for_ever():\n    signal.alarm(1)\n    time.sleep(600)\n\nwaits_for_ever()"
    done = run_forked(["-c", code], tmp_path)
    assert done.returncode == -signal.SIGALRM
    assert "in waits_for_ever" in done.stderr


def test_the_package_is_imported_anew_and_nothing_of_a_program_stays(tmp_path: Path) -> None:
    code = "import os, sys; print([name for name in sys.modules if name.startswith('self2self')], 'LEFT' in os.environ)"
    changing = "import os, self2self.cli; os.environ['LEFT'] = 'x'; print(self2self.__file__)"
    assert run_forked(["-c", changing], tmp_path).stdout == f"{ROOT / 'self2self' / '__init__.py'}\n"
    assert run_forked(["-c", code], tmp_path).stdout == "[] False\n"
    assert run_forked(["-c", code], tmp_path, {"LEFT": "y"}).stdout == "[] True\n"
