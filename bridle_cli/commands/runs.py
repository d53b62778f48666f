"""`bridle runs`: what was trained, and how far."""

from __future__ import annotations

from pathlib import Path

import click

from bridle import api
from bridle_cli import options
from bridle_cli.console import Console


@click.command(name="runs", cls=options.Command)
@click.argument("root", type=options.PATH, default=Path("runs"))
@options.shared
@click.pass_obj
def command(console: Console, root: Path) -> None:
    """List runs, newest first.

    ROOT is the folder of the runs (default: runs).

    Status: running, complete, interrupted (by a signal), stopped (killed), failed, damaged. All but the first two
    continue with bridle pretrain --resume RUN.

    \b
    Examples:
      bridle runs
      bridle runs /data/runs
      bridle runs --json
    """
    found = api.runs(root)
    if console.json:
        for one in found:
            console.record(one)
        return
    if not found:
        console.note(f"no runs below {root}; Train one: bridle pretrain --shards shards/")
        return
    rows = []
    for one in found:
        probe = "-" if one["best_probe"] is None else f"{100 * one['best_probe']:.1f} % at {one['best_step']}"
        rows.append(
            (one["run"], one["status"], one["preset"], one["step"], one["loss"], probe, f"{one['bytes'] / 1e6:.0f} MB")
        )
    console.table(("run", "status", "preset", "step", "loss", "best probe (kNN)", "size"), rows)
