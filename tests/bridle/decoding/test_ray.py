"""A Ray cluster of two nodes, of which parts are killed: the results are those of this machine alone, byte for byte."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import forks
import numpy as np
import pytest
import soundfile
import standins
from standins import content_of, small

from bridle import progress
from bridle.cluster import Cluster, unseen
from bridle.decoding import pool, ray_pool
from bridle.decoding.pool import KILLED
from bridle.decoding.ray_pool import Decoder, Unseen, _judged
from bridle.decoding.server import Failure, Task
from bridle.errors import EnvironmentFault
from bridle.infer import tokenize_inputs
from bridle.schema import Codes, Modality
from bridle.sharding import Options, shard
from bridle.storage import Remote

OPTIONS = Options(max_size_bytes=60_000)
MARK = "BRIDLE_TEST_CLUSTER"
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


class Nodes:
    """Two nodes on this machine, one processor each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as RayCluster

        self.mark = uuid.uuid4().hex
        os.environ[MARK] = self.mark  # the nodes and all their processes inherit it
        os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # by default they wait for all else on a busy machine
        self.cluster = RayCluster(initialize_head=True, head_node_args=NODE)
        self.second = self.cluster.add_node(**NODE)

    def kill_second(self) -> None:
        from ray._private.worker import global_worker

        if global_worker.node.unique_id == self.second.unique_id:
            pytest.skip("Ray 2.50 has taken the node that is to go for the one that this process runs on")
        self.cluster.remove_node(self.second, allow_graceful=False)

    def kill_workers(self) -> int:
        """SIGKILL to every process of an actor; how many that were."""
        found = list(processes(b"ray::_Actor", self.mark))
        for process in found:
            os.kill(process, signal.SIGKILL)
        return len(found)


def processes(title: bytes, mark: str) -> Iterator[int]:
    """Ours alone: the mark stands in their environment."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"{MARK}={mark}".encode() in (place / "environ").read_bytes().split(b"\0")
            if ours and (place / "cmdline").read_bytes().startswith(title):
                yield int(place.name)
        except OSError:
            continue


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray")
    before = dict(os.environ)
    nodes = Nodes()
    os.environ["RAY_ADDRESS"] = nodes.cluster.address
    yield nodes
    nodes.cluster.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def raw(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-eight sounds and two files that are none."""
    raw = tmp_path_factory.mktemp("ray") / "raw"
    for path in sorted((sample / "audio").rglob("*.wav"))[:48]:
        (raw / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, raw / path.parent.name)
    (raw / "cut.wav").write_bytes(b"RIFF\x00\x00")
    (raw / "gone.wav").symlink_to(raw / "nowhere.wav")
    return raw


@pytest.fixture(scope="module")
def expected(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The set as this machine alone makes it."""
    out = tmp_path_factory.mktemp("local") / "set"
    assert shard(raw, None, out, options=OPTIONS)["rejected"] == 2
    return content_of(out)


def test_sharding_with_every_worker_killed_on_the_way(
    nodes: Nodes, raw: Path, expected: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if done == 3:
            killed.append(nodes.kill_workers())

    with progress.listening(standins.counting(kill)):
        result = shard(raw, None, tmp_path / "set", options=OPTIONS, workers=None, engine="ray")
    assert killed == [2]
    assert result["samples"] == 48
    assert content_of(tmp_path / "set") == expected
    assert capfd.readouterr().out == ""
    while list(processes(b"ray::_Actor", nodes.mark)):  # pytest bounds the time
        time.sleep(0.1)


def test_files_of_object_storage_are_sent_along(
    nodes: Nodes, raw: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    there = Remote("memory://sounds")
    for path in raw.rglob("*.wav"):
        if path.exists():
            (there / path.relative_to(raw).as_posix()).write_bytes(path.read_bytes())
    result = shard(there, None, tmp_path / "set", options=OPTIONS, workers=1, engine="ray")
    assert [one["file"] for one in result["rejects"]] == ["cut.wav"]
    tars = {name: content for name, content in expected.items() if name.endswith(".tar")}
    assert tars.items() <= content_of(tmp_path / "set").items()


def test_tokens_are_the_same_and_so_are_warnings(
    nodes: Nodes, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wave = 0.1 * np.random.default_rng(0).standard_normal(16000 * 9)
    soundfile.write(tmp_path / "long.wav", wave.astype(np.float32), 16000)
    monkeypatch.chdir(raw.parent)
    inputs = [Path("raw"), tmp_path / "long.wav"]  # tasks run elsewhere than here
    model = small("audio")

    def run(engine: Any) -> tuple[list[Codes], list[str]]:
        warnings: list[str] = []

        def listen(kind: str, **fields: Any) -> None:
            if kind == "warning":
                warnings.append(fields["message"])

        with progress.listening(listen):
            return list(tokenize_inputs(model, inputs, batch_size=5, engine=engine, workers=2)), warnings

    local, ray = run("local"), run("ray")
    assert ray[1] == local[1] and len(local[1]) == 2
    assert [codes.file for codes in ray[0]] == [codes.file for codes in local[0]]
    for here, there in zip(local[0], ray[0], strict=True):
        assert there.times_T == here.times_T
        assert there.codes_THWQ.dtype == here.codes_THWQ.dtype
        assert (there.codes_THWQ == here.codes_THWQ).all()


def test_sharding_goes_on_without_a_node(nodes: Nodes, raw: Path, expected: dict[str, str], tmp_path: Path) -> None:
    def kill(done: int, total: int) -> None:
        if done == 3:
            nodes.kill_second()

    with progress.listening(standins.counting(kill)):
        shard(raw, None, tmp_path / "set", options=OPTIONS, workers=2, engine="ray")
    assert content_of(tmp_path / "set") == expected


# The processes that decode; each says that it has taken a file, and never ends with it.
HANGS = """
import os, signal, sys
from multiprocessing.connection import Connection
from pathlib import Path
from bridle.decoding import server

def work(task):
    Path(os.fsdecode(task.path)).with_suffix(".taken").touch()
    while True:
        signal.pause()

server.work = work
server.nurse(sys.argv[1], [Connection(int(number)) for number in sys.argv[2:]])
"""


def test_the_verdict_of_a_decoder_that_was_killed_waits_for_its_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_pool, "_DYING_S", 1.0)
    monkeypatch.setattr(pool, "python_module", lambda module, *words: [sys.executable, "-c", HANGS, *words])
    (tmp_path / "endless.wav").touch()
    decoder = Decoder(Modality.AUDIO)
    with ThreadPoolExecutor() as threads:
        answers = threads.submit(decoder.work, [Task.of(tmp_path / "endless.wav", Modality.AUDIO)], None)
        while not (tmp_path / "endless.taken").exists():
            time.sleep(0.05)
        nurse = decoder._workers._nurse.pid
        (reading,) = Path(f"/proc/{nurse}/task/{nurse}/children").read_text().split()
        os.kill(int(reading), signal.SIGKILL)
        killed = time.monotonic()
        assert answers.result() == [Failure(KILLED)]
        assert time.monotonic() - killed >= 1.0  # a node that is going down would have taken the actor by now
    decoder._workers.__exit__(None, None, None)


def test_a_file_that_a_node_does_not_see_is_not_rejected(raw: Path) -> None:
    seen, gone = str(raw / "cut.wav").encode(), str(raw / "gone.wav").encode()
    with pytest.raises(EnvironmentFault, match=r"node-7.*does not see.*cut\.wav"):
        _judged(Unseen(seen, "node-7", "cannot be read"))
    assert _judged(Unseen(gone, "node-7", "cannot be read")) == Failure("cannot be read")
    assert "--resume" in unseen(raw, "node-7").hint


def test_without_ray_the_message_says_what_to_install(raw: Path, tmp_path: Path) -> None:
    program = "import sys; sys.modules['ray'] = None; from bridle_cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "shard", str(raw), "--out", str(tmp_path / "set"), "--engine", "ray"]
    done = forks.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (5, "")
    assert "pip install 'bridle[ray]'" in done.stderr


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(EnvironmentFault, match=r"127\.0\.0\.1:9"):
        Cluster()
