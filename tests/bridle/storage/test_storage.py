"""Object storage, against a real S3 server process: what is local stays the same bytes, and broken connections heal."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import forks
import pages
import pytest
import standins
from standins import content_of, free_port, same, small, stream_of, take, told, write_sound

from bridle import api, progress
from bridle.archive import Place, TarReader, load_index, tar_of
from bridle.checkpoint import save_model, snapshot
from bridle.errors import DataError, EnvironmentFault, UsageError
from bridle.infer import tokenize_inputs
from bridle.inputs import find_sets
from bridle.sharding import Options, shard, verify
from bridle.storage import Cache, Remote, cache, locate, remote
from bridle_cli.main import main

pytest.importorskip("s3fs")
pytest.importorskip("moto")

pytestmark = pytest.mark.usefixtures("one_thread")  # the tests fork
SECRET = "a-secret-that-nobody-may-see"
BUCKET = Remote("s3://media")


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of an S3 server on this machine."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield port
    process.kill()
    process.wait()


@pytest.fixture
def bucket(server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    """An empty bucket, and a cache of its own."""
    use(monkeypatch, server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("BRIDLE_CACHE", str(tmp_path / "cache"))
    files().mkdir("media")
    yield BUCKET
    use(monkeypatch, server)
    files().rm("media", recursive=True)


def use(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Let everything that comes ask this server; the libraries read the environment once."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    s3fs.S3FileSystem.clear_instance_cache()


def files() -> object:
    import fsspec

    return fsspec.filesystem("s3", use_listings_cache=False)


def put(folder: Path, to: Remote) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            (to / path.relative_to(folder).as_posix()).upload(path)


def content_in(folder: Remote) -> dict[str, str]:
    return {entry.name: told(entry.name, (folder / entry.name).read_bytes()) for entry in folder.entries()}


def test_the_page_on_object_storage_is_true(
    bucket: Remote, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: None
) -> None:
    monkeypatch.chdir(tmp_path)
    put(sample / "audio" / "7", bucket / "raw" / "7")
    put(sample / "audio" / "1", bucket / "raw" / "1")
    (block,) = [block for block in pages.blocks("docs/howto/object-storage.md") if block.runs]
    for command in [*block.commands, "bridle shard info s3://media/shards/birds"]:
        short = " --steps 2" if "pretrain" in command else ""
        assert main(shlex.split(command + short)[1:]) == 0, command
    assert api.shard_info("s3://media/shards/birds")[0]["samples"] == 60


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Thirty sounds in three classes, and two files that are none."""
    for number in range(30):
        write_sound(tmp_path / "raw" / f"class{number % 3}" / f"{number}.wav", number)
    (tmp_path / "raw" / "class0" / "broken.wav").write_bytes(b"RIFF")
    (tmp_path / "raw" / "class1" / "empty.wav").touch()
    return tmp_path / "raw"


@pytest.fixture
def shards(raw: Path, tmp_path: Path, bucket: Remote, inline: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set here and, as `s3://media/set`, there; its tars have several blocks."""
    monkeypatch.setattr(cache, "BLOCK_BYTES", 4096)
    shard(raw, None, tmp_path / "set", options=Options(max_size_bytes=20_000))
    put(tmp_path / "set", bucket / "set")
    return tmp_path / "set"


@pytest.mark.usefixtures("inline")
def test_sharding_there_gives_the_bytes_of_sharding_here(raw: Path, tmp_path: Path, bucket: Remote) -> None:
    options = Options(max_size_bytes=12_000)
    here = shard(raw, None, tmp_path / "here" / "set", options=options)
    put(raw, bucket / "raw")
    (bucket / "raw" / ".hidden" / "x.wav").write_bytes(b"RIFF")
    there = shard(bucket / "raw", None, bucket / "set", options=options)
    expected = content_of(tmp_path / "here" / "set")
    assert content_in(bucket / "set") == expected
    assert {**there, "seconds": 0, "out": ""} == {**here, "seconds": 0, "out": ""}
    assert len(there["rejects"]) == 2
    assert not list((tmp_path / "cache" / "building").glob("*/.partial"))
    assert shard(bucket / "raw", None, tmp_path / "mixed" / "set", options=options)["samples"] == 30
    assert content_of(tmp_path / "mixed" / "set") == expected
    with pytest.raises(UsageError, match="already exists and holds"):
        shard(raw, None, bucket / "set", options=options)


@pytest.mark.usefixtures("inline")
def test_a_set_there_grows_and_is_replaced(raw: Path, tmp_path: Path, bucket: Remote) -> None:
    options = Options(max_size_bytes=12_000)
    for out in (tmp_path / "set", bucket / "set"):
        shard(raw, None, out, options=options)
    write_sound(raw / "class1" / "new.wav", 99)
    for out in (tmp_path / "set", bucket / "set"):
        shard(raw, None, out, options=options, resume=True)
    assert content_in(bucket / "set") == content_of(tmp_path / "set")
    (manifest,) = find_sets(bucket / "set")
    assert manifest.samples == 31
    shard(raw / "class1", None, bucket / "set", name="other", options=options, overwrite=True)
    shard(raw / "class1", None, tmp_path / "other", name="other", options=options)
    assert content_in(bucket / "set") == content_of(tmp_path / "other")


@pytest.mark.usefixtures("inline")
def test_killed_on_the_way_there_it_goes_on(raw: Path, tmp_path: Path, bucket: Remote, server: int) -> None:
    options = Options(max_size_bytes=12_000)
    shard(raw, None, tmp_path / "set", options=options)
    script = (
        "import sys; from bridle import api; from conftest import Inline; import importlib;"
        "importlib.import_module('bridle.sharding.build').Workers = Inline;"
        "api.shard(sys.argv[1], out='s3://media/set', workers=1, max_size_bytes=12_000, resume='resume' in sys.argv)"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[3]), str(Path(__file__).parents[2])])
    command = [sys.executable, "-c", script, str(raw)]
    environment = os.environ | {"PYTHONPATH": paths}
    for tars in (1, 3):
        process = forks.Popen([*command, "resume"][: None if tars > 1 else -1], env=environment)
        while len([name for name in content_names(bucket / "set") if name.endswith(".tar")]) < tars:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert "manifest.json" not in content_names(bucket / "set")
    with pytest.raises(DataError, match="no shards below"):
        find_sets(bucket / "set")
    with pytest.raises(UsageError, match="interrupted"):
        shard(raw, None, bucket / "set", options=options)
    shard(raw, None, bucket / "set", options=options, resume=True)
    assert content_in(bucket / "set") == content_of(tmp_path / "set")


def content_names(folder: Remote) -> list[str]:
    try:
        return [entry.name for entry in folder.entries()]
    except FileNotFoundError:
        return []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_from_there_is_the_stream_from_here(shards: Path, workers: int) -> None:
    (here,), (there,) = find_sets(shards), find_sets(locate("s3://media/set/"))
    expected = take(stream_of(here), 12)
    stream = stream_of(there, workers=workers)
    assert same(take(stream, 5), expected[:5])
    later = stream_of(there, workers=workers)
    later.load(stream.state())
    assert same(take(later, 7), expected[5:])
    assert not stream.failures


def test_a_set_without_an_index_is_read_from_its_headers(shards: Path, bucket: Remote) -> None:
    for entry in (bucket / "set").entries():
        if entry.name.startswith("index-"):
            (bucket / "set" / entry.name).unlink()
    (here,), (there,) = find_sets(shards), find_sets(bucket / "set")
    assert same(take(stream_of(there), 6), take(stream_of(here), 6))
    assert verify(there, decode=3)["samples"] == 30


def test_the_cache_has_a_limit(shards: Path, bucket: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDLE_CACHE_GB", str(3 * 4096 / 1e9))
    (here,), (there,) = find_sets(shards), find_sets(bucket / "set")
    assert same(take(stream_of(there), 12), take(stream_of(here), 12))
    kept = [path.stat().st_size for path in Cache().folder.iterdir()]
    assert 0 < sum(kept) <= 3 * 4096


def test_a_block_that_was_damaged_here_is_fetched_again(shards: Path, bucket: Remote) -> None:
    (here,), (there,) = find_sets(shards), find_sets(bucket / "set")
    expected = take(stream_of(here), 6)
    assert same(take(stream_of(there), 6), expected)
    for path in Cache().folder.glob("*-[0-9]"):
        path.write_bytes(bytes(path.stat().st_size))
    assert same(take(stream_of(there), 6), expected)


def test_what_was_altered_or_cut_there_is_named(shards: Path, bucket: Remote) -> None:
    (there,) = find_sets(bucket / "set")
    tar = bucket / "set" / there.shards[0].file
    content = tar.read_bytes()
    row = load_index(bucket / "set", there.shards)[0]
    place = Place.of(tar_of(there.folder, there.shards[0]), row, "media")
    tar.write_bytes(content[: place.offset] + bytes(place.bytes) + content[place.offset + place.bytes :])
    with pytest.raises(DataError, match="was changed"):
        TarReader().read(place)
    with pytest.raises(DataError, match=f"{there.shards[0].file} does not match"):
        verify(there, decode=0)
    tar.write_bytes(content[:5000])
    with pytest.raises(DataError, match="has 5000 bytes"):
        find_sets(bucket / "set")
    tar.unlink()
    with pytest.raises(DataError, match=f"{there.shards[0].file} does not match.*No such file"):
        find_sets(bucket / "set")


class Relay:
    """Between a client and the server; says how much of an answer gets through before the line breaks."""

    def __init__(self, server: int, broken: Callable[[int], int | None]) -> None:
        self.connections = 0
        self._server, self._broken = server, broken
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", self._server))
            left = self._broken(self.connections)
            threading.Thread(target=self._pump, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, left), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, left: int | None) -> None:
        try:
            while (part := source.recv(4096)) and (left is None or left > 0):
                target.sendall(part if left is None else part[:left])
                left = None if left is None else left - len(part)
        except OSError:
            pass
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # wakes the other direction too

    def close(self) -> None:
        self._listener.close()


@pytest.mark.usefixtures("inline")
def test_broken_connections_cost_time_alone(
    shards: Path, raw: Path, bucket: Remote, server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_PAUSE_S", 0.001)
    monkeypatch.setattr(remote, "_PART_BYTES", 10_000)
    put(raw, bucket / "raw")
    big = os.urandom(200_000)
    (bucket / "big.bin").write_bytes(big)
    expected = take(stream_of(find_sets(shards)[0]), 8)
    relay = Relay(server, lambda number: [None, 0, 700, 6000][number % 4])
    use(monkeypatch, relay.port)
    assert (bucket / "big.bin").read_bytes() == big
    assert same(take(stream_of(find_sets(bucket / "set")[0]), 8), expected)
    shard(bucket / "raw", None, bucket / "again" / "set", options=Options(max_size_bytes=20_000))
    relay.close()
    assert relay.connections > 10
    use(monkeypatch, server)
    assert content_in(bucket / "again" / "set") == content_of(shards)


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: Callable[[int], Exception | None]) -> list[int]:
    """Lets one kind of request fail, as `error` says of each; the list has how many there were."""
    import s3fs

    real, calls = getattr(s3fs.S3FileSystem, name), [0]

    async def request(self: object, *arguments: object, **names: object) -> object:
        calls[0] += 1
        if (wrong := error(calls[0])) is not None:
            raise wrong
        return await real(self, *arguments, **names)

    s3fs.S3FileSystem.clear_instance_cache()  # they bind their requests
    monkeypatch.setattr(s3fs.S3FileSystem, name, request)
    return calls


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("again", ["resume", "overwrite"])
def test_an_overwrite_that_fails_goes_on(
    raw: Path, tmp_path: Path, bucket: Remote, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    options = Options(max_size_bytes=12_000)
    shard(raw / "class1", None, bucket / "set", options=options)
    before = content_in(bucket / "set")
    with monkeypatch.context() as patch:
        failing(patch, "_put_file", lambda number: PermissionError(13, "Access Denied") if number > 3 else None)
        with pytest.raises(EnvironmentFault, match="Access Denied"):
            shard(raw, None, bucket / "set", options=options, overwrite=True)
    use(monkeypatch, int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2]))
    assert content_names(bucket / "set") == [name for name in before if name != "manifest.json"]
    with pytest.raises(UsageError, match="interrupted"):
        shard(raw, None, bucket / "set", options=options)
    shard(raw, None, bucket / "set", options=options, resume=again == "resume", overwrite=again == "overwrite")
    shard(raw, None, tmp_path / "set", options=options)
    assert content_in(bucket / "set") == content_of(tmp_path / "set")


@pytest.mark.usefixtures("inline")
def test_a_set_that_another_machine_writes_meanwhile_is_kept(
    raw: Path, tmp_path: Path, bucket: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(max_size_bytes=12_000)

    def meanwhile(done: int, total: int) -> None:
        if done == 1:  # before the first tar is there
            monkeypatch.setenv("BRIDLE_CACHE", str(tmp_path / "cache of the other"))
            with progress.listening(progress.silent):
                shard(raw / "class1", None, bucket / "set", options=options)

    wanted = pytest.raises(UsageError, match="another process has written")
    with wanted, progress.listening(standins.counting(meanwhile)):
        shard(raw, None, bucket / "set", options=options)
    assert find_sets(bucket / "set")[0].samples == 10


@pytest.mark.usefixtures("inline")
def test_a_token_that_ends_rejects_no_file(raw: Path, bucket: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    put(raw, bucket / "raw")

    def expired(number: int) -> Exception | None:
        return PermissionError(13, "The provided token has expired.") if number > 12 else None

    with monkeypatch.context() as patch:
        failing(patch, "_cat_file", expired)
        with pytest.raises(EnvironmentFault, match="token has expired"):
            shard(bucket / "raw", None, bucket / "set", options=Options(max_size_bytes=12_000))
    use(monkeypatch, int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2]))
    done = shard(bucket / "raw", None, bucket / "set", options=Options(max_size_bytes=12_000), resume=True)
    assert (done["samples"], done["rejected"]) == (30, 2)


def test_a_connection_that_breaks_is_no_answer(bucket: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PAUSE_S", 0.0)
    (bucket / "x").write_bytes(b"1")
    calls = failing(monkeypatch, "_info", lambda number: ConnectionError("reset") if number % 2 else None)
    assert (bucket / "x").is_file() and (bucket / "x").exists() and not (bucket / "x").is_dir()
    assert not (bucket / "y").exists() and calls == [8]


def test_an_object_that_is_replaced_while_it_is_read(bucket: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PART_BYTES", 1000)
    (bucket / "x").write_bytes(bytes(2500))
    parts = (bucket / "x").parts()
    next(parts)
    (bucket / "x").write_bytes(b"1" * 2500)
    with pytest.raises(OSError, match="changed while being read"):
        list(parts)


def test_a_block_is_fetched_once(bucket: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    (bucket / "x").write_bytes(bytes(range(256)) * 400)
    known = Remote("s3://media/x", version="of x")
    calls = failing(monkeypatch, "_cat_file", lambda number: None)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda at: Cache().read(known, at, 10), range(80)))
    assert found == [bytes(range(at, at + 10)) for at in range(80)] and calls == [1]


def test_blocks_of_one_file_come_at_the_same_time(bucket: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """And before they are asked for: the first step is given out when later ones are on their way."""
    monkeypatch.setattr(cache, "BLOCK_BYTES", 4096)
    for number in range(40):
        write_sound(Path(os.environ["BRIDLE_CACHE"]).parent / "more" / f"{number}.wav", number)
    shard(Path(os.environ["BRIDLE_CACHE"]).parent / "more", None, bucket / "one")
    (there,) = find_sets(bucket / "one")
    assert len(there.shards) == 1
    stream = stream_of(there)
    at_once, most, lock = 0, 0, threading.Lock()
    real = Remote.read_at

    def slow(self: Remote, offset: int, size: int) -> bytes:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.05)
        content = real(self, offset, size)
        with lock:
            at_once -= 1
        return content

    monkeypatch.setattr(Remote, "read_at", slow)
    take(stream, 2)
    assert most > 2


def test_a_process_that_is_forked_while_blocks_come_waits_for_nobody(bucket: Remote) -> None:
    """What a fork inherits of a lock must not outlive its owner."""
    (bucket / "x").write_bytes(bytes(1000))
    known, entered, leave = Remote("s3://media/x", version="of x"), threading.Event(), threading.Event()

    def hold() -> None:
        with Cache()._alone("a block"):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait()
    process = os.fork()
    if not process:
        time.sleep(600)  # with the lock's file open
        os._exit(0)
    leave.set()
    thread.join()
    try:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(lambda: Cache()._alone("a block").__enter__()).result(120) is None
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    assert Cache().read(known, 0, 5) == bytes(5)


@pytest.mark.parametrize("said", ["inf", "nan", "-1", "1e400", "many"])
def test_a_limit_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("BRIDLE_CACHE_GB", said)
    with pytest.raises(EnvironmentFault, match="BRIDLE_CACHE_GB"):
        Cache()


def test_a_cache_that_takes_nothing_costs_speed_alone(
    shards: Path, bucket: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here,), (there,) = find_sets(shards), find_sets(bucket / "set")
    monkeypatch.setenv("BRIDLE_CACHE", "/proc/nothing")
    assert "media_crc" in (load_index(there.folder, there.shards).dtype.names or ())
    assert same(take(stream_of(there), 3), take(stream_of(here), 3))


@pytest.mark.usefixtures("inline")
def test_odd_keys_and_tables_of_labels(raw: Path, bucket: Remote, capfd: pytest.CaptureFixture[str]) -> None:
    content = (raw / "class0" / "0.wav").read_bytes()
    for key in ("a b/ü+%20#.wav", "a b/[x]*?.WAV", "b//lost.wav"):
        files().pipe_file(f"media/odd/{key}", content)
    (bucket / "labels.csv").write_bytes('path,label\na b/ü+%20#.wav,one\n"[x]*?.WAV",two\n'.encode())
    done = api.shard("s3://media/odd", out="s3://media/set", labels="s3://media/labels.csv", workers=1)
    assert (done["samples"], done["labels"]) == (2, ["one", "two"])
    assert [one["file"] for one in done["rejects"]] == ["b//"]
    assert main(["shard", "s3://media/odd", "--out", "s3://nobucket/set"]) == 4
    assert "no bucket s3://nobucket" in capfd.readouterr().err


def test_a_server_that_is_gone_is_the_environments_fault(
    bucket: Remote, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remote, "_PAUSE_S", 0.0)
    put(raw, bucket / "raw")
    use(monkeypatch, free_port())
    for command in (
        ["shard", "s3://media/raw", "--out", str(tmp_path / "set")],
        ["shard", str(raw), "--out", "s3://media/set"],
        ["pretrain", "--shards", "s3://media/set"],
    ):
        assert main(command) == 5, command
        said = capfd.readouterr().err
        assert "s3://media" in said and "tried 8 times" in said and SECRET not in said and "bug" not in said, said


def test_no_credentials_is_said_at_once(
    bucket: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    assert main(["shard", "info", "s3://media/set"]) == 5
    assert "no credentials" in capfd.readouterr().err
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("pipe://rm", "not a supported storage"),
        ("pickle://x", "not a supported storage"),
        ("s3://key:secret@bucket/x", "credentials"),
        ("https://host/set?X-Amz-Signature=abc", "credentials or a query"),
        ("s3://", "names no bucket"),
    ],
)
def test_other_addresses_are_refused(place: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        locate(place)
    assert "secret@" not in str(caught.value) and "abc" not in str(caught.value)


def test_local_places_stay_paths() -> None:
    for place in ("a/b", "/a/b", "C:x", "pipe:ls", "a:b/c"):
        assert locate(place) == Path(place)
    assert locate("file:///a/b%20c") == locate("file://localhost/a/b%20c") == Path("/a/b c")
    assert locate("s3://bucket/a//") == Remote("s3://bucket/a")


def test_a_missing_library_has_a_remedy() -> None:
    code = "import sys; sys.modules['s3fs'] = None; from bridle_cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "shard", "info", "s3://media/set"]
    done = forks.run(command, capture_output=True, text=True)
    assert done.returncode == 5 and "pip install 'bridle[s3]'" in done.stderr


def test_a_run_from_there_keeps_no_secret(
    shards: Path, tmp_path: Path, bucket: Remote, capfd: pytest.CaptureFixture[str]
) -> None:
    sets = "encoder.width=16 encoder.depth=1 predictor.depth=1 quantizer.codes=4 optim.batch_size=8 data.workers=1"
    options = [word for one in sets.split() for word in ("--set", one)]
    run = tmp_path / "run"
    assert main(["pretrain", "--shards", "s3://media/set", "--out", str(run), "--steps", "4", *options, "--debug"]) == 0
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err
    written = [path for path in run.rglob("*") if path.is_file()]
    assert len(written) > 5 and not any(SECRET.encode() in path.read_bytes() for path in written)
    assert '"s3://media/set"' in (run / "state.json").read_text()
    codes = {}
    for data in (str(shards), "s3://media/set"):
        codes[data] = list(api.tokenize([data], checkpoint=run))
    assert codes[str(shards)] == codes["s3://media/set"]
    shutil.rmtree(Cache().folder)
    assert main(["eval", "--task", "folder", "--data", "s3://media/set", "--checkpoint", str(run), "--folds", "2"]) == 0


@pytest.mark.usefixtures("inline")
def test_files_there_have_the_codes_of_files_here(raw: Path, bucket: Remote) -> None:
    put(raw, bucket / "raw")
    model = small("audio")
    here = list(tokenize_inputs(model, [raw]))
    there = list(tokenize_inputs(model, [bucket / "raw"]))
    assert [one.file for one in here] == [one.file for one in there] and len(here) == 30
    assert all((a.codes_THWQ == b.codes_THWQ).all() for a, b in zip(here, there, strict=True))
    (one,) = tokenize_inputs(model, [bucket / "raw" / "class1" / "1.wav"])
    assert one.file == "s3://media/raw/class1/1.wav"


@pytest.mark.usefixtures("inline")
def test_codes_of_files_there_are_written_there(raw: Path, bucket: Remote, tmp_path: Path) -> None:
    put(raw, bucket / "raw")
    save_model(snapshot(small("audio")), tmp_path)
    outs = str(tmp_path / "here.codes"), "s3://media/codes/there.codes"
    for out, workers in zip(outs, (0, 2), strict=True):
        result = api.write_codes(["s3://media/raw"], out, checkpoint=tmp_path, workers=workers)
        assert (result["files"], result["out"], result["bytes"]) == (30, out, (tmp_path / "here.codes").stat().st_size)
    assert (bucket / "codes" / "there.codes").read_bytes() == (tmp_path / "here.codes").read_bytes()
    assert not list(cache.cache_folder().glob("building/*"))
    with pytest.raises(UsageError, match="exists"):
        api.write_codes(["s3://media/raw"], outs[1], checkpoint=tmp_path)


@pytest.mark.usefixtures("inline")
def test_codes_on_their_way_there(raw: Path, bucket: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed when they had come there, with another object there meanwhile, and without a bucket."""
    save_model(snapshot(small("audio")), tmp_path)
    out, upload = bucket / "codes.npz", Remote.upload
    work = {"checkpoint": tmp_path, "workers": 0}

    def cut(self: Remote, source: Path) -> None:
        upload(self, source)
        os._exit(9)

    if not (child := os.fork()):
        Remote.upload = cut  # type: ignore[method-assign]
        api.write_codes([raw / "class0"], out.url, **work)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    whole = out.read_bytes()
    out.write_bytes(whole[:-1] + b"?")
    with pytest.raises(UsageError, match="exists"):
        api.write_codes([raw / "class0"], out.url, resume=True, **work)
    out.write_bytes(whole)
    assert api.write_codes([raw / "class0"], out.url, resume=True, **work)["files"] == 10
    assert out.read_bytes() == whole and not list(cache.cache_folder().glob("building/*"))

    with pytest.raises(DataError, match="there is no bucket s3://nowhere"):
        api.write_codes([raw], "s3://nowhere/c.codes", checkpoint=tmp_path / "nothing is loaded")

    def gone(self: Remote, source: Path) -> None:
        raise FileNotFoundError(2, "No such file or directory", self.url)

    monkeypatch.setattr(Remote, "upload", gone)
    with pytest.raises(EnvironmentFault, match="cannot be written") as caught:
        api.write_codes([raw / "class0"], (bucket / "late.codes").url, **work)
    assert "continue with --resume" in caught.value.hint
    assert list(cache.cache_folder().glob("building/*/000000"))
