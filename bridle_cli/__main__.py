"""`python -m bridle_cli` is `bridle`."""

from __future__ import annotations

import os
import sys

from bridle_cli.main import main


def run() -> None:
    """Ends the process with the exit code."""
    code = main()
    if "RANK" in os.environ:
        # One of several processes: the threads of their connections may abort it while Python takes itself down, and
        # whoever started it would take a finished run for a lost one.
        os._exit(code)
    sys.exit(code)


run()
