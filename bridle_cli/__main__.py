"""`python -m bridle_cli` is `bridle`."""

from __future__ import annotations

import os
import sys

if not sys.flags.safe_path and sys.path[0] == os.getcwd() != os.path.dirname(os.path.dirname(__file__)):
    del sys.path[0]  # `-m` put it there: a folder of data is none of modules

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
