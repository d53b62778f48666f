"""An extra that is not installed: what needs it says which, ends with 5 and leaves nothing; all else works without."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from exports import learned, saved
from standins import SMALL_RUN

from bridle import api

# Package names of each extra as imported; `plots`, `bench`, `docs` and `dev` are for this repository's own scripts.
EXTRAS = {
    "huggingface": ("transformers",),
    "onnx": ("onnx", "onnxscript", "onnxruntime", "onnx_ir"),
    "parquet": ("pyarrow",),
    "ray": ("ray",),
    "s3": ("s3fs", "aiobotocore"),
    "search": ("faiss",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
}
TRAIN = ["pretrain", "--shards", "SHARDS", "--preset", "image-tiny", "--steps", "2", "--device", "cpu"]
SMALL = [word for one in SMALL_RUN for word in ("--set", one)]
# One row for each way to meet an extra.
NEEDS = [
    ("onnx", ["export", "RUN", "--format", "onnx", "--out", "encoder"]),
    ("huggingface", ["export", "RUN", "--format", "huggingface", "--out", "encoder"]),
    ("parquet", ["tokenize", "MEDIA", "--checkpoint", "RUN", "--out", "codes.parquet"]),
    ("parquet", ["embed", "MEDIA", "--checkpoint", "RUN", "--out", "vectors.parquet"]),
    ("ray", ["shard", "MEDIA", "--modality", "image", "--engine", "ray", "--out", "set"]),
    ("ray", ["tokenize", "MEDIA", "--checkpoint", "RUN", "--engine", "ray", "--out", "codes.npz"]),
    ("s3", ["shard", "s3://bucket/raw", "--modality", "image", "--out", "set"]),
    ("s3", ["pretrain", "--shards", "s3://bucket/set"]),
    ("search", ["search", "PHOTO", "--index", "INDEX"]),
    ("tensorboard", [*TRAIN, *SMALL, "--set", "train.tracker=tensorboard", "--out", "run"]),
    ("wandb", [*TRAIN, *SMALL, "--set", "train.tracker=wandb", "--out", "run"]),
]
WITHOUT = [
    [*TRAIN, *SMALL, "--out", "run", "--quiet"],
    ["tokenize", "PHOTO", "--checkpoint", "RUN", "--json"],
    ["embed", "MEDIA", "--checkpoint", "RUN", "--out", "vectors.npz"],
    ["export", "RUN", "--format", "safetensors", "--out", "encoder"],
]
CHILD = """
import contextlib, io, json, sys
from importlib.machinery import PathFinder
from pathlib import Path

absent, rows = json.loads(sys.argv[1])

class Without:  # in the place of the finder of installed packages
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in absent else PathFinder.find_spec(name, path, target)

    invalidate_caches = staticmethod(PathFinder.invalidate_caches)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
from bridle_cli.main import main

for row in rows:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(row)
    left = sorted(str(path) for path in Path().rglob("*"))
    print(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue(), "left": left}))
print(json.dumps(sorted(name for name in absent if name in sys.modules)))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, shards: Path, sample: Path) -> list[dict[str, Any]]:
    """What a process without any extra makes of all rows, one after the other; at the end which of them it imported."""
    run = saved(learned("image"), tmp_path_factory.mktemp("model") / "run")
    photo = sorted((sample / "image").rglob("*.jpg"))[0]
    index = tmp_path_factory.mktemp("index") / "vectors.npz"
    api.embed([photo], index, checkpoint=run)
    places = {"RUN": run, "SHARDS": shards, "MEDIA": sample / "image", "PHOTO": photo, "INDEX": index}
    rows = [[str(places.get(word, word)) for word in row] for row in [*(words for _, words in NEEDS), *WITHOUT]]
    absent = [name for names in EXTRAS.values() for name in names]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps([absent, rows])],
        cwd=tmp_path_factory.mktemp("work"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("place", range(len(NEEDS)), ids=[f"{extra}-{words[0]}" for extra, words in NEEDS])
def test_who_needs_an_extra_is_told_which(told, place: int) -> None:
    extra, one = NEEDS[place][0], told[place]
    assert (one["code"], one["out"], one["left"]) == (5, "", []), one
    assert f"pip install 'bridle[{extra}]'" in one["err"]
    assert one["err"].count("error: ") == 1 and "Traceback" not in one["err"]


@pytest.mark.parametrize("place", range(len(WITHOUT)), ids=[words[0] for words in WITHOUT])
def test_who_needs_none_goes_on(told, place: int) -> None:
    one = told[len(NEEDS) + place]
    assert one["code"] == 0, one["err"]


def test_nothing_imported_one(told) -> None:
    assert told[-1] == []


def test_every_extra_of_the_package_is_looked_at() -> None:
    import configparser

    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[1] / "setup.cfg")
    assert {*setup["options.extras_require"]} == {*EXTRAS, "plots", "bench", "docs", "test", "dev"}
