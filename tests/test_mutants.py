"""Planted faults still apply, and the tests that are to notice them exist; `make mutants` tries them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from planted import PLANTED

ROOT = Path(__file__).resolve().parent.parent


def test_every_planted_fault_still_applies() -> None:
    for one in PLANTED:
        text = (ROOT / "bridle" / one.file).read_text("utf-8")
        assert one.applied(text) != text, one.name
        for node in one.nodes:
            file, _, name = node.partition("::")
            assert f"def {name}(" in (ROOT / file).read_text("utf-8"), node
    names, areas = Counter(one.name for one in PLANTED), {one.file.split("/")[0] for one in PLANTED}
    assert max(names.values()) == 1 and len(names) >= 40
    assert areas >= {"model", "train", "quantize", "patches", "stream", "evaluate", "export"}
