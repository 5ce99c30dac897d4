"""A SLURM of two nodes of one processor on this machine, with its own configuration, authentication and ports."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

NODES = ("s2s1", "s2s2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo")
START_SECONDS = 60
CONFIGURATION = """\
ClusterName=self2self
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MailProg=/bin/true
{nodes}
PartitionName=all Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start it with all its files in `folder`; yields the environment for its commands. Skips where it cannot run."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons need root")
    folder.chmod(0o755)
    (folder / "state").mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    here = f"NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1"
    nodes = "\n".join(f"NodeName={name} {here} Port={free_port()} CPUs=1 RealMemory=4000" for name in NODES)
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            host=socket.gethostname(), port=free_port(), folder=folder, nodes=nodes, names=",".join(NODES)
        )
    )
    environment = {**os.environ, "PATH": path, "SLURM_CONF": str(folder / "slurm.conf")}
    munge = ["munged", "--foreground", "--force", "--num-threads=1"]
    munge += [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    daemons = [
        [*munge, f"--socket={folder}/munge.socket"],
        ["slurmctld", "-D"],
        *(["slurmd", "-D", "-N", n] for n in NODES),
    ]
    with ExitStack() as stack:
        for number, command in enumerate(daemons):
            log = stack.enter_context((folder / f"{number}-{command[0]}.log").open("w"))
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            stack.callback(_end, process)
            time.sleep(1)
        _wait_for_nodes(environment, folder)
        yield environment


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def _wait_for_nodes(environment: dict[str, str], folder: Path) -> None:
    end = time.monotonic() + START_SECONDS
    states = ""
    while time.monotonic() < end:
        done = subprocess.run(
            ["sinfo", "-h", "-N", "-o", "%T"], env=environment, capture_output=True, text=True, check=False
        )
        states = done.stdout + done.stderr
        if done.stdout.split() == ["idle"] * len(NODES):
            return
        time.sleep(1)
    logs = "\n".join(f"{path.name}: {path.read_text()[-600:]}" for path in sorted(folder.glob("*.log")))
    pytest.skip(f"SLURM does not start here ({states.strip()}): {logs}")
