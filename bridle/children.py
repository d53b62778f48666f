"""Python processes that this library starts: they import what it imports, and nothing from the current folder."""

from __future__ import annotations

import sys
from pathlib import Path

import bridle

# This very library, wherever it was imported from; then the code that is the next argument.
_START = """
import sys
root, code = sys.argv.pop(1), sys.argv.pop(1)
root in sys.path or sys.path.insert(0, root)
exec(code)
"""
_MODULE = "import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"


def python(code: str, *arguments: str) -> list[str]:
    """Command line of a process that runs this code.

    `-m` and `-c` put the current folder first among those that modules are imported from, and that may be a data set
    from elsewhere which holds a `numpy.py`: `-P` leaves it out.
    """
    return [sys.executable, "-P", "-c", _START, str(Path(bridle.__file__).parent.parent), code, *arguments]


def python_module(name: str, *arguments: str) -> list[str]:
    """Command line of a process that runs a module, as `python -m` does."""
    return python(_MODULE, name, *arguments)
