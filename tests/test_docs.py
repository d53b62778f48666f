"""The documentation is true: pages build, links lead somewhere, and what they tell the reader to type works.

Every block of Python or shell is either run here, page by page in a fresh folder as a reader would, or listed in
`NOT_RUN` with the reason; the commands of those are parsed, as are those within the text. Lengths of training are cut
(`BUDGET`), so that figures are others than in the pages: of each line that is shown the rest is compared (`stable`).
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pages
import pytest
import release_layouts
from pages import ROOT, Block
from typed import parse

from bridle_cli.main import main

BUDGET = (re.compile(r"--(?:steps|max-minutes) [\d.]+"), "--steps 8")

# Pages that are run one after the other in one folder, as somebody would read them.
RUN = {
    "readme": ["README.md", "docs/guide.md", "docs/report.md"],
    "sound": [
        "docs/tutorials/audio.md",
        "docs/reference/python.md",
        "shards/README.md",
        "docs/howto/own-data.md",
        "docs/howto/long-audio.md",
        "docs/howto/embeddings.md",
        "docs/codes.md",
        "docs/howto/fine-tuning.md",
        "docs/evaluation.md",
    ],
    "photos": ["docs/tutorials/image.md"],
    "video": ["docs/tutorials/video.md"],
}
NAMES = {"shards/README.md": ("NAME", "digits")}  # what a page calls by a general name
# What the guide calls by general names in its list.
OWN = {"runs/NAME": "runs/voices-audio-tiny", "NAME": "voices", "FOLDER": "voices", "CLIP": "voices/7/7_theo_0.wav"}
OWN |= {"DIR": "exported", "FILE": "bridle.yaml", "A B": "audio-tiny bridle.yaml"}

# Whole pages, or blocks by their beginning.
NOT_RUN = {
    "CONTRIBUTING.md": "what make does is what CI does",
    "docs/export.md": "tests/bridle/export/test_export_onnx.py runs its code",
    "docs/howto/cluster.md": "several machines; tests/bridle/decoding/test_ray.py has a cluster on one",
    "docs/howto/object-storage.md": "a bucket; tests/bridle/storage/test_storage.py has one and runs it",
    "docs/install.md": "it would install into this environment",
    "docs/performance.md": "benchmarks",
    "docs/results.md": "benchmarks",
    "docs/scaling.md": "several devices; tests/bridle/train/test_train_ranks.py has two processes",
    "README.md: git clone": "CI begins with it",
    "docs/codes.md: from compact": "a file that is copied; tests/bridle/formats/test_codes_file.py runs it alone",
    "docs/howto/fine-tuning.md: bridle eval --task esc50": "needs the release of ESC-50",
}


def reason(block: Block) -> str | None:
    """Why a block is not run."""
    for key, why in NOT_RUN.items():
        page, _, beginning = key.partition(": ")
        if page == block.page and block.text.startswith(beginning):
            return why
    return None


@pytest.mark.parametrize("name", RUN)
def test_what_the_pages_tell_to_type_works(name, tmp_path, monkeypatch, capsys, inline, one_thread) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "media").symlink_to(ROOT / "tests" / "media")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRIDLE_CACHE", str(tmp_path / "cache"))
    for page in RUN[name]:
        everything, names = pages.blocks(page), dict[str, object]()
        for block, following in zip(everything, [*everything[1:], None]):
            if not block.runs or reason(block):
                continue
            shown = (
                block.text
                if "$ " in block.text
                else following.text
                if following and following.language == "text"
                else ""
            )
            printed = run(block, names, capsys)
            assert stable(shown) - stable(printed) == set(), f"{page}:{block.line} shows what is not printed"


def test_what_the_guide_lists_for_own_data_works(tmp_path, monkeypatch, capsys, inline, one_thread) -> None:
    shutil.copytree(ROOT / "tests" / "media" / "audio", tmp_path / "voices")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRIDLE_CACHE", str(tmp_path / "cache"))
    commands = list(pages.mentioned("docs/guide.md"))
    commands = commands[commands.index("bridle shard FOLDER --modality audio") :]
    for command in (one for one in commands if one != "bridle eval"):  # that is its name
        for general, own in OWN.items():
            command = re.sub(rf"\b{general}\b", own, command)
        if command.startswith("bridle pretrain --config"):
            command += " --steps 8"
        assert main(shlex.split(command)[1:]) == 0, f"{command}\n{capsys.readouterr().err[-2000:]}"


def run(block: Block, names: dict[str, object], capsys: pytest.CaptureFixture[str]) -> str:
    """Executes a block in this process, which has PyTorch already; what it printed."""
    text = block.text.replace(*NAMES.get(block.page, ("", "")))
    capsys.readouterr()
    if block.language == "python":
        exec(compile(text, f"{block.page}:{block.line}", "exec"), names)
    for command in block.commands:
        arguments = shlex.split(BUDGET[0].sub(BUDGET[1], command), comments=True)
        if arguments[:2] == ["python", "tests/release_layouts.py"]:
            release_layouts.main(Path(arguments[2]))
            continue
        assert arguments[0] == "bridle", f"{block.page}:{block.line} {command}: nothing but bridle is run here"
        assert main(arguments[1:]) == 0, f"{block.page}:{block.line} {command}\n{capsys.readouterr().err[-2000:]}"
    return "".join(capsys.readouterr())


def stable(output: str) -> set[str]:
    """Lines without what depends on the length of training: figures, however many, marks, and which file is found."""
    lines = []
    for line in output.splitlines():
        words = [re.sub(r"\S+\.(?:wav|jpg|mp4)", "FILE", word) for word in line.split() if word.strip("─")]
        words = ["#" if re.fullmatch(r"[\[+-]?\d[\d.e-]*[],%]*|\.\.\.", word) else word for word in words]
        words = ["-" if word in ("+", "=") else word for word in words]
        lines.append(" ".join(word for word, before in zip(words, ["", *words]) if (word, before) != ("#", "#")))
    return {line for line in lines if line.strip("# ") and not line.startswith("$ ")}


def test_every_block_is_run_or_excused() -> None:
    run_pages = {page for some in RUN.values() for page in some}
    missed = [
        f"{block.page}:{block.line}"
        for page in pages.PAGES
        for block in pages.blocks(page)
        if block.runs and page not in run_pages and not reason(block)
    ]
    assert missed == []


def test_every_excuse_is_needed() -> None:
    everything = [block for page in pages.PAGES for block in pages.blocks(page) if block.runs]
    for key in NOT_RUN:
        page, _, beginning = key.partition(": ")
        assert any(block.page == page and block.text.startswith(beginning) for block in everything), key


def test_commands_that_are_shown_can_be_read() -> None:
    placeholder = re.compile(r"\.\.\.|\[|\||<")
    for page in pages.PAGES:
        for block in pages.blocks(page):
            for command in block.commands:
                if command.startswith("bridle ") and placeholder.search(command.split("#")[0].split("'")[0]) is None:
                    parse(command)
        for command in pages.mentioned(page):
            if command.split()[1] in pages.every_command():
                assert pages.unknown_options(command) == [], f"{page}: {command}"


@pytest.mark.parametrize("page", pages.PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in pages.links(page):
        address = urlsplit(link)
        if address.scheme:
            assert address.scheme == "https" and "." in address.netloc and " " not in link, link
            continue
        target = (ROOT / page).parent / unquote(address.path) if address.path else ROOT / page
        assert target.exists() and target.resolve().is_relative_to(ROOT), f"{link} leads nowhere"
        if address.fragment:
            assert address.fragment in pages.anchors(target.resolve().relative_to(ROOT).as_posix()), link


def test_install_names_every_extra() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = set(setup["options.extras_require"]) - {"bench", "test", "dev"}
    rows = re.findall(r"^\| (`.+?`) \|", (ROOT / "docs" / "install.md").read_text(), re.MULTILINE)
    assert wanted <= set(re.findall(r"`([a-z0-9]+)`", " ".join(rows)))


def test_pictures_are_small() -> None:
    assert [path.name for path in (ROOT / "docs").rglob("*.png") if path.stat().st_size > 150_000] == []


class Page(HTMLParser):
    """What a built page loads, where it leads and what can be led to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded, self.links, self.ids = list[str](), list[str](), set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.add(str(found["id"]))
        if tag == "a":
            self.links.append(found.get("href") or "")
        elif tag in ("script", "img", "iframe", "source", "video", "audio"):
            self.loaded.append(found.get("src") or "")
        elif tag == "link" and found.get("rel") != "canonical":
            self.loaded.append(found.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="needs the extra [docs]")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},  # Material's notice, not of our pages
        capture_output=True,
        text=True,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "WARNING" not in said, said[-3000:]
    return out


def built(site: Path) -> Iterator[tuple[Path, Page]]:
    for path in site.rglob("*.html"):
        yield path, Page(path.read_text("utf-8"))


def test_the_site_needs_no_network(site: Path) -> None:
    outside = [(path.name, one) for path, page in built(site) for one in page.loaded if re.match(r"(https?:)?//", one)]
    assert outside == []
    sheets = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheets) == []


def test_links_of_the_site_lead_somewhere(site: Path) -> None:
    found = dict(built(site))
    for path, page in found.items():
        if path.name == "404.html":
            continue
        for link in page.links:
            address = urlsplit(link)
            if address.scheme or address.netloc or not link:
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            assert target.exists(), f"{path.name}: {link}"
            if address.fragment and target in found:
                assert address.fragment in found[target].ids | {"__skip"}, f"{path.name}: {link}"


def test_every_key_of_the_configuration_has_a_meaning() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", pages.hook("configuration").keys(), re.MULTILINE)
    assert len(rows) > 60
    assert {key for key, meaning in rows if not meaning.strip()} == {"modality"}


def test_the_reference_is_complete(site: Path) -> None:
    from bridle import api
    from bridle.config import sections

    said = {path.stem: path.read_text("utf-8") for path in (site / "reference").glob("*.html")}
    for name in pages.every_command():
        assert f">bridle {name}<" in said["commands"]
    assert "--group-by" in said["commands"]
    patches = (sections.AudioPatches, sections.ImagePatches, sections.VideoPatches)
    parts = [
        kind for field in sections.Config.model_fields.values() if hasattr(kind := field.annotation, "model_fields")
    ]
    assert len(parts) == len(sections.Config.model_fields) - 1  # patches are of three kinds
    for kind in (*parts, *patches):
        for key in {*kind.model_fields} - {"modality"}:
            assert f"<code>{key}</code>" in said["configuration"], f"{kind.__name__}.{key}"
    assert ">audio-paper<" in said["configuration"]
    for name in (*(f"api.{one}" for one in api.__all__), "Pretrained.embed", "ResidualQuantizer.decode"):
        assert f">{name}<" in said["python"], name
    assert "filled from" not in "".join(said.values())
