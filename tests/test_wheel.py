"""What is installed holds what is needed: a wheel, unpacked elsewhere, finds its own data."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import bridle

ROOT = Path(__file__).resolve().parent.parent
DATA = (".yaml", ".html", ".css", ".js", ".typed")
ASK = """
import bridle
from bridle.config import presets
from bridle.evaluate.finetune.recipe import load_recipe, recipe_names
from bridle.report.page import render
from bridle.tasks import load_task, task_names
assert bridle.__file__.startswith({place!r}), bridle.__file__
assert len(presets()) >= 15 and len([load_task(name) for name in task_names()]) >= 9
assert len([load_recipe(name, "", "audio") for name in recipe_names()]) >= 8
"""


def test_a_wheel_holds_all_that_the_tree_holds(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "runs", "tests"))
    (tmp_path / "wheels").mkdir()
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*pip, str(tmp_path / "wheels"), str(source)], check=True, timeout=240)
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {*archive.namelist()}
        archive.extractall(tmp_path / "installed")
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in ("bridle", "bridle_cli")
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", *DATA) and "__pycache__" not in path.parts
    }
    assert wanted - names == set()
    place = str(tmp_path / "installed")
    environment = {**os.environ, "PYTHONPATH": place}
    subprocess.run(
        [sys.executable, "-c", ASK.format(place=place)], cwd=tmp_path, env=environment, check=True, timeout=240
    )


def test_the_citation_is_of_this_version() -> None:
    assert f"version: {bridle.__version__}\n" in (ROOT / "CITATION.cff").read_text()
