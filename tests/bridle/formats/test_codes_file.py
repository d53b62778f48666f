"""Codes on disk: what goes in comes out, by levels too, and what is not whole is never taken for codes."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import bridle
from bridle.errors import DataError, EnvironmentFault, UsageError
from bridle.formats import read_codes, write_codes
from bridle.formats.codes import check_ending, compact
from bridle.formats.codes.compact import CodesError, CodesFile, CodesWriter
from bridle.schema import Codes

FORMS = ("codes", "parquet", "npz", "safetensors")
HEADER: dict[str, Any] = {"checkpoint": "runs/x", "model": "ab" * 32, "modality": "audio", "codes": 8, "levels": 3,
                          "skipped": [{"file": "bad.wav", "reason": "the file is empty"}]}  # fmt: skip
AGAIN = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def some_codes() -> list[Codes]:
    generator = torch.Generator().manual_seed(0)
    return [
        Codes(name, torch.randint(0, 8, (*grid, 3), generator=generator).short(), [0.1 * i for i in range(grid[0])])
        for name, grid in {"ü b.c\n.wav": (3, 2, 1), "x/y.wav": (1, 4, 4), "z": (5, 1, 1)}.items()
    ]


def write_some(path: Path) -> bytes:
    write_codes(path, some_codes(), HEADER)
    return path.read_bytes()


# --- every form ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_codes_come_back_whole_and_by_levels(tmp_path: Path, form: str) -> None:
    write_some(path := tmp_path / f"c.{form}")
    for levels in (None, 3, 1):
        for codes, original in zip(bridle.read_codes(path, levels=levels), some_codes(), strict=True):
            assert (codes.file, codes.grid) == (original.file, original.grid)
            assert codes.times_T == pytest.approx(original.times_T, abs=1e-9)
            assert codes.codes_THWQ.dtype == torch.int16
            assert torch.equal(codes.codes_THWQ, original.codes_THWQ[..., : levels or 3])
    for levels in (0, 4):
        with pytest.raises(UsageError, match="has 3 levels"):
            read_codes(path, levels)


@pytest.mark.parametrize("form", FORMS)
def test_equal_codes_make_equal_files(tmp_path: Path, form: str) -> None:
    assert write_some(tmp_path / f"a.{form}") == write_some(tmp_path / f"b.{form}")


def test_names_that_are_no_utf_8_come_back(tmp_path: Path) -> None:
    codes = [Codes("x/\udcff.wav", torch.zeros(1, 1, 1, 3).short(), [0.0])]
    for form, name in {"codes": "x/\udcff.wav", "npz": "x/\udcff.wav", "parquet": "x/\\udcff.wav"}.items():
        write_codes(tmp_path / f"c.{form}", codes, HEADER)
        assert read_codes(tmp_path / f"c.{form}")[0].file == name


def test_other_libraries_read_them(tmp_path: Path) -> None:
    for form in FORMS:
        write_some(tmp_path / f"c.{form}")
    with np.load(tmp_path / "c.npz", allow_pickle=False) as content:
        assert json.loads(content["header"].tobytes())["format"] == "bridle-codes"
        assert content["codes"].dtype == np.int16
        assert (content["codes"] == load_file(tmp_path / "c.safetensors")["codes"]).all()
    table = pyarrow.parquet.read_table(tmp_path / "c.parquet")
    rows, first = table.to_pylist(), some_codes()[0]
    assert table.schema.field("codes").type == pyarrow.list_(pyarrow.uint8())
    assert rows[0]["grid"] == [3, 2, 1] and rows[0]["levels"] == 3
    assert rows[0]["codes"] == first.codes_THWQ.movedim(-1, 0).flatten().tolist()
    about = json.loads(table.schema.metadata[b"bridle"])
    assert (about["version"], about["codes"], about["skipped"]) == (1, 8, HEADER["skipped"])


def test_a_table_is_written_in_groups_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridle.formats.codes.table._GROUP_ROWS", 2)
    write_some(tmp_path / "c.parquet")
    assert pyarrow.parquet.ParquetFile(tmp_path / "c.parquet").num_row_groups == 2
    assert [codes.file for codes in read_codes(tmp_path / "c.parquet")] == [codes.file for codes in some_codes()]


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(EnvironmentFault) as caught:
        check_ending(tmp_path / "c.parquet")
    assert "pip install 'bridle[parquet]'" in caught.value.hint


def test_an_ending_that_tells_no_form_is_refused(tmp_path: Path) -> None:
    for wrong in (lambda: check_ending(tmp_path / "c.txt"), lambda: read_codes(tmp_path / "c.txt")):
        (tmp_path / "c.txt").touch()
        with pytest.raises(UsageError, match=r"'\.txt' is not a format of codes") as caught:
            wrong()
        assert ".parquet" in caught.value.hint
    for ending in FORMS:
        with pytest.raises(UsageError, match="a suffix without a name"):
            check_ending(tmp_path / f".{ending}")
    with pytest.raises(UsageError, match="not on this machine"):
        bridle.read_codes("s3://bucket/c.codes")
    with pytest.raises(DataError, match="does not exist"):
        read_codes(tmp_path / "gone.codes")


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _text(path: Path) -> None:
    path.write_text("no codes")


@pytest.mark.parametrize("damage", [_half, _text])
@pytest.mark.parametrize("form", FORMS)
def test_damaged_files_are_refused_by_name(tmp_path: Path, form: str, damage: Callable[[Path], None]) -> None:
    write_some(path := tmp_path / f"c.{form}")
    damage(path)
    with pytest.raises(DataError, match=rf"c\.{form}"):
        read_codes(path)


def _pickled(path: Path) -> None:
    np.savez(path, codes=np.array([{}], dtype=object), times=np.zeros(1), grids=np.zeros(1), header=np.zeros(1))


def _foreign(path: Path) -> None:
    _arrays(path, {"format": "other"}, (1, 1, 1))


def _newer(path: Path) -> None:
    _arrays(path, {"format": "bridle-codes", "version": 2, "files": ["a"]}, (1, 1, 1))


def _inconsistent(path: Path) -> None:
    _arrays(path, {"format": "bridle-codes", "version": 1, "files": ["a"]}, (2, 2, 2))


def _beyond(path: Path) -> None:
    _arrays(path, {"format": "bridle-codes", "version": 1, "files": ["a"], "codes": 8}, (1, 1, 1), code=8)


def _arrays(path: Path, header: dict[str, Any], grid: tuple[int, int, int], code: int = 0) -> None:
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    np.savez(path, codes=np.full((1, 1), code), times=np.zeros(1), grids=np.array([grid], np.int32), header=text)


@pytest.mark.parametrize("damage", [_pickled, _foreign, _newer, _inconsistent, _beyond])
def test_arrays_of_somebody_else_are_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    damage(path := tmp_path / "c.npz")
    with pytest.raises(DataError, match=r"c\.npz"):
        read_codes(path)


def test_a_table_with_codes_out_of_range_or_of_another_version_is_refused(tmp_path: Path) -> None:
    write_some(path := tmp_path / "c.parquet")
    table = pyarrow.parquet.read_table(path)
    for change, said in (({"codes": 4}, r"holds the code [4-7]"), ({"version": 2}, "has version 2")):
        about = json.loads(table.schema.metadata[b"bridle"]) | change
        pyarrow.parquet.write_table(table.replace_schema_metadata({"bridle": json.dumps(about)}), path)
        with pytest.raises(DataError, match=said):
            read_codes(path)


def test_safetensors_of_something_else_are_refused(tmp_path: Path) -> None:
    save_file({"weight": np.zeros(3)}, tmp_path / "c.safetensors")
    with pytest.raises(DataError, match=r"c\.safetensors"):
        read_codes(tmp_path / "c.safetensors")


def _table(path: Path, header: dict[str, Any] | None = None, **columns: Any) -> None:
    """One file with one code, but for what is said."""
    right = {
        "file": pyarrow.array(["a"]),
        "grid": pyarrow.array([[1, 1, 1]]),
        "levels": pyarrow.array([1]),
        "times": pyarrow.array([[0.0]]),
        "codes": pyarrow.array([[3]], pyarrow.list_(pyarrow.uint8())),
    }
    about = {"format": "bridle-codes", "version": 1, "codes": 8, "levels": 1, **(header or {})}
    table = pyarrow.table(right | columns).replace_schema_metadata({"bridle": json.dumps(about)})
    pyarrow.parquet.write_table(table, path)


def _archive(path: Path, header: dict[str, Any] | None = None, **arrays: np.ndarray) -> None:
    right = {"codes": np.ones((1, 1), np.int16), "times": np.zeros(1), "grids": np.ones((1, 3), np.int32)}
    about = {"format": "bridle-codes", "version": 1, "codes": 8, "levels": 1, "files": ["a"], **(header or {})}
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(path, **{**right, **arrays, "header": text})  # type: ignore[arg-type]


TABLES = [
    {"codes": pyarrow.array([None], pyarrow.list_(pyarrow.uint8()))},
    {"codes": pyarrow.array([3])},
    {"codes": pyarrow.array([[1.5]])},
    {"codes": pyarrow.array([[-1]])},
    {"file": pyarrow.array([None], pyarrow.string())},
    {"file": pyarrow.array([1])},
    {"grid": pyarrow.array([[-1, 1, 1]])},
    {"levels": pyarrow.array([2])},
    {"times": pyarrow.array([[float("inf")]])},
    {"times": pyarrow.array([["0"]])},
    {"header": {"levels": -1}},
    {"header": {"levels": 2}},
    {"header": {"codes": "8"}},
]
ARCHIVES = [
    {"codes": np.ones((1, 0), np.int16)},
    {"codes": np.ones((1, 1))},
    {"codes": np.full((1, 1), -1)},
    {"times": np.full(1, np.nan)},
    {"times": np.zeros(())},
    {"grids": np.array([[1, 1 << 62, 4]])},
    {"header": {"levels": 3}},
    {"header": {"files": [None]}},
    {"header": {"files": "a"}},
]


@pytest.mark.parametrize(
    ("form", "write", "wrongs"), [("parquet", _table, TABLES), ("npz", _archive, ARCHIVES)], ids=["parquet", "npz"]
)
def test_what_are_no_codes_is_not_read_as_codes(tmp_path: Path, form: str, write: Any, wrongs: list[Any]) -> None:
    write(path := tmp_path / f"c.{form}")
    assert [(codes.file, codes.grid, codes.levels) for codes in read_codes(path)] == [("a", (1, 1, 1), 1)]
    for wrong in wrongs:
        write(path, **wrong)
        with pytest.raises(DataError, match=rf"c\.{form}"):
            read_codes(path)
    np.savez(tmp_path / "number.npz", codes=1, times=1, grids=1, header=np.frombuffer(b"5", np.uint8))
    with pytest.raises(DataError, match="not an object"):
        read_codes(tmp_path / "number.npz")


# --- the compact file ------------------------------------------------------------------------------------------------


@st.composite
def compact_files(draw: st.DrawFn) -> tuple[int, list[tuple[str, np.ndarray, list[float]]]]:
    """Size of the codebooks, and records of one number of levels."""
    codes, levels = draw(st.sampled_from([2, 200, 256, 257, 65536])), draw(st.integers(1, 4))
    records = []
    for _ in range(draw(st.integers(0, 4))):
        grid = draw(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)))
        seed = draw(st.integers(0, 1 << 30))
        array = np.random.default_rng(seed).integers(0, codes, (levels, *grid))
        even = [draw(st.floats(0, 1e5)) + 0.16 * step for step in range(grid[0])]
        times = draw(
            st.sampled_from([even, sorted(draw(st.lists(st.floats(0, 1e6), min_size=grid[0], max_size=grid[0])))])
        )
        name = bytes(draw(st.lists(st.integers(1, 255), min_size=1, max_size=12))).decode("utf-8", "surrogateescape")
        records.append((name, array, times))
    return codes, records


def write_compact(path: Path, codes: int, records: list[tuple[str, np.ndarray, list[float]]]) -> None:
    levels = len(records[0][1]) if records else 1
    with CodesWriter(path, {"codes": codes, "levels": levels, "note": "ü"}) as writer:
        for name, array, times in records:
            writer.add(name, array, times)
        writer.note(skipped=[["a", "b"]])


@AGAIN
@given(file=compact_files())
def test_any_codes_come_back(tmp_path: Path, file: tuple[int, list[Any]]) -> None:
    codes, records = file
    write_compact(path := tmp_path / "c.codes", codes, records)
    with CodesFile(path) as back:
        assert (back.header["note"], back.tail, len(back)) == ("ü", {"skipped": [["a", "b"]]}, len(records))
        for record, (name, array, times) in zip(back, records, strict=True):
            assert record.file == name
            assert record.codes_QTHW.dtype == (np.uint8 if codes <= 256 else np.uint16)
            assert (record.codes_QTHW == array).all()
            assert record.times_T == pytest.approx(times, abs=2e-9)
    if records:
        with CodesFile(path, levels=1) as first:
            assert (first[len(records) - 1].codes_QTHW == records[-1][1][:1]).all()


@AGAIN
@given(file=compact_files(), data=st.data())
def test_damage_never_passes_for_codes(tmp_path: Path, file: tuple[int, list[Any]], data: st.DataObject) -> None:
    write_compact(path := tmp_path / "c.codes", *file)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(CodesError, match=r"c\.codes"), CodesFile(path) as back:
        list(back)


def test_every_cut_and_a_flip_in_every_byte_are_noticed(tmp_path: Path) -> None:
    write_compact(path := tmp_path / "c.codes", 8, [("a.wav", np.arange(8).reshape(2, 2, 2, 1), [0.0, 0.1])])
    content = path.read_bytes()
    damaged = [content[:size] for size in range(len(content))]
    for place, byte in enumerate(content):
        damaged.append(content[:place] + bytes([byte ^ 1 << place % 8]) + content[place + 1 :])
    for one in damaged:
        path.write_bytes(one)
        with pytest.raises(CodesError), CodesFile(path) as back:
            list(back)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    content = write_some(path := tmp_path / "c.codes")
    for wrong, message, hint in (
        (b"PK\3\4" + content, "is not a codes file", "bridle tokenize"),
        (b"", "is not a codes file", "bridle tokenize"),
        (content[:8] + b"\2" + content[9:], "has version 2, this reader knows 1", "Update BRIDLE"),
        (content[:-1], "is cut", "Copy it again"),
        (content[:300] + b"\xff" + content[301:], "is damaged", "Copy it again"),
    ):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match=message) as caught:
            read_codes(path)
        assert str(path) in caught.value.message and hint in caught.value.hint


def parts_of_compact(
    grid: tuple[int, int, int] = (2, 1, 1),
    runs: tuple[tuple[int, float, float], ...] = ((2, 0.0, 0.5),),
    head: bytes = b'{"codes": 8, "levels": 1}',
    behind: bytes = b"",
) -> bytes:
    """A file of one record `a` with two codes, but for what is said; every CRC is right."""

    def checked(content: bytes) -> bytes:
        return content + struct.pack("<I", zlib.crc32(content))

    content = checked(b"BRDLCODE" + struct.pack("<II", 1, len(head)) + head)
    at = len(content)
    about = struct.pack("<4I", 1, *grid) + b"a" + b"".join(struct.pack("<Idd", *run) for run in runs)
    content += checked(struct.pack("<I", len(about)) + about) + checked(b"\1\2") + behind
    tail, end = struct.pack("<QI", at, 2) + b"{}", struct.pack("<QQ", len(content), 1)
    return content + checked(tail) + checked(end) + b"END\n"


@pytest.mark.parametrize(
    "wrong",
    [
        {"grid": ((1 << 32) - 1, 0, 1), "runs": (((1 << 32) - 1, 0.0, 0.5),)},  # 32 GB of times
        {"grid": (1 << 29, 1, 1), "runs": ((1 << 29, 0.0, 0.5),)},
        {"grid": (0, 1, 1), "runs": ()},
        {"runs": ((2, 0.0, float("inf")),)},
        {"runs": ((2, float("nan"), 0.5),)},
        {"behind": b"more"},
        {"head": '{"codes": 8, "levels": 1}'.encode("utf-16")},
    ],
)
def test_a_compact_file_with_right_checksums_and_wrong_content(tmp_path: Path, wrong: dict[str, Any]) -> None:
    path = tmp_path / "c.codes"
    path.write_bytes(parts_of_compact())
    assert [codes.codes_THWQ.flatten().tolist() for codes in read_codes(path)] == [[1, 2]]
    path.write_bytes(parts_of_compact(**wrong))
    with pytest.raises(DataError, match=r"c\.codes is damaged"):
        read_codes(path)


def test_codes_out_of_range_are_refused_by_writer_and_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, five = tmp_path / "c.codes", np.full((1, 1, 1, 1), 5)
    none = np.zeros((1, 1, 0, 1), int)
    for wrong in (five, -five, np.zeros((2, 1, 1, 1), int), np.zeros((1, 2, 1, 1), int), five / 2, none):
        with pytest.raises(CodesError, match=r"a\.wav"), CodesWriter(path, {"codes": 5, "levels": 1}) as writer:
            writer.add("a.wav", wrong, [0.0])
        with pytest.raises(CodesError):  # nor is there a file that passes for one
            CodesFile(path)
    with CodesWriter(path, {"codes": 6, "levels": 1}) as writer:
        writer.add("a.wav", five, [0.0])
    head = json.dumps({"codes": 5, "levels": 1}).encode()
    content = path.read_bytes().replace(json.dumps({"codes": 6, "levels": 1}).encode(), head)
    crc_at = 16 + len(head)
    path.write_bytes(content[:crc_at] + struct.pack("<I", zlib.crc32(content[:crc_at])) + content[crc_at + 4 :])
    with pytest.raises(DataError, match=r"a\.wav has the code 5, but the codebook has 5"):
        read_codes(path)


def test_the_layout_is_as_documented(tmp_path: Path) -> None:
    """Read as docs/codes.md says, with `struct` alone."""
    content = write_some(path := tmp_path / "c.codes")

    def checked(start: int, size: int) -> bytes:
        (crc,) = struct.unpack_from("<I", content, start + size)
        assert zlib.crc32(content[start : start + size]) == crc
        return content[start : start + size]

    magic, version, size = struct.unpack_from("<8sII", content)
    header = json.loads(checked(0, 16 + size)[16:])
    assert (magic, version, header["levels"], header["codes"]) == (b"BRDLCODE", 1, 3, 8)
    at, files, crc, mark = struct.unpack("<QQI4s", content[-24:])
    assert (crc, mark, files) == (zlib.crc32(content[-24:-8]), b"END\n", 3)
    tail = checked(at, len(content) - 24 - 4 - at)
    assert json.loads(tail[8 * files + 4 :]) == {"skipped": HEADER["skipped"]}
    for number, original in enumerate(some_codes()):
        (at,) = struct.unpack_from("<Q", tail, 8 * number)
        (size,) = struct.unpack_from("<I", content, at)
        about = checked(at, 4 + size)[4:]
        name_size, *grid = struct.unpack_from("<4I", about)
        assert about[16 : 16 + name_size].decode() == original.file
        assert tuple(grid) == original.grid
        count, start, step = struct.unpack_from("<Idd", about, 16 + name_size)
        assert (count, start, step) == (grid[0], 0.0, pytest.approx(0.1 if count > 1 else 0.0))
        at += 4 + size + 4
        for level in range(3):
            patches = grid[0] * grid[1] * grid[2]
            assert checked(at, patches) == bytes(original.codes_THWQ[..., level].flatten().tolist())
            at += patches + 4
    assert path.stat().st_size == len(content)


def test_the_reader_needs_numpy_alone(tmp_path: Path) -> None:
    write_some(path := tmp_path / "c.codes")
    code = (
        "import sys, runpy\n"
        "for name in ('torch', 'bridle', 'safetensors', 'pyarrow'): sys.modules[name] = None\n"
        f"reader = runpy.run_path({compact.__file__!r}, run_name='reader')\n"
        f"print([(record.file, record.codes_QTHW.sum().item()) for record in reader['CodesFile']({str(path)!r})])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([(codes.file, int(codes.codes_THWQ.sum())) for codes in some_codes()])
