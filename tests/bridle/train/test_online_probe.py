"""What a run says of itself while it trains: the probe of labelled clips, and the warnings."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from bridle import api
from bridle.checkpoint import load_model
from bridle.quantize import mutual_information
from bridle.train.online_probe import leave_one_out_knn
from bridle.train.training_warnings import Watch

MEDIA = Path(__file__).parents[2] / "media"
SMALL = (
    "patches.size=16", "patches.patch=4", "encoder.width=16", "encoder.depth=1", "encoder.heads=2",
    "predictor.width=16", "predictor.depth=1", "predictor.heads=2", "tokenizer.estimator_depth=1",
    "quantizer.codes=8", "quantizer.levels=2", "quantizer.width=4", "optim.batch_size=8", "train.precision=float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    api.shard(MEDIA / "image", modality="image", labels="folder", out=out / "labelled", workers=1)
    api.shard(MEDIA / "image" / "life_by_Aitzol_Berasategi", modality="image", out=out / "unlabelled", workers=1)
    return out


def pretrain(shards: Path, run: Path, *sets: str, steps: int = 12) -> list[dict[str, object]]:
    api.pretrain(shards, recipe=api.Recipe(preset="image-tiny", sets=(*SMALL, *sets)), out=run, steps=steps)
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_probe_reports_features_and_codes(shards: Path, tmp_path: Path, precision: str) -> None:
    sets = ("train.probe_every=4", f"train.precision={precision}")
    rows = pretrain(shards / "labelled", tmp_path / "run", *sets)
    seen = [row["probe"] for row in rows if "probe" in row]
    assert len(seen) == 3
    for probe in seen:
        assert 1 / 6 < probe["knn"] <= 1  # six photos: better than guessing even at the start
        assert len(probe["usage"]) == len(probe["perplexity"]) == len(probe["mutual_information"]) == 2
        assert 0 < probe["mutual_information"][0] <= math.log2(6)


def test_the_probe_changes_nothing(shards: Path, tmp_path: Path) -> None:
    for name, every in (("blind", 0), ("seeing", 1)):
        pretrain(shards / "labelled", tmp_path / name, f"train.probe_every={every}")
    blind, seeing = (load_model(tmp_path / name).state_dict() for name in ("blind", "seeing"))
    assert all(torch.equal(blind[name], seeing[name]) for name in blind)


def test_without_labels_there_is_no_probe(shards: Path, tmp_path: Path) -> None:
    rows = pretrain(shards / "unlabelled", tmp_path / "run", "train.probe_every=4")
    assert not any("probe" in row for row in rows)


def test_knn_leaves_the_clip_itself_out() -> None:
    # Two tight pairs and one outlier whose nearest are of the other label.
    h = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [-1.0, 0.1], [1.0, 0.05]])
    assert leave_one_out_knn(h, torch.tensor([0, 0, 1, 1, 1]), neighbours=1) == pytest.approx(2 / 5)


def test_mutual_information_by_hand() -> None:
    # Level 0: the code is the label, 1 bit. Level 1: code and label are independent, 0 bits.
    count = torch.tensor([[[2.0, 0.0], [0.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]]])
    assert mutual_information(count).tolist() == pytest.approx([1.0, 0.0])


def row(**fields: object) -> dict[str, object]:
    return {"usage": [1.0, 1.0], "perplexity": [32.0, 30.0], "phase_index": 0, "cross_entropy": [2.0, 3.4], **fields}


def test_warnings_name_the_sign_and_come_once() -> None:
    watch = Watch(codes=32)
    assert watch.warnings(row(), 0.5, 200) == []
    (said,) = watch.warnings(row(usage=[1.0, 0.2]), 0.5, 200)
    assert "level 2 uses 20%" in said
    assert watch.warnings(row(usage=[1.0, 0.2]), 0.6, 240) == []
    blind = row(cross_entropy=[math.log(32.0), 3.4])
    assert watch.warnings(blind, 0.1, 200) == []  # too early to tell
    assert watch.warnings(blind, 0.5, 20) == []  # too few steps to have learned anything
    (said,) = Watch(codes=32).warnings(row(usage=[1.0, 1.0], perplexity=[30.0, 1.1]), 1.0, 20)  # the end of a short run
    assert "level 2" in said and "perplexity of 1 of 32" in said
    (said,) = watch.warnings(blind, 0.3, 300)
    assert "it is not learning" in said
