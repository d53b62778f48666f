"""What the functions of the interface return has the keys and types that `bridle.api.results` promises."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from standins import small_recipe

from bridle import api
from bridle.api import results


def wrong(kind: Any, value: Any, at: str = "") -> list[str]:
    """Where a value is not what a type says: a key that is promised and missing, one that is not promised, a tuple in
    place of a list."""
    inner = get_args(kind)
    if is_typeddict(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        keys = (kind.__required_keys__ - value.keys()) | (value.keys() - hints.keys())
        return [f"{at}.{key}" for key in keys] + [
            one for key in hints.keys() & value.keys() for one in wrong(hints[key], value[key], f"{at}.{key}")
        ]
    if get_origin(kind) is list and type(value) is list:
        return [one for item in value for one in wrong(inner[0], item, f"{at}[]")]
    if get_origin(kind) is dict and type(value) is dict:
        return [one for key in value for one in wrong(inner[0], key, at) + wrong(inner[1], value[key], f"{at}[{key}]")]
    if get_origin(kind) is Literal:
        right = value in inner
    elif get_origin(kind) in (UnionType, Union):
        right = any(not wrong(one, value) for one in inner)
    else:
        right = kind is Any or type(value) in ((int, float) if kind is float else (kind,))
    return [] if right else [f"{at}: {kind}: {value!r}"]


def test_a_promise_that_is_broken_is_noticed() -> None:
    right = {"run": "a", "out": "b", "bytes": 1, "sections": ["c"], "clips": 0, "skipped": 0}
    assert not wrong(results.ReportResult, right)
    changes = ({"more": 1}, {"bytes": True}, {"sections": ("c",)}, {"sections": [1]}, {"run": None})
    assert all(wrong(results.ReportResult, right | change) for change in changes)
    del right["out"]
    assert wrong(results.ReportResult, right) == [".out"]


def test_results_are_what_the_types_say(sample: Path, shards: Path, tmp_path: Path) -> None:
    run, photos = tmp_path / "run", sorted((sample / "image").rglob("*.jpg"))[:2]
    made = api.shard(sample / "image", out=tmp_path / "set", workers=1)
    parts = api.shard(sample / "image", out=tmp_path / "parts", workers=1, split={"train": 0.8, "val": 0.2})
    plan = api.pretrain(shards, recipe=small_recipe(), out=run, steps=4, device="cpu", dry_run=True)
    trained = api.pretrain(shards, recipe=small_recipe(), out=run, steps=4, device="cpu")
    common: dict[str, Any] = {"checkpoint": run, "device": "cpu"}
    options: dict[str, Any] = {**common, "task": "folder"}
    knn = api.evaluate(shards, protocol="knn", out=tmp_path / "knn", **options)
    codes = api.evaluate(shards, protocol="codes", **options)
    codebook = api.evaluate(shards, protocol="codebook", **options)
    (config := tmp_path / "c.yaml").write_text("extends: image-tiny\n")
    kinds: dict[Any, list[Any]] = {
        results.ShardResult: [made, parts],
        dict[str, Any]: api.shard_info(tmp_path / "set"),
        results.Verified: api.shard_verify(tmp_path / "set"),
        results.RunResult: [plan, trained],
        results.RunListed: api.runs(tmp_path),
        results.FileCodes: [*api.tokenize(photos, **common)],
        results.CodesWritten: [api.write_codes(photos, tmp_path / "a.codes", **common)],
        results.VectorsWritten: [api.embed(photos, tmp_path / "a.npz", **common)],
        results.Found: api.search(photos[:1], tmp_path / "a.npz", **common),
        results.EvalResult: [knn, codes, codebook],
        results.TaskInfo: api.tasks(),
        results.Question: api.compare([run, tmp_path / "knn"], protocol="knn"),
        results.ExportResult: [api.export(run, format="safetensors", out=tmp_path / "export")],
        results.ReportResult: [api.report(run, data=shards, clips=4, device="cpu")],
        results.Finding: api.doctor(),
        results.InitResult: [api.init(shards, out=tmp_path / "begun.yaml", device="cpu")],
        results.Validated: [*api.config_validate([config]), *api.config_validate([config], shards=shards)],
        results.Difference: api.config_diff("image-tiny", "image-small"),
    }
    assert all(kinds.values()), kinds
    assert [one for kind, found in kinds.items() for value in found for one in wrong(kind, value, kind.__name__)] == []
