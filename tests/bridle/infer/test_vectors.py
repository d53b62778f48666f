"""Embeddings of many files, the file that holds them, and what is like what."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from standins import small

from bridle import api, progress
from bridle.checkpoint import save_model, snapshot
from bridle.errors import DataError, MediaError, UsageError
from bridle.formats import read_vectors, write_vectors
from bridle.formats.codes import read_codes, write_codes
from bridle.formats.vectors import PART, SUFFIXES, VectorsFile, join_vectors
from bridle.infer import Index, Pretrained, write_embeddings
from bridle.inputs.listing import Listing
from bridle.schema import Codes, Embedded, Modality

ABOUT = {"model": "abc", "checkpoint": "runs/x", "per": "step", "pool": "mean", "inputs": ["/media"]}
MEDIA = Path(__file__).parents[2] / "media"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits of two speakers, and a file that cannot be read."""
    root = tmp_path_factory.mktemp("media") / "digits"
    for source in [
        *sorted((MEDIA / "audio" / "7").glob("*_theo_*"))[:3],
        *sorted((MEDIA / "audio" / "1").glob("*"))[:3],
    ]:
        (root / source.parent.name).mkdir(parents=True, exist_ok=True)
        (root / source.parent.name / source.name).write_bytes(source.read_bytes())
    (root / "1" / "cut.wav").write_bytes(b"RIFF\x00\x00")
    return root


def test_links_to_nothing_and_sets_of_equal_names(sample: Path, tmp_path: Path, inline: None) -> None:
    (tmp_path / "raw").mkdir()
    shutil.copy(sample / "audio" / "7" / "7_theo_0.wav", tmp_path / "raw" / "a.wav")
    (tmp_path / "raw" / "gone.wav").symlink_to("nowhere")
    said = write_embeddings(small("audio"), [tmp_path / "raw"], tmp_path / "v.npz")
    assert said is not None and said["failures"] == [{"file": "gone.wav", "reason": "a broken link"}]
    for name in ("x", "y"):
        api.shard(tmp_path / "raw", out=tmp_path / "sets" / name)
    write_embeddings(small("audio"), [tmp_path / "sets"], tmp_path / "sets.npz")
    assert read_vectors(tmp_path / "sets.npz").files == ["x/a.wav", "y/a.wav"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    save_model(snapshot(small("audio")), place)
    return place


@pytest.fixture(scope="module")
def index(folder: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("index") / "vectors.npz"
    api.embed([folder], out, checkpoint=checkpoint)
    return out


def some_vectors() -> list[Embedded]:
    rows = torch.Generator().manual_seed(0)
    return [
        Embedded(
            name,
            torch.randn(count, 5, generator=rows),
            [0.5 * i for i in range(count)],
            torch.arange(3 * count).view(-1, 3),
        )
        for name, count in {"ü b.c.wav": 3, "a/one.wav": 1, "a/two.wav": 2}.items()
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("half", [False, True])
def test_a_vectors_file_gives_back_what_was_written(tmp_path: Path, suffix: str, half: bool) -> None:
    whole, joined, wanted = tmp_path / f"whole{suffix}", tmp_path / f"joined{suffix}", some_vectors()
    about = ABOUT
    write_vectors(whole, wanted, about, half=half)
    for number, some in enumerate([wanted[:2], [], wanted[2:]]):
        write_vectors(tmp_path / f"part{number}", some, {}, half=half, suffix=PART)
    said = join_vectors(joined, [tmp_path / f"part{number}" for number in range(3)], about, suffix)
    assert said == {"files": 3, "vectors": 6, "width": 5}
    exact = torch.cat([one.vectors_RD for one in wanted]).numpy().astype(np.float16 if half else np.float32)
    for found in (read_vectors(whole), read_vectors(joined)):
        assert found.files == ["ü b.c.wav", "a/one.wav", "a/two.wav"]
        assert found.file_R.tolist() == [0, 0, 0, 1, 2, 2]
        assert found.vectors_RD.dtype == exact.dtype and np.array_equal(found.vectors_RD, exact)
        assert found.times_R.tolist() == [0, 0.5, 1, 0, 0, 0.5]
        assert found.coords_R3[:, 0].tolist() == [0, 3, 6, 0, 0, 3]
        assert (found.about["model"], found.about["per"]) == ("abc", "step")


def test_a_vectors_file_can_be_read_without_this_library(tmp_path: Path) -> None:
    import pyarrow.parquet

    for suffix in SUFFIXES:
        write_vectors(tmp_path / f"v{suffix}", some_vectors(), ABOUT)
    with np.load(tmp_path / "v.npz", allow_pickle=False) as arrays:
        header = json.loads(arrays["header"].tobytes())
        assert header["files"][1] == "a/one.wav" and arrays["counts"].tolist() == [3, 1, 2]
    assert load_file(tmp_path / "v.safetensors")["vectors"].shape == (6, 5)
    table = pyarrow.parquet.read_table(tmp_path / "v.parquet")
    assert table.column_names == ["number", "file", "time", "step", "row", "column", "vector"]
    assert len(table["vector"][0].as_py()) == 5


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_vectors_files_are_refused(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"vectors{suffix}"
    write_vectors(out, some_vectors(), ABOUT)
    whole = out.read_bytes()
    for size in (0, 3, len(whole) // 2, len(whole) - 1):
        out.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"damaged|not a"):
            read_vectors(out)
    with pytest.raises(DataError, match="does not exist"):
        read_vectors(tmp_path / f"none{suffix}")
    with pytest.raises(DataError, match="is a folder"):
        read_vectors(tmp_path)
    out.unlink()
    write_vectors(out, some_vectors(), {**ABOUT, "version": 2})
    with pytest.raises(DataError, match="version 2"):
        read_vectors(out)


def test_a_table_of_other_types_is_refused(tmp_path: Path) -> None:
    import pyarrow.parquet

    write_vectors(path := tmp_path / "v.parquet", some_vectors()[1:2], ABOUT)
    whole = pyarrow.parquet.read_table(path)
    for name, wrong in (
        ("file", pyarrow.array([None], pyarrow.string())),
        ("number", pyarrow.array([None], pyarrow.int64())),
        ("time", pyarrow.array(["x"])),
        ("time", pyarrow.array([None], pyarrow.float64())),
        ("row", pyarrow.array([0.5])),
        ("vector", pyarrow.array([None], pyarrow.list_(pyarrow.float32(), 5))),
        ("vector", pyarrow.array([[1, 2]], pyarrow.list_(pyarrow.int32(), 2))),
        ("vector", pyarrow.array([[1.0, 2.0]])),
    ):
        pyarrow.parquet.write_table(whole.set_column(whole.column_names.index(name), name, wrong), path)
        with pytest.raises(DataError, match=r"v\.parquet is"):
            read_vectors(path)


def test_a_file_gets_the_vector_that_it_gets_alone(folder: Path, tmp_path: Path) -> None:
    model = small("audio")
    alone, told = Pretrained(model), list[str]()
    with progress.listening(lambda kind, **said: told.append(said.get("message", ""))):
        said = write_embeddings(model, [folder], tmp_path / "v.npz", part_files=4)
    assert said is not None
    assert (said["files"], said["vectors"], said["skipped"]) == (6, 6, 1)
    assert [one["file"] for one in said["failures"]] == ["1/cut.wav"] and any("cut.wav" in one for one in told)
    found = read_vectors(tmp_path / "v.npz")
    assert found.files == sorted(found.files) and found.about["skipped"] == said["failures"]
    for file, vector_D in zip(found.files, found.vectors_RD, strict=True):
        assert torch.allclose(torch.from_numpy(vector_D), alone.embed(folder / file), atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["v.npz"]


def test_steps_and_patches_average_to_the_file(folder: Path, tmp_path: Path) -> None:
    model, found = small("audio"), dict[str, VectorsFile]()
    kinds: tuple[Literal["file", "step", "patch"], ...] = ("file", "step", "patch")
    for per in kinds:
        write_embeddings(model, [folder], tmp_path / f"{per}.safetensors", per=per)
        found[per] = read_vectors(tmp_path / f"{per}.safetensors")
    for file in range(6):
        steps, patches = (found[per].file_R == file for per in ("step", "patch"))
        for rows, per in ((steps, "step"), (patches, "patch")):  # every step has all rows
            mean_D = found[per].vectors_RD[rows].mean(0)
            assert np.allclose(mean_D, found["file"].vectors_RD[file], atol=1e-5)
        assert patches.sum() == 2 * steps.sum()
        assert found["step"].times_R[steps].tolist() == pytest.approx([0.16 * step for step in range(steps.sum())])
        assert found["patch"].times_R[patches][:2].tolist() == [0, 0]
        assert found["patch"].coords_R3[patches][:2].tolist() == [[0, 0, 0], [0, 1, 0]]


def test_interrupted_and_resumed_is_the_same_to_the_byte(folder: Path, tmp_path: Path) -> None:
    model, whole, cut = small("audio"), tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    write_embeddings(model, [folder], whole, part_files=2)

    def interrupt(kind: str, **said: Any) -> None:
        if kind == "progress" and said["done"] > 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), progress.listening(interrupt):
        write_embeddings(model, [folder], cut, part_files=2)
    assert not cut.exists()
    with pytest.raises(UsageError, match="interrupted"):
        write_embeddings(model, [folder], cut, part_files=2)
    with pytest.raises(UsageError, match="pool"):
        write_embeddings(model, [folder], cut, part_files=2, pool="class", resume=True)
    write_embeddings(model, [folder], cut, part_files=2, resume=True)
    assert cut.read_bytes() == whole.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {whole.name, cut.name}


def test_a_damaged_part_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    model, out, parts = small("audio"), tmp_path / "v.npz", tmp_path / ".v.npz.parts"

    def interrupt(kind: str, **said: Any) -> None:
        if kind == "progress" and said["done"] > 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), progress.listening(interrupt):
        write_embeddings(model, [folder], out, part_files=2)
    whole = (parts / "000000").read_bytes()
    for damaged in (whole[:-30], whole.replace(b"skipped", b"skjpped"), whole[:-1] + bytes([whole[-1] ^ 1])):
        (parts / "000000").write_bytes(damaged)
        with pytest.raises(DataError, match=f"finished part cannot be used: {parts}/000000 is") as caught:
            write_embeddings(model, [folder], out, part_files=2, resume=True)
        assert caught.value.hint.startswith("Remove it and continue with --resume")
    (parts / "000000").unlink()
    assert write_embeddings(model, [folder], out, part_files=2, resume=True)
    assert len(read_vectors(out).files) == 6


def test_a_file_that_is_named_twice_is_taken_once(folder: Path, sample: Path, tmp_path: Path, inline: None) -> None:
    api.shard(sample / "audio" / "7", out=tmp_path / "set")
    one, notes = folder / "7" / "7_theo_0.wav", list[str]()
    inputs = [one, folder, tmp_path / "set", one, folder / "1", folder, tmp_path / "set"]
    with progress.listening(lambda kind, message: notes.append(message)):
        listing = Listing(inputs, Modality.AUDIO)
    assert notes == ["duplicate files count once each: 43"]  # 1 + 1 + 4 + 7 + 30
    names = [listing.source(number).path for number in range(len(listing))]
    assert len({*names}) == len(names) == 37 and names[0] == str(one)


def test_the_nearest_are_found_by_cosine_of_z_scores() -> None:
    """Against the formula, written out for every pair."""
    rows_RD = np.random.default_rng(0).normal(5, [1, 1, 1, 30], (40, 4)).astype(np.float32)
    files = VectorsFile(
        [str(n) for n in range(20)], rows_RD, np.arange(40.0), np.zeros((40, 3)), np.arange(40) // 2, {}
    )
    (hits,) = Index(files).search(torch.from_numpy(rows_RD[7:8]), 20)
    scaled = (rows_RD - rows_RD.mean(0)) / rows_RD.std(0)
    cosine_R = scaled @ scaled[7] / np.linalg.norm(scaled, axis=1) / np.linalg.norm(scaled[7])
    best = {str(file): max(cosine_R[2 * file : 2 * file + 2]) for file in range(20)}
    assert [hit.file for hit in hits] == sorted(best, key=lambda file: -best[file])
    assert [hit.similarity for hit in hits] == pytest.approx(sorted(best.values(), reverse=True), abs=1e-5)
    assert (hits[0].file, hits[0].start_s) == ("3", 7.0)


def test_neighbours_of_one_name_stay_two_files(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        write_vectors(tmp_path / f"v{suffix}", [*some_vectors()[1:2], *some_vectors()[1:2]], ABOUT)
        found = read_vectors(tmp_path / f"v{suffix}")
        assert (found.files, found.file_R.tolist()) == (["a/one.wav", "a/one.wav"], [0, 1])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_flipped_bit_gives_other_vectors(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"v{suffix}"
    write_vectors(out, some_vectors(), ABOUT)
    whole, wanted = out.read_bytes(), read_vectors(out)
    for place in np.random.default_rng(0).integers(0, 8 * len(whole), 100).tolist():
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        out.write_bytes(flipped)
        try:
            found = read_vectors(out)
        except DataError:
            continue
        assert np.array_equal(found.vectors_RD, wanted.vectors_RD)


def test_an_index_that_cannot_be_searched_is_refused() -> None:
    def index_of(rows_RD: np.ndarray) -> Index:
        rows = len(rows_RD)
        return Index(VectorsFile([*"abc"[:rows]], rows_RD, np.zeros(rows), np.zeros((rows, 3)), np.arange(rows), {}))

    rows_RD = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    with pytest.raises(DataError, match="no vectors"):
        index_of(rows_RD[:0])
    with pytest.raises(DataError, match="of 5 numbers"):
        index_of(rows_RD).search(torch.zeros(1, 5), 1)
    for rows in (1, 2, 3):
        (hits,) = index_of(rows_RD[:rows]).search(torch.from_numpy(rows_RD[:1]), 9)
        assert (hits[0].file, len(hits)) == ("a", rows) and hits[0].similarity == pytest.approx(1)
    rows_RD[1, 2] = np.nan
    with pytest.raises(DataError, match="not finite"):
        index_of(rows_RD)


def test_a_nearer_file_of_the_same_name_is_not_meant(
    folder: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, source in {"p/a.wav": "7/7_theo_0.wav", "p/b.wav": "7/7_theo_1.wav", "q/a.wav": "7/7_theo_2.wav"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((folder / source).read_bytes())
    (tmp_path / "model").symlink_to(checkpoint)
    monkeypatch.chdir(tmp_path)
    api.embed(["p"], "one.npz", checkpoint="model")  # found again from another folder, too
    api.embed(["p", "q"], "several.npz", checkpoint=checkpoint)
    api.embed(["p/a.wav"], "file.npz", checkpoint=checkpoint)
    monkeypatch.chdir(tmp_path / "q")
    for index in ("one", "several", "file"):
        (found,) = api.search(["../p/a.wav"], f"../{index}.npz", top=1)
        assert found["hits"][0]["path"] == str(tmp_path / "p" / "a.wav"), index


def test_search_finds_the_file_itself_and_its_place_on_the_disk(index: Path, folder: Path) -> None:
    queries = [folder / "7" / "7_theo_0.wav", next((folder / "1").glob("1_*"))]
    found = api.search(queries, index, top=3)
    assert [one["query"] for one in found] == [str(query) for query in queries]
    for query, one in zip(queries, found, strict=True):
        assert one["hits"][0]["path"] == str(query)
        assert one["hits"][0]["similarity"] == pytest.approx(1, abs=1e-5)
        assert len(one["hits"]) == 3


@pytest.mark.parametrize(
    ("query", "said"), [("gone.wav", "No such file"), ("empty.wav", "is empty"), ("photo.jpg", "is image")]
)
def test_a_query_that_cannot_be_used_is_told_what_can(index: Path, tmp_path: Path, query: str, said: str) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "photo.jpg").symlink_to(next((MEDIA / "image").rglob("*.jpg")))
    with pytest.raises(MediaError, match=said) as caught:
        api.search([tmp_path / query], index)
    assert caught.value.hint.startswith("A query is audio in a file that can be decoded, such as 1/1_")


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".codes"])
def test_codes_are_no_vectors_and_vectors_no_codes(tmp_path: Path, suffix: str) -> None:
    codes = Codes("a.wav", torch.zeros(2, 1, 1, 3, dtype=torch.int16), [0.0, 1.0])
    header = {"checkpoint": "x", "model": "y", "modality": "audio", "codes": 8, "levels": 3, "skipped": []}
    write_codes(tmp_path / f"c{suffix}", [codes], header)
    with pytest.raises(DataError, match=r"not a .*vectors file") as caught:
        read_vectors(tmp_path / f"c{suffix}")
    assert "bridle embed" in caught.value.hint
    write_vectors(tmp_path / "v.npz", some_vectors(), ABOUT, suffix=suffix if suffix in SUFFIXES else ".npz")
    (tmp_path / "v.npz").rename(tmp_path / f"v{suffix}")
    with pytest.raises(DataError, match=r"no.*[ -]codes file") as caught:
        read_codes(tmp_path / f"v{suffix}")
    assert "bridle tokenize" in caught.value.hint


def test_moments_of_a_long_recording_are_found(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    import soundfile

    pieces = [soundfile.read(path, dtype="float32") for path in sorted(folder.rglob("*_*.wav"))]
    hz = pieces[0][1]
    second = np.concatenate([np.pad(wave[:hz], (0, max(0, hz - len(wave)))) for wave, _ in pieces])
    soundfile.write(tmp_path / "long.wav", second, hz)
    api.embed([tmp_path / "long.wav"], tmp_path / "moments.parquet", checkpoint=checkpoint, per="step")
    (found,) = api.search([tmp_path / "long.wav"], tmp_path / "moments.parquet")
    (hit,) = found["hits"]
    assert 0 <= hit["start_s"] <= 6 and hit["path"] == str(tmp_path / "long.wav")


def test_an_index_of_another_model_is_refused(index: Path, folder: Path, tmp_path: Path) -> None:
    other = small("audio")
    with torch.no_grad():
        other.encoder.class_token_D += 1e-3
    save_model(snapshot(other), tmp_path)
    with pytest.raises(DataError, match="was not made by"):
        api.search([folder / "7" / "7_theo_0.wav"], index, checkpoint=tmp_path)


def test_an_index_whose_model_is_gone_says_which_it_was(folder: Path, tmp_path: Path) -> None:
    save_model(snapshot(small("audio")), tmp_path)
    api.embed([folder], tmp_path / "v.npz", checkpoint=tmp_path)
    for name in ("model.safetensors", "model.json"):
        (tmp_path / name).rename(tmp_path / f"{name}.moved")
    with pytest.raises((UsageError, DataError), match=str(tmp_path)):
        api.search([folder / "7" / "7_theo_0.wav"], tmp_path / "v.npz")


@pytest.mark.parametrize(
    ("options", "said"),
    [({"out": "v.txt"}, "does not end in"), ({"out": "v.npz", "per": "step", "pool": "class"}, "--pool class")],
)
def test_options_that_do_not_go_together(folder: Path, tmp_path: Path, options: dict[str, Any], said: str) -> None:
    out = tmp_path / options.pop("out")
    with pytest.raises(UsageError, match=said):
        api.embed([folder], out, checkpoint=tmp_path / "nothing is loaded", **options)
    assert not any(tmp_path.iterdir())


def test_an_output_that_exists_stays(index: Path, folder: Path, checkpoint: Path) -> None:
    before = index.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        api.embed([folder], index, checkpoint=checkpoint)
    assert index.read_bytes() == before
