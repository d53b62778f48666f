"""`bridle report`: a run -> one HTML file that shows how it went and what it learned.

The folder of the run alone is enough for curves, results and facts; with its data the page also shows clips, their
codes and a map of what the encoder makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bridle import progress
from bridle.checkpoint import load_model
from bridle.errors import DataError, UsageError
from bridle.model import Bridle
from bridle.outputs import disk_errors, exists, write_text
from bridle.report import cards, clips, codebooks, curves, facts, maps, results
from bridle.report.facts import Facts
from bridle.report.page import render
from bridle.report.scale import number
from bridle.storage import Location, recorded

FILE = "report.html"
_WARNED = 50  # skipped clips that the page lists


@dataclass(slots=True)
class Found:
    """What the sections of the page show; `notes` say why something is missing.

    Attributes:
        agreement: share of clips whose nearest other one has the same label.
    """

    codebooks: list[Any] = field(default_factory=list)
    codebooks_of: str = ""
    use: list[Any] = field(default_factory=list)
    atlas: cards.Atlas | None = None
    cards: list[cards.Card] = field(default_factory=list)
    crowded: bool = False
    agreement: float | None = None
    seen: clips.Seen | None = None
    notes: dict[str, str] = field(default_factory=dict)


def write_report(
    run: Path,
    *,
    data: Location | None = None,
    out: Path | None = None,
    count: int = 12,
    device: str = "cpu",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the report of a run.

    Args:
        data: a folder of media or shards; None: the run's own shards, and what is missing of them is left out.
        out: the file; None: `report.html` in the run.
        count: clips that are shown with their code maps and neighbours; up to 1000 are on the maps.

    Returns:
        `{run, out, bytes, sections, clips, skipped}`: what the page has to show, how many clips were seen, how many
        could not be read.

    Raises:
        DataError: no run, or `data` that do not exist or are of another modality.
        UsageError: the file exists, or a file stands where its folder should.
        EnvironmentFault: it cannot be written.
    """
    known = facts.read_facts(run)
    out = out or run / FILE
    if out.is_dir() or (out.exists() and not overwrite):
        raise exists(out)
    if (there := next(one for one in out.absolute().parents if one.exists())) and not there.is_dir():
        raise UsageError(f"{there} is a file, not a folder", "Choose another --out.")
    found, model = Found(), _model(run, device)
    places, why = _places(known, data)
    if not isinstance(model, Bridle):
        found.notes["clips"] = model
    elif why:
        _without_clips(found, why)
    else:
        _look(found, model, places, data is not None, count)
    _codebooks(found, model, known)
    page = _page(known, found, model, places, device)
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, page)
    return {
        "run": str(run),
        "out": str(out),
        "bytes": out.stat().st_size,
        "sections": _sections(known, found),
        "clips": len(found.seen.paths) if found.seen else 0,
        "skipped": len(found.seen.skipped) if found.seen else 0,
    }


def _model(run: Path, device: str) -> Bridle | str:
    """The newest checkpoint, or why there is none."""
    try:
        return load_model(run, device=device)
    except DataError as error:
        progress.warn(f"{error.message} The report has no clips and codes.")
        return f"No model could be loaded: {error.message}"


def _places(known: Facts, data: Location | None) -> tuple[list[Location], str]:
    """Where the clips lie, or why they are not looked at."""
    try:
        return [data] if data else [recorded(place, known.run, "--data") for place in known.state["shards"]], ""
    except DataError as error:
        return [], error.message


def _without_clips(found: Found, why: str) -> None:
    found.notes["clips"] = f"The data of the run cannot be read: {why}. Set their location with --data."
    progress.warn(f"{why}; the report has no clips. Set the location of the data with --data")


def _look(found: Found, model: Bridle, places: Sequence[Location], must: bool, count: int) -> None:
    """Clips through the model; `must`: the user named the data, and wants to know what is wrong with them."""
    try:
        seen = clips.look(model, places)
    except (DataError, OSError) as error:
        if must:
            raise
        _without_clips(found, error.message if isinstance(error, DataError) else str(error))
        return
    found.seen = seen
    if not seen.paths:
        found.notes["clips"] = f"None of the {len(seen.skipped)} selected clips can be read."
        return
    if not seen.health:
        found.notes["codes"] = "The model has no codes yet: its codebooks were never trained."
    cosine_FR, near_FR = maps.neighbours(seen.vectors_FD, cards.NEIGHBOURS)
    found.cards, found.crowded = cards.make_cards(seen, model, count, cosine_FR, near_FR)
    found.atlas = cards.make_atlas(seen)
    if not found.atlas.maps:
        found.notes["map"] = "No map: it needs at least two clips with finite, different vectors."
    elif near_FR.shape[1]:
        found.agreement = maps.agreement(seen.labels, near_FR[:, 0])


def _codebooks(found: Found, model: Bridle | str, known: Facts) -> None:
    """Health over the clips that were looked at; without any, of the newest result that tells it."""
    of, levels = results.newest_levels(known.results)
    codes = model.config.quantizer.codes if isinstance(model, Bridle) else 0
    seen = found.seen
    if seen and seen.health and seen.codes:
        of = f"{number(len(seen.paths))} clips, {number(seen.health.patches)} patches"
        levels = seen.health.report()
        for level, bits in zip(levels, seen.label_bits, strict=False):
            level["label_bits"] = bits
        count_QK = seen.health.count_QK
        found.use = [codebooks.use_map(count_QK), codebooks.rank_curve(count_QK)]
    found.codebooks, found.codebooks_of = codebooks.health_charts(levels, codes), of
    if not levels:
        found.notes["codebooks"] = found.notes.get("codes") or "Codebook usage is unknown without clips."


def _sections(known: Facts, found: Found) -> list[str]:
    """Those that have something to show."""
    has = {
        "training": bool(known.rows),
        "codebooks": bool(found.codebooks),
        "map": bool(found.atlas and found.atlas.maps),
        "clips": bool(found.cards),
        "results": bool(known.results),
        "facts": True,
    }
    return [name for name, there in has.items() if there]


def _page(known: Facts, found: Found, model: Bridle | str, places: Sequence[Location], device: str) -> str:
    codes = model.config.quantizer.codes if isinstance(model, Bridle) else 0
    of, levels = results.newest_levels(known.results)
    wrong_of, wrong = results.wrong_clips(known.run, known.results)
    seen = found.seen
    return render(
        name=known.name,
        modality=str(known.summary.get("modality") or known.state.get("modality") or ""),
        preset=known.state["preset"],
        status=str(known.summary.get("status", known.state["status"])),
        tiles=_tiles(known, found, model),
        phases=_phases(known),
        curves=curves.curves(known.rows, codes),
        reading=codebooks.READING,
        machine=curves.machine(known.rows),
        found=found,
        numbers={path: at for at, path in enumerate(seen.paths)} if seen else {},
        skipped=list(seen.skipped.items())[:_WARNED] if seen else [],
        sheet=cards.data_uri("image/jpeg", seen.sheet) if seen and seen.sheet else "",
        sheet_side=clips.SHEET_SIDE,
        sheet_columns=clips.SHEET_COLUMNS,
        judged=results.table(known.results),
        confusion=results.confusion(known.results),
        levels=levels,
        levels_of=of,
        wrong=wrong,
        wrong_of=wrong_of,
        tables=_tables(known, model, places, device),
        config=known.config,
        damage=known.damage,
    )


def _tables(
    known: Facts, model: Bridle | str, places: Sequence[Location], device: str
) -> list[tuple[str, facts.Table]]:
    tables = [
        ("Run", facts.run_table(known)),
        ("Model", facts.model_table(model) if isinstance(model, Bridle) else []),
        ("Data", facts.data_table(places)),
        ("This report", facts.machine_table(device)),
    ]
    return [(title, rows) for title, rows in tables if rows]


def _phases(known: Facts) -> list[dict[str, Any]]:
    return [asdict(band) | {"what": curves.KINDS.get(band.kind, "")} for band in curves.phases(known.rows)]


def _tiles(known: Facts, found: Found, model: Bridle | str) -> list[tuple[str, str, str]]:
    """The figures that matter: value, name, a word on it."""
    rows, tiles = known.rows, list[tuple[str, str, str]]()
    seconds = curves.last(rows, "seconds")
    tiles.append((number(known.steps), "steps", f"in {facts.span(seconds)}" if seconds else ""))
    if (clip_count := known.result.get("clips")) is not None:
        tiles.append((number(clip_count), "clips seen", "counted once per use"))
    if (loss := curves.last(rows, "loss")) is not None:
        phase = next((str(row.get("phase", "")) for row in reversed(rows) if row.get("loss") == loss), "")
        tiles.append((number(float(loss)), "last loss", f"{phase} phase" if phase else ""))
    usage = next((curves.level_values(row, "usage") for row in reversed(rows) if row.get("usage")), [])
    if usage:
        tiles.append((f"{100 * min(usage):.0f} %", "codes in use", f"least used of {len(usage)} levels, last log line"))
    if best := curves.best_probe(rows):
        tiles.append((f"{100 * best[0]:.1f} %", "best online probe", f"kNN at step {number(best[1])}"))
    if head := results.headline(known.results):
        tiles.append((head[0], "newest evaluation", head[1]))
    if found.agreement is not None:
        tiles.append((f"{100 * found.agreement:.0f} %", "neighbours agree", "nearest clip has the same label"))
    if isinstance(model, Bridle):
        quantizer = model.config.quantizer
        codes = f"{quantizer.levels} levels of {quantizer.codes} codes"
        tiles.append((f"{facts.parameters(model) / 1e6:.2f} M", "parameters", codes))
    return tiles
