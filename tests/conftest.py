"""What several test files share."""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import forks
import pytest
import torch

from bridle import api
from bridle.decoding import pool, server
from bridle.decoding.server import Failure, Report, Task
from bridle.schema import Modality

# What takes longest: first, so that two processes end together.
_LONGEST = (
    "test_train_ranks", "test_wheel", "test_docs", "test_train", "test_export_program", "test_report", "test_ray",
    "test_export_huggingface", "test_export_onnx", "test_sharding_resume",
)  # fmt: skip
# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
_ENDING_S = 20.0  # what ends by itself may take so long, on a busy machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes stay out of test ids: some hold the time they were made, and all workers must collect the same ids."""
    return argname if isinstance(val, bytes) else None


def end_what_is_left(before: set[int]) -> None:
    """Fails if children that were not there `before` do not end by themselves, and ends them."""
    deadline = time.monotonic() + _ENDING_S
    while (left := {pid: name for pid, name in forks.children().items() if pid not in before}) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.02)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert not left, f"processes are left: {left}"


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left_by_the_session() -> Iterator[None]:
    forks.adopt_orphans()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "subprocess", forks)
        yield
    forks.close()
    end_what_is_left(set())


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = {*forks.children()}
    yield
    end_what_is_left(before)


class Inline:
    """Stands in for the pool of processes: decodes in this one."""

    def __init__(self, modality: Modality, count: int) -> None: ...

    def __enter__(self) -> Inline:
        return self

    def __exit__(self, *error: object) -> None: ...

    def map(self, tasks: Iterator[Task]) -> Iterator[Report | Failure]:
        return map(server.work, tasks)


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sharding without processes: a second saved for every set of a test that is about something else."""
    monkeypatch.setattr(importlib.import_module("bridle.sharding.build"), "Workers", Inline)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 120 photos, for tests that train on it and leave it as it is."""
    out = tmp_path_factory.mktemp("shards") / "photos"
    api.shard(Path(__file__).parent / "media" / "image", modality="image", out=out, workers=1)
    return out


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Sums in another number of threads round differently, and a forked process waits for ever for its parent's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def sample() -> Path:
    """The small real sample: `audio/`, `image/` and `video/`, each in class folders."""
    return Path(__file__).parent / "media"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The large data folder beside the checkout; the test is skipped where it is absent."""
    folder = Path(__file__).parents[2] / "shared/data"
    if not folder.is_dir():
        pytest.skip(f"needs the data folder {folder}")
    return folder
