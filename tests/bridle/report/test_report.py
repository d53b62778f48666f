"""The report of a run: numbers that can be worked out by hand, then whole pages, read as a browser reads them."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import browser
import pytest
import soundfile
import standins
import torch
from PIL import Image

from bridle import api, checkpoint
from bridle.errors import DataError, MediaError, UsageError
from bridle.media import preview, thumbnail
from bridle.report import charts, clips, codebooks, curves, lines, maps, results, scale
from bridle.report.code_maps import code_map, code_ranks, palette
from bridle.schema import Clip, Modality
from bridle_cli.main import main

pytestmark = pytest.mark.usefixtures("one_thread")  # what is computed here is so small that threads mostly wait
SECTIONS = ["training", "codebooks", "map", "clips", "results", "facts"]
HOSTILE = "<img src=x onerror=alert(1)>&\"'ü\u202e"
VOID = {"meta", "img", "input", "source", "link", "br"}


class Page(HTMLParser):
    """What a page holds: tags with their attributes, the drawings, and whether every tag that opens closes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.svgs = [ET.fromstring(svg) for svg in re.findall(r"<svg .*?</svg>", text, re.DOTALL)]
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def sources(self, tag: str, name: str = "src") -> list[str]:
        return [str(attributes[name]) for found, attributes in self.tags if found == tag and attributes.get(name)]

    def classes(self, kind: str) -> int:
        return sum(kind in (attributes.get("class") or "").split() for _, attributes in self.tags)


def content(uri: str) -> bytes:
    return base64.b64decode(uri.split(",", 1)[1], validate=True)


def read(file: Path) -> Page:
    """The page, checked for what must hold of every page: it fetches nothing, its pictures and sounds are whole."""
    text = file.read_text(encoding="utf-8")
    page = Page(text)
    places = [
        value
        for _, told in page.tags
        for key, value in told.items()
        if key in ("src", "srcset", "href", "data", "poster")
    ]
    assert all(str(value).startswith(("data:", "#")) for value in places)
    assert not re.search(r"url\((?!\"data:)|@import|<link|fetch\(|XMLHttp", text)
    assert "default-src 'none'" in text
    for uri in page.sources("img") + page.sources("source", "srcset"):
        Image.open(io.BytesIO(content(uri))).load()
    for uri in page.sources("audio"):
        samples, rate_hz = soundfile.read(io.BytesIO(content(uri)))
        assert len(samples) and rate_hz > 0
    return page


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """A run of some steps of each modality, in folders of its name, and its shards beside it."""
    root = tmp_path_factory.mktemp("report")
    small = [one for one in standins.SMALL_RUN if not one.startswith("patches.")]
    for modality in ("audio", "image", "video"):
        api.shard(sample / modality, modality=modality, labels="folder", out=root / "shards" / modality, workers=1)
        recipe = api.Recipe(preset=f"{modality}-tiny", sets=(*small, "train.probe_every=4", "train.probe_clips=40"))
        api.pretrain(root / "shards" / modality, recipe=recipe, out=root / modality, steps=12)
    return root


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Path:
    """A run of pictures that the test may spoil."""
    shutil.copytree(runs / "image", tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink(missing_ok=True)
    return tmp_path / "run"


# --- numbers -----------------------------------------------------------------------------------------------------


def test_ticks_are_round() -> None:
    assert scale.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert scale.ticks(0.13, 4.4) == [1, 2, 3, 4]
    assert scale.ticks(-3, 47) == [0, 10, 20, 30, 40]
    assert scale.ticks(5, 5) == [5]


def test_extent_is_never_empty() -> None:
    assert scale.extent([1.0, 3.0]) == pytest.approx((0.9, 3.1))
    assert scale.extent([2.0], low=0.0) == (0.0, 2.1)
    assert scale.extent([2.0, 2.0]) == pytest.approx((1.8, 2.2))
    assert scale.extent([0.0], low=0.0) == (0.0, 1.0)
    assert scale.extent([float("nan")], 0.0, 1.0) == (0.0, 1.0)


def test_lines_break_at_gaps_and_phases() -> None:
    points = [(1, 1.0), (2, None), (3, 3.0), (4, float("nan")), (5, 5.0), (6, 6.0)]
    assert scale.pieces(points, [5]) == [[(1, 1.0)], [(3, 3.0)], [(5, 5.0)], [(6, 6.0)]]
    assert scale.pieces([]) == []


def test_thinning_keeps_ends_and_peaks() -> None:
    points = [(float(at), 0.0) for at in range(5000)]
    points[1234], points[4321] = (1234.0, 9.0), (4321.0, -9.0)
    kept = scale.thin(points, 100)
    assert len(kept) <= 100
    assert {points[0], points[-1], points[1234], points[4321]} <= set(kept)
    assert kept == sorted(kept)
    assert scale.thin(points[:7], 100) == points[:7]


def test_numbers_as_people_read_them() -> None:
    told = [0, 0.1574, 12345, 1.0, 0.000032, None, float("nan"), 61.68]
    assert [scale.number(one) for one in told] == ["0", "0.157", "12\u202f345", "1", "3.2e-5", "–", "–", "61.7"]
    assert [scale.short(one) for one in (500, 20000, 1e6, 0.05)] == ["500", "20k", "1M", "0.05"]
    assert [scale.size(one) for one in (999, 3_200_000)] == ["999 B", "3.2 MB"]


def test_an_axis_whose_ends_were_given_equal_is_drawn() -> None:
    """As without a model, whose number of codes is not known."""
    assert scale.extent([3.0], low=0.0, high=0.0) == (0.0, 1.0)
    chart = lines.line_chart("t", [lines.Line("a", [(1, 0.5), (2, 0.5)])], low=0.0, high=0.0)
    assert chart and ET.fromstring(chart.svg).findall("{*}polyline")


def test_a_line_chart_puts_points_where_they_belong() -> None:
    line = lines.Line("a", [(0, 0.0), (10, 1.0)])
    chart = lines.line_chart("t", [line], [lines.Band(0, 10, "cold", "cold")], low=0.0, high=1.0)
    assert chart
    root = ET.fromstring(chart.svg)
    (drawn,) = root.findall("{*}polyline")
    assert drawn.get("points") == "54.0,212.0 468.0,22.0"
    assert [rect.get("width") for rect in root.findall("{*}rect")] == ["414"]
    assert lines.line_chart("t", [lines.Line("a", [(1, None), (2, float("inf"))])]) is None


def test_bars_and_cells_have_the_size_of_their_values() -> None:
    bars = ET.fromstring(charts.bar_chart("t", [1.0, 0.5, float("nan")], most=1.0).svg)
    tall = [float(rect.get("height", "")) for rect in bars.findall("{*}rect")]
    assert tall == [112, 56, 0]
    cells = ET.fromstring(charts.heat_map("t", [[0.0, 0.5, 2.0]], ["level 1"], x_name="code").svg).findall("{*}rect")
    assert [(cell.get("class"), cell.get("fill-opacity")) for cell in cells] == [
        ("dead", None),
        ("heat", "0.53"),
        ("heat", "1"),
    ]


def test_forty_labels_differ_in_colour_or_mark() -> None:
    assert len({(charts.kind(at), charts.mark(at)) for at in range(40)}) == 40


def test_neighbours_are_the_nearest_by_cosine_from_the_mean() -> None:
    vectors_FD = torch.tensor([[3.0, 1.0], [4.0, 1.0], [-3.0, 1.0], [-4.0, 0.0], [0.0, -3.0]])
    cosine_FR, near_FR = maps.neighbours(vectors_FD, 2)
    assert near_FR[:4, 0].tolist() == [1, 0, 3, 2]
    assert cosine_FR[0, 0] == pytest.approx((9 + 3 * 1 + 1) / (10 * 17) ** 0.5, abs=0.02)
    assert (cosine_FR[:, 0] >= cosine_FR[:, 1]).all()
    assert maps.neighbours(vectors_FD[:1], 5)[1].shape == (1, 0)


def test_agreement_counts_labelled_clips() -> None:
    nearest_F = torch.tensor([1, 0, 3, 0])
    assert maps.agreement(["a", "a", "b", "b"], nearest_F) == 0.75
    assert maps.agreement(["a", "b", "", ""], nearest_F) == 0.0
    assert maps.agreement(["a", "a", "", ""], nearest_F) is None
    assert maps.agreement([""] * 4, nearest_F) is None


def test_maps_of_few_or_equal_clips() -> None:
    assert maps.make_maps(torch.zeros(9, 4)) == []
    assert maps.make_maps(torch.full((9, 4), torch.nan)) == []
    assert [one.name for one in maps.make_maps(torch.eye(3))] == ["PCA"]
    assert [one.name for one in maps.make_maps(torch.randn(30, 1))] == ["PCA"]
    pca, near = maps.make_maps(torch.randn(30, 4, generator=torch.Generator().manual_seed(0)))
    assert (pca.places_F2.shape, near.places_F2.shape) == ((30, 2), (30, 2))


def test_shown_clips_are_of_every_label_in_turn() -> None:
    labels = ["b", "a", "a", "", "a", "b", "a"]
    assert [labels[clip] for clip in clips.shown(labels, 5)] == ["a", "a", "b", "b", ""]
    assert clips.shown(labels, 2) == [1, 0]
    assert sorted(clips.shown(labels, 99)) == list(range(7))
    assert clips.shown(["x"] * 10, 2) == [0, 5]
    assert clips.shown([], 3) == []


def test_phases_and_gaps_of_the_curves() -> None:
    rows: list[dict[str, Any]] = [
        {"step": 2, "phase": "cold", "phase_index": 0, "loss": 3.0, "usage": [1.0, 0.5]},
        {"step": 4, "phase": "cold", "phase_index": 0, "loss": float("nan"), "usage": [1.0]},
        {"step": 6, "phase": "tokenizer", "phase_index": 1, "loss": "high", "usage": None, "probe": {"knn": 0.5}},
        {"step": 8, "phase": "?", "phase_index": 2, "loss": 10**400, "probe": [1]},
    ]
    bands = [(band.start, band.end, band.kind) for band in curves.phases(rows)]
    assert bands == [(0, 4, "cold"), (4, 6, "tokenizer"), (6, 8, "unknown")]
    titles = [chart.title for chart in curves.curves(rows, 8)]
    assert titles == ["Loss", "Codes in use", "Online probe: nearest neighbours"]
    assert curves.last(rows, "loss") == 3.0
    assert curves.best_probe(rows) == (0.5, 6)
    assert curves.curves([], 8) == curves.machine([]) == []
    assert [chart.title for chart in curves.curves([{"step": 0, "loss": 1.0}], 0)] == ["Loss"]


def test_unused_codes_are_counted() -> None:
    count_QK = torch.tensor([[4.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    chart = codebooks.use_map(count_QK)
    assert "unused, by level: 3, 0" in chart.note
    assert [rect.get("class") for rect in ET.fromstring(chart.svg).findall("{*}rect")].count("dead") == 3
    assert "groups of 16 codes" in codebooks.use_map(torch.ones(1, 2048)).svg


def test_code_maps_stand_upright() -> None:
    """Sound: time to the right, low rows at the bottom. Pictures: a map a time step, side by side."""
    colours_K3 = palette(torch.linspace(0, 1, 6))
    assert len({tuple(colour) for colour in colours_K3.tolist()}) == 6
    sound_THW = torch.tensor([[[0], [1]], [[2], [3]], [[4], [5]]])
    assert (
        code_map(sound_THW, colours_K3, spread=False)[..., :3].tolist() == colours_K3[[[1, 3, 5], [0, 2, 4]]].tolist()
    )
    video_THW = torch.arange(4).view(2, 1, 2)
    picture = code_map(video_THW, colours_K3, spread=True)
    assert picture.shape == (1, 5, 4)
    assert picture[0, 2, 3] == 0  # the gap
    rank_QK = code_ranks(standins.small("image"))
    assert rank_QK.sort(1).values[0].tolist() == pytest.approx([at / 7 for at in range(8)])


def test_previews_of_odd_clips() -> None:
    sound = preview(Clip("k", Modality.AUDIO, torch.randn(50000), 16000), longest_s=2.5)
    assert sound.sound and sound.sound[0] == "audio/mpeg"
    assert sound.length_s == 2.5
    for data, rate_hz in ((torch.zeros(3), 16000.0), (torch.full((900,), torch.nan), 11111.0)):
        heard = preview(Clip("k", Modality.AUDIO, data, rate_hz)).sound
        assert heard and soundfile.read(io.BytesIO(heard[1]))[1] == rate_hz
    tall = preview(Clip("k", Modality.IMAGE, torch.zeros(3, 900, 2, dtype=torch.uint8)), side=90)
    assert (tall.width, tall.height) == (1, 90)
    still = preview(Clip("k", Modality.VIDEO, torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 10.0))
    assert still.moving is None
    with pytest.raises(MediaError):
        thumbnail(Clip("k", Modality.AUDIO, torch.zeros(0), 16000), 40)


# --- pages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["audio", "image", "video"])
def test_a_page_shows_every_section(runs: Path, tmp_path: Path, modality: str) -> None:
    api.evaluate(runs / "shards" / modality, protocol="codes", checkpoint=runs / modality, folds=2)
    out = tmp_path / "new" / "page.html"
    told = api.report(runs / modality, out=out, clips=4)
    page = read(out)
    assert told["sections"] == SECTIONS
    assert told["bytes"] == out.stat().st_size < 15_000_000
    assert [attributes.get("id") for tag, attributes in page.tags if tag == "section"] == SECTIONS
    assert told["skipped"] == 0
    titles = [svg.get("aria-label", "").split(":")[0] for svg in page.svgs]
    assert {"Loss", "Codes in use", "Perplexity of the codes", "Learning rate", "Codebook use; rows"} <= set(titles)
    assert {"CUR (%)", "Entropy (bits)", "Residual energy", "Label information (bits)", "PCA", "t-SNE"} <= set(titles)
    dots = [path for svg in page.svgs if svg.get("class") == "scatter" for path in svg.findall("{*}path")]
    assert len(dots) == 2 * told["clips"]
    assert page.classes("clip") == 4
    assert len(page.sources("audio")) == (4 * 6 if modality == "audio" else 0)
    assert len(page.sources("source", "srcset")) == (4 * 6 if modality == "video" else 0)
    assert page.classes("matrix") == 1
    assert "Most frequent mistakes" in page.text
    assert "Most confident mistakes" in page.text
    assert "of pictures" not in page.text
    for name in ("cold, steps 0 to", "PyTorch", "parameters", "checkpoint"):
        assert name in page.text


def test_previews_stop_before_the_page_is_too_large(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridle.report.cards._BUDGET", 60_000)
    told = api.report(runs / "video", out=tmp_path / "page.html", clips=30)
    page = read(tmp_path / "page.html")
    assert page.classes("clip") == 30
    assert "left out to keep the file small" in page.text
    assert told["bytes"] < 900_000


def test_an_existing_report_stays(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.html").write_text("mine")
    with pytest.raises(UsageError, match="exists"):
        api.report(run)
    assert main(["report", str(run), "--clips", "0"]) == 2
    assert (run / "report.html").read_text() == "mine"
    with pytest.raises(UsageError, match=r"report\.html is a file, not a folder"):
        api.report(run, out=run / "report.html" / "new" / "x.html", on_event=lambda kind, **_: pytest.fail(kind))
    assert main(["report", str(run), "--clips", "0", "--overwrite", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes"] == (run / "report.html").stat().st_size
    assert "clips" not in told["sections"]
    read(run / "report.html")


def test_what_is_no_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        assert main(["report", str(place)]) == 4
        assert "is not a run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_its_data(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = json.loads((run / "state.json").read_text())
    (run / "state.json").write_text(json.dumps(state | {"shards": [str(tmp_path / "gone")]}))
    assert main(["report", str(run)]) == 0
    assert "--data" in capsys.readouterr().err
    page = read(run / "report.html")
    assert "gone does not exist" in page.text
    assert page.classes("clip") == 0
    assert page.svgs
    with pytest.raises(DataError, match="elsewhere"):
        api.report(run, data=tmp_path / "elsewhere", overwrite=True)


def test_clips_without_labels_and_with_hostile_names(run: Path, tmp_path: Path, sample: Path) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    for at, file in enumerate(sorted((sample / "image").rglob("*.jpg"))[:8]):
        shutil.copy(file, folder / f"{at} {HOSTILE.replace('/', '')}.jpg")
    shutil.copy(file, os.fsencode(folder) + b"/no text \xff\x07.jpg")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    told = api.report(run, data=folder)
    page = read(run / "report.html")
    assert (told["clips"], told["skipped"]) == (9, 1)
    assert "no label" in page.text
    assert "1 clips could not be read" in page.text
    assert "broken.jpg" in page.text
    assert "no text \ufffd\ufffd.jpg" in page.text
    assert HOSTILE in page.text
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes]


def test_damaged_metrics_and_hostile_results(run: Path) -> None:
    lines_of = (run / "metrics.jsonl").read_text().splitlines()
    damaged = ['{"step": 13, "loss": NaN, "usage": [NaN, 1], "perplexity": "x", "phase": "</svg><script>"}', "{", "[]"]
    huge = '{"step": 14, "loss": 1e999, "lr": null, "probe": {"knn": Infinity}, "phase": 7}'
    (run / "metrics.jsonl").write_text("\n".join([*lines_of, *damaged, huge, '{"step": ' + "9" * 400 + "}"]))
    matrix = [[3 if row == column else 1 for column in range(40)] for row in range(40)]
    names = [f"{HOSTILE}{at}" * 9 for at in range(40)]
    odd = [
        {"task": HOSTILE, "protocol": None, "value": "x", "ci95": [1], "per_level": [{"level": 1, "cur": None}]},
        {"task": 3, "value": float("inf"), "metric": "accuracy", "ci95": 0, "confusion": [[1]], "classes": ["a", "b"]},
        {"task": "t", "protocol": HOSTILE, "metric": "accuracy", "value": 0.5, "ci95": [0.4, 0.6], "chance": 0.1,
         "confusion": matrix, "classes": names},
    ]  # fmt: skip
    (run / "results.json").write_text(json.dumps(odd))
    api.report(run, clips=1)
    page = read(run / "report.html")
    assert "</svg><script>" in (run / "report.html").read_text().replace("&lt;", "<").replace("&gt;", ">")
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert page.classes("dense") == 1
    assert HOSTILE in page.text


def test_a_run_that_has_just_begun(run: Path) -> None:
    """No rows, no checkpoint, no configuration: what is left is told, and what is not is said."""
    shutil.rmtree(run / "checkpoints")
    for name in ("metrics.jsonl", "config.yaml"):
        (run / name).unlink()
    state = json.loads((run / "state.json").read_text())
    (run / "state.json").write_text(json.dumps({**state, "status": "running", "result": None}))
    warned: list[str] = []
    told = api.report(run, on_event=lambda kind, **fields: warned.append(str(fields.get("message"))))
    page = read(run / "report.html")
    assert told["sections"] == ["facts"]
    assert "stopped" in page.text
    assert "holds no checkpoint" in page.text
    assert len(warned) == 1


def test_a_model_without_codes(run: Path, runs: Path) -> None:
    """Its clips have a map and neighbours, but no code maps."""
    model = checkpoint.load_model(run)
    model.learned.fill_(False)
    model.cold_tokenizer.quantizer.initialised.fill_(False)
    checkpoint.save_model(checkpoint.snapshot(model), Path(model.source), {"step": 12})
    told = api.report(run, data=runs / "shards" / "image", clips=2)
    page = read(run / "report.html")
    assert told["sections"] == ["training", "map", "clips", "facts"]
    assert "has no codes" in page.text
    assert page.classes("clip") == 2


def test_wrong_clips_are_those_of_the_largest_margin(tmp_path: Path) -> None:
    scores_SML = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [0.6, 0.4]]])
    result: dict[str, Any] = {"task": "folder", "protocol": "knn", "checkpoint": "x"}
    checkpoint.add_result(
        tmp_path, result, checkpoint.Tested(["p", "q", "r"], ["a", "b"], torch.tensor([0, 1, 1]), scores_SML)
    )
    of, wrong = results.wrong_clips(tmp_path, [result, {"task": "none kept"}])
    assert of == "folder, knn: 2 of 3 clips"
    assert [(one.path, one.true, one.predicted, one.margin) for one in wrong] == [
        ("q", "b", "a", "0.8"),
        ("r", "b", "a", "0.2"),
    ]


def test_importing_the_report_draws_on_no_network(runs: Path) -> None:
    """The library's own files hold no address but the name space of drawings."""
    import bridle.report

    folder = Path(bridle.report.__file__).parent
    found = {
        url
        for file in folder.rglob("*.*")
        for url in re.findall(r"https?://[^\"'\s)]+", file.read_text("utf-8", "replace"))
    }
    assert found <= {"http://www.w3.org/2000/svg"}


# --- a browser ---------------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(browser.PROGRAM is None, reason="needs Chromium or Chrome on the path")


@pytest.fixture(scope="module")
def pages(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pages")
    for modality in ("audio", "image", "video"):
        api.report(runs / modality, out=out / f"{modality}.html", clips=3)
    return out


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Tab]:
    with browser.Tab(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@needs_browser
@pytest.mark.parametrize("modality", ["audio", "image", "video"])
def test_pages_fit_the_window_and_run_without_an_error(tab: browser.Tab, pages: Path, modality: str) -> None:
    for width in (390, 1280):
        tab.open(pages / f"{modality}.html", width=width)
        assert tab.evaluate("document.documentElement.scrollWidth") <= tab.evaluate("innerWidth") == width
        assert tab.evaluate("getComputedStyle(document.querySelector('#tip')).display") == "none"
        assert tab.faults() == []


@needs_browser
@pytest.mark.parametrize("modality", ["audio", "image", "video"])
def test_pointing_at_marks_reads_them(tab: browser.Tab, pages: Path, modality: str) -> None:
    tab.open(pages / f"{modality}.html")
    tip = "document.querySelector('#tip.on')?.textContent"
    tab.point_at(".pane:nth-child(2) .dot:last-of-type")  # of all dots none lies above the last one
    label = "document.querySelector('.pane:nth-child(2) .dot:last-of-type').getAttribute('aria-label')"
    assert tab.evaluate(tip) == tab.evaluate(label) != ""
    assert tab.evaluate("document.querySelector('#tip .sheet').getBoundingClientRect().width") > 10

    count = 'document.querySelectorAll(".pane:nth-child(2) %s").length'
    tab.point_at(".legend li[data-kind='1']")
    assert tab.evaluate(tip) is None
    assert tab.evaluate(count % ".dot.lit") == tab.evaluate(count % ".dot[data-kind='1']") > 0
    assert float(tab.evaluate("getComputedStyle(document.querySelector('.fade .dot:not(.lit)')).fillOpacity")) < 0.2
    tab.point_at("h1")
    assert tab.evaluate(count % ".dot.lit") == 0

    tab.point_at(".lines[aria-label^='Loss']")
    # The middle of the drawing is at 240 of 480, of the field 54 to 468 that shows steps 0 to 12: step 5.4.
    assert re.fullmatch(r"step 5\nloss: [\d.]+", tab.evaluate(tip))
    assert tab.evaluate("document.querySelector('.lines .cursor').getAttribute('d')").startswith("M")
    tab.point_at("h1")
    assert tab.evaluate("document.querySelector('.lines .cursor').getAttribute('d')") == ""
    assert tab.faults() == []


@needs_browser
def test_maps_are_chosen_by_keyboard(tab: browser.Tab, pages: Path) -> None:
    tab.open(pages / "image.html")
    shown = "[...document.querySelectorAll('.pane')].map(pane => getComputedStyle(pane).display)"
    assert tab.evaluate(shown) == ["none", "block"]
    tab.evaluate("document.querySelector('#map-1').focus()")
    tab.press("ArrowLeft")
    assert tab.evaluate(shown) == ["block", "none"]


@needs_browser
def test_day_and_night(tab: browser.Tab, pages: Path) -> None:
    for dark in (False, True):
        tab.open(pages / "image.html", width=390, height=1600, dark=dark)
        with Image.open(io.BytesIO(content("," + tab.call("Page.captureScreenshot")["data"]))) as picture:
            grey = picture.convert("L")
        assert grey.size == (390, 1600)
        assert (grey.getpixel((2, 2)) < 60) is dark
        histogram = grey.histogram()
        assert sum(histogram[:90] if dark else histogram[165:]) > 0.6 * 390 * 1600  # the ground
        assert sum(histogram[165:] if dark else histogram[:90]) > 0.003 * 390 * 1600  # what is written on it


@needs_browser
def test_errors_of_a_page_are_noticed(tab: browser.Tab, tmp_path: Path) -> None:
    """The three kinds that the tests above must see: an exception, a word on the console, a refusal by the policy."""
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; script-src 'unsafe-inline'\">"
    picture = "const one = new Image(); one.src = 'http://127.0.0.1:1/a.png'"
    for script in ("null.textContent", "console.error('no')", picture):
        (tmp_path / "page.html").write_text(f"{policy}<body><script>{script}</script></body>")
        tab.open(tmp_path / "page.html")
        assert tab.faults(), script
