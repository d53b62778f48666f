"""The stream: every sample exactly once an epoch, the same sequence after a resume, on any number of ranks."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from standins import Views, same, small, stream_of, take
from torch import Tensor

from bridle.archive import Manifest, Shard, TarWriter, parse_description
from bridle.errors import ConfigError, DataError, MediaError
from bridle.inputs import find_sets
from bridle.schema import Clip, Modality
from bridle.sharding import Options, shard
from bridle.stream import ClipStream, iterate
from bridle.stream.order import Cursor, Epochs, Mixture, plan

COUNT = 23
STEPS = 200


def prepare_pixels(clip: Clip, rng: torch.Generator | None) -> Tensor:
    return clip.data


def build(folder: Path, broken: tuple[int, ...] = (), count: int = COUNT) -> Manifest:
    """A set of `count` sounds of 0.15 s to 0.5 s in four tars, written without decoding."""
    folder.mkdir()
    writer = TarWriter(folder, "set", 100_000)
    rng = np.random.default_rng(0)
    decoded = 0
    for number in range(count):
        samples = 2400 + 240 * number
        path = folder / "one.wav"
        soundfile.write(path, rng.uniform(-1, 1, samples), 16000)
        content = b"broken" if number in broken else path.read_bytes()
        path.unlink()
        info = {"suffix": "wav", "duration_s": samples / 16000, "rate_hz": 16000.0, "channels": 1}
        writer.add(
            f"key{number:02d}", "wav", content, {"path": f"{number}.wav", "modality": "audio", "label": None} | info
        )
        decoded += 2 * samples
    writer.close()
    manifest = Manifest("set", Modality.AUDIO, writer.shards, count, 0, decoded_bytes=decoded, folder=folder)
    (folder / "manifest.json").write_text(manifest.to_json())
    return manifest


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return build(tmp_path_factory.mktemp("stream") / "set")


def test_every_sample_comes_once_an_epoch_in_full_batches(manifest: Manifest) -> None:
    batches = take(stream_of(manifest), COUNT)  # 23 batches of 5: five epochs
    assert all(len(batch.keys) == len(batch.tensors) == 5 for batch in batches)
    keys = [key for batch in batches for key in batch.keys]
    epochs = [keys[n * COUNT : (n + 1) * COUNT] for n in range(5)]
    assert all(sorted(epoch) == sorted(epochs[0]) and len(set(epoch)) == COUNT for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5
    other = take(stream_of(manifest, seed=4), 4)
    assert [batch.keys for batch in other] != [batch.keys for batch in batches[:4]]


def test_windows_are_random_parts_of_the_right_length(manifest: Manifest) -> None:
    batches = take(stream_of(manifest), 10)
    whole = {f"key{int(Path(meta['path']).stem):02d}": clip.data for meta, clip in iterate([manifest])}
    starts = []
    for key, tensor in ((k, t) for batch in batches for k, t in zip(batch.keys, batch.tensors, strict=True)):
        view = tensor[:-1]
        assert len(view) == 1600
        fits = (whole[key].unfold(0, 1600, 1) == view).all(1).nonzero()
        assert len(fits) == 1
        starts.append(fits.item() / (len(whole[key]) - 1600))
    assert min(starts) < 0.2 and max(starts) > 0.8


@pytest.mark.parametrize("stop", [1, 4, 5, 9])
def test_a_resumed_stream_goes_on_as_if_nothing_had_happened(manifest: Manifest, stop: int) -> None:
    expected = take(stream_of(manifest), 14)
    first = stream_of(manifest)
    take(first, stop)
    state = json.loads(json.dumps(first.state()))
    second = stream_of(manifest)
    second.load(state)
    assert same(take(second, 14 - stop), expected[stop:])
    assert {"epoch": 3, "position": 1, "samples": COUNT}.items() <= second.state().items()


def test_processes_and_cache_change_nothing_but_the_time(manifest: Manifest) -> None:
    expected = take(stream_of(manifest), 9)
    with_processes = stream_of(manifest, workers=2)
    assert same(take(with_processes, 9), expected)
    not_what_was_read_ahead = {"epoch": 1, "position": 22, "samples": COUNT}
    assert not_what_was_read_ahead.items() <= with_processes.state().items()
    for workers in (0, 2):
        cached = stream_of(manifest, workers=workers, cache_gb=1.0)
        assert cached.cached
        for batch, other in zip(take(cached, 9), expected, strict=True):
            assert batch.keys == other.keys
            for tensor, exact in zip(batch.tensors, other.tensors, strict=True):
                assert torch.equal(tensor[-1:], exact[-1:])
                assert torch.allclose(tensor, exact, atol=1 / 32767)
    assert not stream_of(manifest, cache_gb=1e-6).cached


def test_ranks_share_every_step(manifest: Manifest) -> None:
    alone = take(stream_of(manifest, batch_size=6), 10)
    ranks = [take(stream_of(manifest, batch_size=3, rank=rank, world=2), 10) for rank in (0, 1)]
    for step, batch in enumerate(alone):
        assert batch.keys == ranks[0][step].keys + ranks[1][step].keys
        assert batch.places == ranks[0][step].places + ranks[1][step].places == list(range(6))
    # the place means the same to another number of ranks
    cursor = next(itertools.islice(plan(Epochs(COUNT, 0), 3, Cursor(), 0, 2), 4, None))[1]
    assert cursor == next(itertools.islice(plan(Epochs(COUNT, 0), 6, Cursor(), 0, 1), 4, None))[1]


@pytest.mark.parametrize(("samples", "batch", "world"), [(1, 1, 1), (7, 3, 2), (100, 7, 4), (5, 5, 1)])
def test_the_plan_covers_each_epoch_exactly(samples: int, batch: int, world: int) -> None:
    steps = math.ceil(3 * samples / (batch * world))
    ranks = [
        list(itertools.islice(plan(Epochs(samples, 1), batch, Cursor(), rank, world), steps)) for rank in range(world)
    ]
    counts = Counter((request.epoch, request.index) for rank in ranks for step, _ in rank for request in step)
    assert set(counts.values()) == {1}
    assert {(epoch, index) for epoch in range(3) for index in range(samples)} <= set(counts)
    assert all(len(step) == batch for rank in ranks for step, _ in rank)


@pytest.mark.parametrize("samples", [16_384, 16_385, 50_000])
def test_large_corpora_are_shuffled_as_well_and_read_in_runs(samples: int) -> None:
    epochs = [np.array([r.index for r in Epochs(samples, 7).take(Cursor(n, 0), samples)[0]]) for n in range(2)]
    for order in epochs:
        assert len(np.unique(order)) == samples
        assert abs(np.corrcoef(order, np.arange(samples))[0, 1]) < 0.1  # early and late samples come alike
        assert np.mean(np.abs(np.diff(order)) == 1) < 0.01
    assert np.corrcoef(*epochs)[0, 1] < 0.1
    pools = [order[:4096] for order in epochs]
    shared = len(np.intersect1d(*pools)) / 4096
    assert shared < 2.5 * 4096 / samples + 0.02  # who comes together in one epoch does not in the next
    if samples > 40_000:
        touched = np.unique(epochs[0][: 128 * 128] // 128)
        assert len(touched) < 2 * 128 + 2  # a pool needs two runs of the file's blocks each, not the whole corpus


def test_a_pool_of_large_samples_fits_into_memory() -> None:
    """1.2 MB each: 4 GB are 3333 samples; what comes in a row lies in as many at most."""
    order = Epochs(100_000, 0, 0, 1.2e6)
    taken = [one.index for one in order.take(Cursor(), 100_000)[0]]
    assert sorted(taken) == list(range(100_000))
    blocks = [len({index // 128 for index in taken[start : start + 3328]}) for start in range(0, 99_000, 3328)]
    assert max(blocks) <= 4 * 27  # a row reaches over two pools, and a block of them over two of these


@settings(max_examples=30, deadline=None)
@given(samples=st.integers(1, 40_000), seed=st.integers(0, 9), epoch=st.integers(0, 3), data=st.data())
def test_any_place_of_an_epoch_is_found_at_once(samples: int, seed: int, epoch: int, data: st.DataObject) -> None:
    whole, end = Epochs(samples, seed).take(Cursor(epoch, 0), samples)
    assert end == Cursor(epoch, samples) and len(set(whole)) == samples
    at = data.draw(st.integers(0, samples - 1))
    count = data.draw(st.integers(1, 3000))
    assert Epochs(samples, seed).take(Cursor(epoch, at), count)[0][: samples - at] == whole[at : at + count]


@settings(max_examples=30, deadline=None)
@given(
    sets=st.lists(st.tuples(st.integers(0, 500), st.floats(0.01, 10)), min_size=1, max_size=5),
    start=st.integers(0, 5000),
    count=st.integers(1, 3000),
)
def test_a_mixture_keeps_shares_and_epochs(sets: list[tuple[int, float]], start: int, count: int) -> None:
    sizes, weights = zip(*(*sets, (7, 1.0)), strict=True)
    sets = [(size, weight) for size, weight in zip(sizes, weights, strict=True) if size]
    whole, end = Mixture(sizes, weights, 3).take(Cursor(), start + count)
    part, same_end = Mixture(sizes, weights, 3).take(Cursor(0, start), count)
    assert part == whole[start:] and end == same_end
    first = 0
    for size, weight in sets:
        own = [request for request in whole if first <= request.index < first + size]
        assert len(own) == pytest.approx(
            len(whole) * weight / sum(w for _, w in sets), abs=1001 * max(1, len(whole) / 1000) * 0.02 + 60
        )
        for epoch in range(own[-1].epoch if own else 0):  # whole epochs of this set
            assert sorted(r.index for r in own if r.epoch == epoch) == list(range(first, first + size))
        first += size


def test_sets_are_mixed_by_weight_and_resume_so(tmp_path: Path) -> None:
    sets = [build(tmp_path / name, count=count) for name, count in (("a", 4), ("b", 20))]
    sets = [replace(manifest, name=name) for manifest, name in zip(sets, ("a", "b"), strict=True)]
    keys = [f"{number:02d}" for number in range(4)]
    stream = ClipStream(sets, Views(), batch_size=10, mix={"a": 4.0})
    batches = take(stream, 100)
    share = np.mean([key[-2:] in keys for batch in batches for key in batch.keys])
    assert 0.8 < share < 0.9  # four fifths from a, and a fifth of the rest has such keys too
    again = ClipStream(sets, Views(), batch_size=10, mix={"a": 4.0})
    take(again, 37)
    second = ClipStream(sets, Views(), batch_size=10, mix={"a": 4.0})
    second.load(json.loads(json.dumps(again.state())))
    assert same(take(second, 63), batches[37:])
    with pytest.raises(DataError, match=r"data\.mix"):
        ClipStream(sets, Views(), batch_size=10).load(again.state())
    with pytest.raises(ConfigError, match="'b'"):
        ClipStream(sets, Views(), batch_size=10, mix={"bb": 1.0})


def test_two_ranks_go_on_where_one_stopped(manifest: Manifest) -> None:
    first = stream_of(manifest, batch_size=6)
    before = [key for batch in take(first, 2) for key in batch.keys]
    ranks = [stream_of(manifest, batch_size=3, rank=rank, world=2, workers=3) for rank in (0, 1)]
    after = []
    for stream in ranks:
        stream.load(first.state())
        after.append([key for batch in take(stream, 2) for key in batch.keys])
    rest = [key for pair in zip(*after, strict=True) for key in pair][: COUNT - len(before)]
    assert sorted(before + rest) == [f"key{number:02d}" for number in range(COUNT)]


def test_a_small_corpus_makes_small_batches(tmp_path: Path) -> None:
    stream = stream_of(build(tmp_path / "set", count=3), batch_size=64)
    assert stream.batch_size == 3
    assert sorted(take(stream, 1)[0].keys) == ["key00", "key01", "key02"]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_decoded_is_left_out_and_listed(tmp_path: Path, workers: int) -> None:
    manifest = build(tmp_path / "set", broken=(2, 20))
    stream = stream_of(manifest, workers=workers)
    batches = take(stream, 23)
    keys = Counter(key for batch in batches for key in batch.keys)
    assert len(keys) == COUNT - 2 and set(keys.values()) == {5}
    for batch, whole in zip(batches, take(stream_of(build(tmp_path / "whole")), 23), strict=True):
        assert batch.keys == [whole.keys[place] for place in batch.places]  # the others keep their places of the step
    assert sorted(stream.failures) == ["2.wav", "20.wav"]
    failures: dict[str, str] = {}
    assert len(list(iterate([manifest], failures))) == COUNT - 2 and failures == stream.failures


def test_all_failing_is_an_error(tmp_path: Path) -> None:
    manifest = build(tmp_path / "set", broken=tuple(range(COUNT)))
    with pytest.raises(DataError, match="none of 23 samples"):
        take(stream_of(manifest), 1)
    with pytest.raises(DataError, match="none of 23 samples"):
        list(iterate([manifest]))


def test_a_state_of_another_corpus_is_refused(manifest: Manifest) -> None:
    with pytest.raises(DataError, match=r"23 samples, .* 24"):
        stream_of(manifest).load({"epoch": 0, "position": 0, "samples": 24})


def test_a_state_of_other_shards_of_the_same_size_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    state = stream_of(manifest).state()
    stream_of(build(tmp_path / "copy")).load(state)  # the same bytes at another place
    with pytest.raises(DataError, match="differ from those"):
        stream_of(build(tmp_path / "other", broken=(3,))).load(state)


def cut_at(manifest: Manifest, size: int) -> Manifest:
    """The manifest of a tar that was cut and a manifest that was made to fit."""
    path = manifest.folder / manifest.shards[1].file
    path.write_bytes(path.read_bytes()[:size])
    old: Shard = manifest.shards[1]
    manifest.shards[1] = replace(old, bytes=size)
    return manifest


@pytest.mark.parametrize("size", [700, 40_000, 51_200])
def test_a_cut_tar_is_named(tmp_path: Path, size: int) -> None:
    manifest = build(tmp_path / "set")
    path = manifest.folder / manifest.shards[1].file
    with pytest.raises(DataError, match=r"set-000001\.tar .* whole samples|set-000001\.tar .* not a complete tar"):
        stream_of(cut_at(manifest, size))
    path.unlink()
    with pytest.raises(DataError, match=r"set-000001\.tar .* cannot be read"):
        stream_of(manifest)


def test_several_sets_are_one_corpus(tmp_path: Path) -> None:
    sets = [build(tmp_path / name, count=4) for name in ("a", "b")]
    stream = ClipStream(sets, Views(), batch_size=8)
    assert stream.samples == 8
    assert sorted(take(stream, 1)[0].keys) == sorted(2 * [f"key{n:02d}" for n in range(4)])
    assert len(list(iterate(sets))) == 8


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("modality", [Modality.IMAGE, Modality.VIDEO])
def test_pixels_are_the_same_from_cache(sample: Path, tmp_path: Path, modality: Modality) -> None:
    folder = {Modality.IMAGE: "image/life_by_Aitzol_Berasategi", Modality.VIDEO: "video/pan_left"}[modality]
    shard(sample / folder, modality, tmp_path / "set")
    from bridle.inputs import find_sets

    sets = find_sets(tmp_path)
    options = {"batch_size": 4, "seed": 1}
    plain = take(ClipStream(sets, Views(prepare_pixels, lambda info: 0.5), **options), 4)
    cached = ClipStream(sets, Views(prepare_pixels, lambda info: 0.5), cache_gb=1.0, **options)
    assert same(take(cached, 4), plain)
    cached.load({"epoch": 0, "position": 0, "samples": cached.samples})
    assert cached.cached and same(take(cached, 4), plain)


def test_a_rank_without_a_good_sample_keeps_in_step(tmp_path: Path) -> None:
    manifest = build(tmp_path / "set", broken=(3,), count=24)
    ranks = [stream_of(manifest, batch_size=1, rank=rank, world=2) for rank in range(2)]
    taken = [take(rank, 24) for rank in ranks]  # two epochs
    assert ranks[0].state() == ranks[1].state()
    assert sorted(len(batch.keys) for batches in taken for batch in batches) == [0] * 2 + [1] * 46


@pytest.mark.parametrize("workers", [0, 2])
def test_a_reader_killed_at_random_moments_repeats_and_loses_nothing(
    manifest: Manifest, tmp_path: Path, workers: int, one_thread: None
) -> None:
    log, rng, kills = tmp_path / "log", random.Random(0), 0
    log.touch()
    expected = [batch.keys for batch in take(stream_of(manifest), STEPS)]
    while len(lines := log.read_text().splitlines()) < STEPS:
        process = os.fork()
        if process == 0:
            try:
                stream = stream_of(manifest, workers=workers)
                if lines:
                    stream.load(json.loads(lines[-1])["state"])
                for batch in itertools.islice(stream.batches(), STEPS - len(lines)):
                    line = json.dumps({"keys": batch.keys, "state": stream.state()}) + "\n"
                    with open(log, "a") as file:  # as a checkpoint after each step
                        file.write(line)
                    time.sleep(0.01)
            finally:
                os._exit(0)
        while log.read_text().count("\n") == len(lines):  # it goes on by a batch at least, however slow the machine is
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        os.kill(process, signal.SIGKILL)
        kills += os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    assert kills >= 6
    assert [json.loads(line)["keys"] for line in lines] == expected


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 3)])
def test_one_epoch_has_every_sample_for_any_ranks_and_workers(manifest: Manifest, world: int, workers: int) -> None:
    whole = [stream_of(manifest, batch_size=1, rank=rank, world=world, workers=workers) for rank in range(world)]
    keys = [batch.keys[0] for batches in (take(one, COUNT * 2 // world) for one in whole) for batch in batches]
    assert Counter(keys) == {f"key{number:02d}": 2 for number in range(COUNT)}


def test_what_only_its_header_was_looked_at_of_is_not_kept_decoded(shared_data: Path, tmp_path: Path) -> None:
    """It says 444 frames at 15 Hz, and holds 68."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "good.avi").symlink_to(shared_data / "odd" / "cinepak.avi")
    shard(tmp_path / "raw", Modality.VIDEO, tmp_path / "set", options=Options(check="header"))
    patcher = small("video").patcher
    stream = ClipStream(find_sets(tmp_path / "set"), patcher, batch_size=1, cache_gb=2.0)
    assert not stream.cached
    assert all(len(batch.tensors[0]) for batch in take(stream, 8))


@pytest.mark.parametrize(
    "change",
    [
        {"duration_s": "long"}, {"duration_s": [1]}, {"duration_s": math.nan}, {"duration_s": math.inf},
        {"duration_s": -1.0}, {"rate_hz": "x"}, {"rate_hz": True}, {"frames": {}}, {"suffix": ["x"]},
        {"suffix": "x" * 300}, {"suffix": None}, {"path": 3}, {"label": {"a": 1}}, {"labels": 7}, {"labels": [["a"]]},
        {"modality": "smell"}, {"modality": ["audio"]}, {"duration_s": 10**400}, {"frames": 2**63}, {"rate_hz": 1e300},
        {"sha256": 5}, {"sha256": "zz"}, {"sha256": None}, {"path": "\ud800x"}, {"suffix": "\ud800"},
        {"suffix": "../x"},
        {"label": "\ud800"}, {"labels": ["a", "\udfff"]},
    ],
)  # fmt: skip
def test_a_description_that_is_damaged_is_no_sample(change: dict[str, object]) -> None:
    good = {"modality": "audio", "path": "a.wav", "suffix": "wav", "label": None, "duration_s": 1.0, "rate_hz": 8000}
    assert parse_description(json.dumps(good).encode()) == good
    with pytest.raises(MediaError, match="description is damaged"):
        parse_description(json.dumps(good | change).encode())


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"[" * 100_000, b"\xff", b"{"])
def test_what_is_no_description_is_no_sample(content: bytes) -> None:
    with pytest.raises(MediaError, match="description is damaged"):
        parse_description(content)


def test_what_only_its_header_was_looked_at_of_cannot_take_the_reader_along(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "good.avi").symlink_to(shared_data / "odd" / "cinepak.avi")
    options = Options(check="header")
    shard(tmp_path / "raw", Modality.VIDEO, tmp_path / "set", options=options)
    (tmp_path / "raw" / "truncated.avi").symlink_to(shared_data / "odd" / "truncated.avi")  # decord would crash on it
    shard(tmp_path / "raw", Modality.VIDEO, tmp_path / "set", options=options, resume=True)
    (manifest,) = find_sets(tmp_path / "set")
    failures: dict[str, str] = {}
    assert len(list(iterate([manifest], failures))) + len(failures) == 2
