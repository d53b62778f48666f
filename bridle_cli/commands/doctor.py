"""`bridle doctor`: would everything work on this machine?"""

from __future__ import annotations

import click

from bridle import api
from bridle.errors import EnvironmentFault
from bridle_cli import options
from bridle_cli.console import Console


@click.command(name="doctor", cls=options.Command)
@options.shared
@click.pass_obj
def command(console: Console) -> None:
    """Check this machine: versions, decoders, devices.

    Also checks memory and disks. Each finding has a remedy. Ends with exit code 5 if a check fails.

    \b
    Examples:
      bridle doctor
      bridle doctor --json
    """
    found = api.doctor()
    if console.json:
        console.record({"findings": found})
    else:
        rows = [(one["status"], one["check"], one["found"], one["remedy"]) for one in found]
        console.table(("status", "check", "found", "remedy"), rows)
    faults = [one["check"] for one in found if one["status"] == "fault"]
    if faults:
        raise EnvironmentFault(f"Checks failed: {', '.join(faults)}.", "See the table for fixes.")
