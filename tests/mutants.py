"""Plants faults in the method, one at a time, and asks the tests of that area whether they notice.

    make mutants                                        # all of them, in two processes: before a release
    python tests/mutants.py [--jobs 2] [WORD ...]       # those whose name or file holds one of the words

Each fault of `planted.py` is made in a temporary copy, never in the working tree, and only the tests that it names are
run. Prints a row for each; exits with 1 if one is not noticed, no longer applies or cannot be tried, and with 2 if the
tests fail without any fault.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from planted import PLANTED, Planted

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("bridle", "bridle_cli", "tests", "setup.cfg", "pyproject.toml")
_MOST_S = 300  # of one run of tests: a fault may make a loop endless, which is noticed, too
_FAILED = 1  # pytest's exit code where tests ran and some failed
# Each run is forked from a process that has imported what takes long and is not under test.
PROCESSES = multiprocessing.get_context("forkserver")
_PRELOADED = "hypothesis numpy pydantic pytest scipy.stats sklearn.linear_model sklearn.metrics torch".split()


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--jobs", type=int, default=2, help="Processes (default: 2).")
    arguments = parser.parse_args()
    words = [word.lower() for word in arguments.words]
    chosen = [one for one in PLANTED if not words or any(word in f"{one.name} {one.file}".lower() for word in words)]
    if not chosen:
        parser.error(f"No fault has {' or '.join(words)} in its name or file.")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        # Without bytecode: two changes of one second and one length would be taken for each other.
        os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": folder}
        PROCESSES.set_forkserver_preload(_PRELOADED)
        trees = queue.SimpleQueue[Path]()
        for number in range(arguments.jobs):
            trees.put(copy_of_tree(Path(folder) / str(number)))
        if not without_fault(chosen, trees):
            return 2
        print(f"All of these tests pass without a fault, {time.monotonic() - began:.0f} s.", flush=True)
        noticed = 0
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for one, verdict, seconds in pool.map(lambda one: tried(one, trees), chosen):
                noticed += verdict == "noticed"
                print(f"{verdict:14} {seconds:5.0f} s  {one.file:31} {one.name}", flush=True)
    print(f"{noticed} of {len(chosen)} faults are noticed, {time.monotonic() - began:.0f} s.")
    return int(noticed < len(chosen))


def copy_of_tree(folder: Path) -> Path:
    folder.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def without_fault(chosen: list[Planted], trees: queue.SimpleQueue[Path]) -> bool:
    """Whether the tests pass as things stand; prints what pytest says if not."""
    tree = trees.get()
    code, output = run(tree, sorted({node for one in chosen for node in one.nodes}), 4 * _MOST_S)
    trees.put(tree)
    if code:
        print(output, f"The tests fail without any fault (exit code {code} of pytest).", sep="\n")
    return code == 0


def tried(one: Planted, trees: queue.SimpleQueue[Path]) -> tuple[Planted, str, float]:
    """With the fault in a copy that nobody else uses: what came of it, and after how many seconds."""
    began, tree = time.monotonic(), trees.get()
    file = tree / "bridle" / one.file
    text = file.read_text("utf-8")
    try:
        file.write_text(one.applied(text), "utf-8")
        code = run(tree, one.nodes, _MOST_S)[0]
        verdict = {_FAILED: "noticed", None: "noticed", 0: "SURVIVES"}.get(code, "NOT TRIED")
    except ValueError:
        verdict = "NO LONGER FITS"
    finally:
        file.write_text(text, "utf-8")
        trees.put(tree)
    return one, verdict, time.monotonic() - began


def run(tree: Path, nodes: list[str], most_s: float) -> tuple[int | None, str]:
    """Tests in a copy of the tree, up to the first that fails; exit code (None: killed) and output of pytest."""
    output = tree / "output.txt"
    process = PROCESSES.Process(target=_run_pytest, args=(tree, nodes, output))
    process.start()
    process.join(most_s)
    if process.exitcode is None:
        process.kill()
        process.join()
        return None, f"no end within {most_s} s"
    return process.exitcode, output.read_text("utf-8")


def _run_pytest(tree: Path, nodes: list[str], output: Path) -> None:
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path[:] = [str(tree), *(path for path in sys.path if not Path(path).is_relative_to(ROOT / "tests"))]
    options = ["-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0", "--tb=short"]
    sys.exit(int(pytest.main([*options, *nodes])))


if __name__ == "__main__":
    sys.exit(main())
