"""A real Slurm of one node on this machine, of the programs that Debian's packages `slurm-wlm` and `munge` bring."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue")
_WHERE = f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"

_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
BatchStartTimeout=30
ReturnToService=2
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus}
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE
"""


def missing() -> list[str]:
    """The programs that are not here."""
    return [program for program in PROGRAMS if shutil.which(program, path=_WHERE) is None]


class Slurm:
    """The three daemons, with folders, ports and a key of their own; `env` is for the commands that talk to them."""

    def __init__(self, folder: Path, *, cpus: int = 2) -> None:
        folder.mkdir(mode=0o755)
        (folder / "state").mkdir()
        (folder / "spool").mkdir()
        (folder / "key").write_bytes(os.urandom(1024))
        (folder / "key").chmod(0o600)
        conf = folder / "slurm.conf"
        values = {"host": socket.gethostname(), "user": getpass.getuser(), "ports": _free_ports()}
        conf.write_text(_CONF.format(folder=folder, cpus=cpus, **values))
        self.env: Mapping[str, str] = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM")},
            "SLURM_CONF": str(conf),
            "PATH": _WHERE,
        }
        self._folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []
        own = {"key-file": "key", "socket": "socket", "pid-file": "munged.pid", "log-file": "log", "seed-file": "seed"}
        self._start("munged", "--foreground", "--force", *(f"--{name}={folder / place}" for name, place in own.items()))
        self._until((folder / "socket").exists, 20)
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D")
        self._until(lambda: "idle" in self.said("sinfo", "--noheader", "--format=%T"), 60)

    def said(self, *command: str) -> str:
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=False).stdout

    def waiting(self) -> list[str]:
        """Of each task in the queue its job, number and state, such as `7_1 RUNNING`."""
        return self.said("squeue", "--noheader", "--array", "--format=%i %T").splitlines()

    def until_done(self, seconds: float) -> None:
        self._until(lambda: not self.waiting(), seconds)

    def close(self) -> None:
        self.said("scancel", "--signal=KILL", "--full", f"--user={getpass.getuser()}")
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def _start(self, program: str, *options: str) -> None:
        command = [str(shutil.which(program, path=_WHERE)), *options]
        with open(self._folder / f"{program}.out", "wb") as out:
            self._daemons.append(subprocess.Popen(command, env=self.env, stdout=out, stderr=subprocess.STDOUT))

    def _until(self, happened: object, seconds: float) -> None:
        assert callable(happened)
        deadline = time.monotonic() + seconds
        while not happened():
            logs = {path.name: path.read_text()[-500:] for path in self._folder.glob("*.out")}
            assert time.monotonic() < deadline, (self.waiting(), logs)
            time.sleep(0.2)


def _free_ports() -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
