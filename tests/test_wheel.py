"""What is released holds what is needed: sdist, the wheel made of it, and that installed where nothing else is ours.

A full installation would fetch 5 GB of libraries. Here a new environment looks them up where the tests run, by a `.pth`
that carries no editable bridle; so this says nothing on whether pip can resolve the ranges of setup.cfg: that is what
`make test-minimal` and `make test-latest` do.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from standins import SMALL_RUN

import bridle

ROOT = Path(__file__).resolve().parent.parent
DATA = (".yaml", ".html", ".css", ".js", ".typed")
BUILD = "from setuptools import build_meta; import sys; build_meta.build_sdist(sys.argv[1])"
ASK = """
import bridle, json, sys
from bridle.config import presets
from bridle.evaluate.finetune.recipe import load_recipe, recipe_names
from bridle.report.page import render
from bridle.tasks import load_task, task_names
from bridle_cli.main import main
assert bridle.__file__.startswith(sys.prefix), bridle.__file__
assert len(presets()) >= 15 and len([load_task(name) for name in task_names()]) >= 9
assert len([load_recipe(name, "", "audio") for name in recipe_names()]) >= 8
assert [main(words) for words in json.loads(sys.argv[1])] == [0, 0, 0]
"""
SCRIPT = """
import bridle
from bridle import api

plan = api.pretrain("shards/photos", recipe=api.Recipe(preset="image-tiny"), dry_run=True)
version: str = bridle.__version__
reveal_type(plan)
api.pretrain("shards/photos", recipe="image-tiny")
"""


@dataclass(frozen=True, slots=True)
class Released:
    sdist: Path
    wheel: Path
    prefix: Path

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """A program of the new environment, away from the checkout."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        program = [str(self.prefix / "bin" / words[0]), *words[1:]]
        return subprocess.run(program, env=clean, capture_output=True, text=True, **options)

    def must(self, *words: str, **options: Any) -> str:
        done = self.run(*words, **options)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout[-1000:]} {done.stderr[-2000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Released:
    work = tmp_path_factory.mktemp("release")
    prefix, dist = work / "clean", work / "dist"
    subprocess.run([sys.executable, "-m", "venv", str(prefix)], check=True)
    # The backend that pyproject.toml asks for; everything after works without the registry.
    fetch = [str(prefix / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    fetched = subprocess.run([*fetch, "setuptools>=77", "wheel"], capture_output=True, text=True)
    if fetched.returncode and "No matching distribution" in fetched.stderr:
        pytest.skip("no package index can be reached for setuptools")
    assert fetched.returncode == 0, fetched.stderr[-2000:]
    clean = Released(dist, dist, prefix)
    source = work / "source"
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(".git", ".venv*", ".*_cache", "build", "dist", "*.egg-info", "__pycache__"),
    )
    shutil.rmtree(source / "runs", ignore_errors=True)
    dist.mkdir()
    clean.must("python", "-c", BUILD, str(dist), cwd=source)
    (sdist,) = dist.glob("*.tar.gz")
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--disable-pip-version-check")
    clean.must("python", "-m", "pip", "wheel", *offline, "--wheel-dir", str(dist), str(sdist))
    (wheel,) = dist.glob("*.whl")
    clean.must("python", "-m", "pip", "install", *offline, str(wheel))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = prefix / "lib" / version / "site-packages"
    # A path in a .pth comes without the .pth files that lie there, such as the one of an editable bridle.
    (site / "libraries-of-the-tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Released(sdist, wheel, prefix)


def names_below(*folders: str, suffixes: tuple[str, ...]) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in suffixes and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_packages_and_nothing_else(released: Released) -> None:
    with zipfile.ZipFile(released.wheel) as archive:
        names = {*archive.namelist()}
    assert names_below("bridle", "bridle_cli", suffixes=(".py", *DATA)) - names == set()
    assert {name.split("/")[0] for name in names} == {"bridle", "bridle_cli", f"bridle-{bridle.__version__}.dist-info"}


def test_the_sdist_holds_the_tests_and_what_they_read(released: Released) -> None:
    with tarfile.open(released.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = names_below("bridle", "bridle_cli", "tests", suffixes=(".py", *DATA, ".wav", ".jpg", ".mp4"))
    wanted |= {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "constraints.txt", "constraints-minimal.txt"}
    if (ROOT / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        wanted |= {*listed.splitlines()} - {".gitignore"}
    assert wanted - names == set()
    assert released.sdist.stat().st_size < 8_000_000


def test_one_version_everywhere(released: Released) -> None:
    assert f"version: {bridle.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert released.wheel.name == f"bridle-{bridle.__version__}-py3-none-any.whl"
    assert released.must("bridle", "--version") == f"bridle, version {bridle.__version__}\n"
    asked = "from importlib.metadata import version; print(version('bridle'))"
    assert released.must("python", "-c", asked).strip() == bridle.__version__


def test_the_installed_package_runs_without_the_checkout(released: Released, sample: Path, tmp_path: Path) -> None:
    assert "Examples:" in released.must("bridle", "--help", cwd=tmp_path)
    small = [word for one in SMALL_RUN for word in ("--set", one)]
    commands = (
        ["doctor", "--json"],
        ["shard", str(sample / "image"), "--out", "photos", "--workers", "1", "--json"],
        f"pretrain --shards photos --preset image-tiny --steps 2 --device cpu --json {' '.join(small)}".split(),
    )
    lines = released.must("python", "-c", ASK, json.dumps(commands), cwd=tmp_path).splitlines()
    found, _, run = map(json.loads, lines)
    assert [one for one in found["findings"] if one["status"] == "fault"] == []
    assert run["steps"] == 2


def test_its_dependencies_are_there(released: Released) -> None:
    """`pip check` also looks at packages that are none of ours."""
    told = released.run("python", "-m", "pip", "check", "--disable-pip-version-check").stdout
    assert [line for line in told.splitlines() if line.startswith("bridle ")] == []


def test_types_reach_who_imports_it(released: Released, tmp_path: Path) -> None:
    """`py.typed`: a checker believes the annotations of the installed package; without it all would be Any."""
    if not any(one.name == "mypy" for one in distributions()):
        pytest.skip("needs mypy")
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "mypy.ini").write_text("[mypy]\nfollow_imports = skip\n[mypy-bridle.*]\nfollow_imports = normal\n")
    check = [sys.executable, "-m", "mypy", "--python-executable", str(released.prefix / "bin/python"), "script.py"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    told = subprocess.run(check, cwd=tmp_path, env=clean, capture_output=True, text=True).stdout
    assert re.search(r'script.py:7: note: Revealed type is ".*bridle\.api\.results\.RunResult.*"', told), told
    # It names the function or the protocol that stands for it, by what of the package it saw before.
    assert re.search(r'script.py:8: error: Argument "recipe" to .* has incompatible type "str"', told), told
    assert "Found 1 error" in told, told
