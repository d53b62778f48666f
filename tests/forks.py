"""Processes of `bridle` without the seconds that importing PyTorch takes: forked from one that has imported it.

`Popen` and `run` are those of `subprocess`. `python [-P] -m MODULE ...` and `python -c CODE ...` are forked; anything
else starts as usual, and everything does on other systems than Linux. A forked process is a child of the caller, with
its own descriptors, folder, environment and session. Tests of starting itself (options of Python, streams, import
order) use `subprocess`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import inspect
import json
import os
import runpy
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

DEVNULL, TimeoutExpired = subprocess.DEVNULL, subprocess.TimeoutExpired  # this module stands in for `subprocess`
_PR_SET_CHILD_SUBREAPER = 36
_MESSAGE, _FDS = 1 << 20, 64  # bytes and descriptors, at most
_IMPORTED = (
    "torch.distributed.launcher.api", "torch.distributed.run", "torchaudio.functional", "sklearn.cluster", "webdataset",
    "torchvision.transforms.v2.functional", "bridle.api", "bridle.decoding.server", "bridle.train", "bridle.infer",
    "bridle_cli.main",
)  # fmt: skip
_server: list[Any] = []  # the process, the socket to it, and who owns them
_asking = threading.Lock()


class Popen(subprocess.Popen[Any]):
    def _execute_child(self, *arguments: Any) -> None:
        given = inspect.signature(super()._execute_child).bind(*arguments).arguments  # type: ignore[misc]
        words = [os.fspath(word) for word in given["args"]]
        folder = Path(given["cwd"] or Path.cwd())
        flags, rest = (["-P"], words[2:]) if words[1:2] == ["-P"] else ([], words[1:])
        ours = words[0] == sys.executable and rest[:1] in (["-m"], ["-c"]) and not any(folder.glob("*.py"))
        if sys.platform != "linux" or not ours or (_server and _server[2] != os.getpid()):
            super()._execute_child(*arguments)  # type: ignore[misc]
            return
        ends = [given[name] if given[name] >= 0 else at for at, name in enumerate(("p2cread", "c2pwrite", "errwrite"))]
        kept = [*given["pass_fds"]]
        job = {
            "flags": flags, "words": rest, "folder": str(folder), "session": given["start_new_session"],
            "environment": dict(os.environ if given["env"] is None else given["env"]), "kept": kept,
        }  # fmt: skip
        with _asking:
            self.pid = _ask(job, [*ends, *kept])
        self._child_created = True
        self._close_pipe_fds(  # type: ignore[attr-defined]
            *(given[n] for n in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite"))
        )


def run(
    words: list[str], *, capture_output: bool = False, check: bool = False, **options: Any
) -> subprocess.CompletedProcess[Any]:
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(words, **options) as process:
        try:
            out, err = process.communicate()
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(words, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def state(pid: int) -> str:
    """One letter, as `ps` has it; Z: it has ended and is not yet waited for, or is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def alive(pid: int) -> bool:
    return state(pid) not in "ZX"


def children_of(pid: int) -> list[int]:
    """Every child of a process, by the order of its threads."""
    found = list[int]()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found += map(int, task.read_text().split())
    return found


def children() -> dict[int, str]:
    """The command of every child of this process that runs, except those of the tests themselves; Linux only.

    After `adopt_orphans` the descendants whose parents have ended are among them, in whatever session or group.
    """
    found = dict[int, str]()
    own = [_server[0].pid] if _server else []
    for pid in children_of(os.getpid()):
        if pid not in own and alive(pid):
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return {pid: command for pid, command in found.items() if "multiprocessing.resource_tracker" not in command}


def adopt_orphans() -> None:
    """Makes this process the parent of what its descendants leave behind, so that it is found."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def close() -> None:
    """Ends the process that is forked."""
    if _server:
        process, connection, _ = _server
        connection.close()
        process.wait()
        _server.clear()


def _ask(job: dict[str, Any], fds: list[int]) -> int:
    if not _server:
        adopt_orphans()
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, __file__, str(its.fileno())]
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(command, pass_fds=[its.fileno()], env=os.environ | one_thread)
        _server[:] = process, ours, os.getpid()
        its.close()
    connection = _server[1]
    socket.send_fds(connection, [json.dumps(job).encode()], fds)
    return int(connection.recv(_MESSAGE))


def _serve(connection: socket.socket) -> None:
    """Forks a process for each message. Returns in that process, ready to run; ends with the other side."""
    while True:
        message, fds, _, _ = socket.recv_fds(connection, _MESSAGE, _FDS)
        if not message:
            sys.exit()
        reading, writing = os.pipe()
        if not (between := os.fork()):
            if child := os.fork():
                os.write(writing, str(child).encode())
                os._exit(0)  # the child is left to the one that adopts orphans
            os.close(reading)
            os.close(writing)
            job = json.loads(message)
            break
        os.waitpid(between, 0)  # only now it has been adopted
        connection.send(os.read(reading, _MESSAGE))
        os.close(reading)
        os.close(writing)
        for fd in fds:
            os.close(fd)
    connection.close()
    if job["session"]:
        os.setsid()
    high = [os.dup2(fd, 1000 + at) for at, fd in enumerate(fds)]
    for fd in fds:
        os.close(fd)
    for fd, number in zip(high, [0, 1, 2, *job["kept"]], strict=True):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environment"])
    roots = job["environment"].get("PYTHONPATH", "")
    sys.path[:0] = [*([] if job["flags"] else [job["folder"]]), *filter(None, roots.split(os.pathsep))]
    option, name, *arguments = job["words"]
    sys.argv = [option, *arguments]
    if option == "-m":
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        exec(compile(name, "<string>", "exec"), module.__dict__)


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file, which has one called `bridle`, of tests
    for imported in _IMPORTED:
        importlib.import_module(imported)
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
