"""Commands whose work is done in parts: shared among devices, gone on with after an interruption."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bridle import api
from bridle.errors import Interrupted
from bridle_cli.console import Console
from bridle_cli.progress import Progress

_INTERRUPTED = 130, 143
_GO_ON = "finished work is kept; continue with the same command and --resume"


class _Progress(Progress):
    """Knows where the parts are kept that an interrupted command continues from."""

    parts = ""

    def _parts(self, folder: str) -> None:
        self.parts = folder


def several(devices: int) -> bool:
    """Whether this is, or is to become, one of several processes."""
    return devices > 1 or "RANK" in os.environ


def run(console: Console, devices: int, resume: bool, work: Callable[..., Any]) -> None:
    """Does the work, here or in as many processes as there are devices, and shows what came of it.

    Args:
        work: called with `resume` and `on_event`; `{}` from processes but the first.
    """
    if devices > 1 and "RANK" not in os.environ:
        code = api.launch(console.arguments, devices, on_event=Progress(console))
        if code in _INTERRUPTED:
            console.warn(_GO_ON)
            raise Interrupted(code - 128)
        raise click.exceptions.Exit(code)
    rank = os.environ.get("RANK", "0")
    console.quiet = console.quiet or rank != "0"
    resume = resume or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    with _Progress(console) as progress:
        try:
            result = work(resume=resume, on_event=progress)
        except KeyboardInterrupt:
            # It is said once: by who started the processes, else by the first of them.
            if rank != "0" or os.environ.get("TORCHELASTIC_RUN_ID", "").startswith("bridle-"):
                raise click.exceptions.Exit(_INTERRUPTED[0]) from None
            if progress.parts and Path(progress.parts).exists():
                console.warn(_GO_ON)
            raise
    if result:
        console.result(result, hide=["failures"])
