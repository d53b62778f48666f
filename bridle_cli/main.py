"""`bridle`: the command group, and the one place that turns an exception into a message and an exit code.

0 ok, 2 usage, 3 configuration, 4 data, 5 environment, 6 numerical, 130 or 143 interrupted
(SIGINT or SIGTERM); 1 is a bug of ours.
"""

from __future__ import annotations

import errno
import importlib
import os
import pkgutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import click
from click.shell_completion import shell_complete

from bridle import __version__
from bridle.errors import BridleError, ConfigError, Interrupted, UsageError, redacted
from bridle_cli import commands as folder
from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.streams import ReaderGone, guarded

# In the order of --help; others that lie in commands/ follow.
COMMANDS = (
    "shard",
    "init",
    "pretrain",
    "tokenize",
    "embed",
    "search",
    "eval",
    "compare",
    "report",
    "export",
    "runs",
    "config",
    "doctor",
    "completion",
)
COMPLETE = "_BRIDLE_COMPLETE"  # set by a shell that asks for completions
_INTERRUPTED = 130
_ENVIRONMENT = 5


class _Commands(options.Group):
    """Imports a command's file when the command is asked for; the files import no torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        found = [one.name for one in pkgutil.iter_modules(folder.__path__)]
        return sorted(
            found, key=lambda name: (name not in COMMANDS, COMMANDS.index(name) if name in COMMANDS else name)
        )

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"bridle_cli.commands.{cmd_name}").command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "--version", prog_name="bridle")
def commands() -> None:
    """Pretrain encoders and discrete tokenizers on raw audio, images or video.

    \b
    Examples:
      bridle shard RAW --modality audio --labels folder     # media -> tar shards in shards/RAW
      bridle init --shards shards/RAW                       # shards -> a commented configuration
      bridle pretrain --shards shards/RAW                   # shards -> a run in runs/
      bridle tokenize clip.wav                              # files -> discrete codes
      bridle eval --task folder --data shards/RAW           # how good are the features?
      bridle export runs/NAME --format safetensors --out encoder/
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    Args:
        argv: arguments without the program's name; `None` takes the process's own.
    """
    if argv is not None:
        with guarded(ends=False):
            return _run(list(argv), None)
    os.environ["PYTHONSAFEPATH"] = "1"  # processes that libraries start import nothing from the current folder either
    with _listening(os.getpid()), guarded(ends=True):
        return _run(sys.argv[1:], os.environ.get(COMPLETE))


def _run(arguments: list[str], asked: str | None) -> int:
    """The command, or the completions that a shell has asked for."""
    console, began = Console(arguments), time.monotonic()
    try:
        if asked:
            return shell_complete(commands, {"obj": console}, "bridle", COMPLETE, asked)
        with commands.make_context("bridle", arguments, obj=console) as context:
            commands.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as leave:  # --help and --version
        return leave.exit_code
    except ReaderGone:
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if console.debug:
            sys.stderr.write(redacted("".join(traceback.format_exception(error))))
        return _report(error, console)
    finally:
        if console.verbose:
            console.detail(_used(time.monotonic() - began))


@contextmanager
def _listening(own: int) -> Iterator[None]:
    """SIGTERM takes back what is half-done, as Ctrl-C does; processes forked from this one just end by it.

    Not where something else is to happen: of several processes one that hangs must still end at once, and who started
    this one may have it ignored. Python hears signals in its main thread alone.
    """

    def stop(number: int, _: object) -> None:
        if os.getpid() != own:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise Interrupted(number)

    before = signal.getsignal(signal.SIGTERM)
    main_thread = threading.current_thread() is threading.main_thread()
    if "RANK" in os.environ or before in (signal.SIG_IGN, None) or not main_thread:
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _used(seconds: float) -> str:
    """Versions, time and memory: what a report of a problem should say. Loads nothing that is not loaded."""
    import platform
    from importlib.metadata import version

    names = [
        name for name in ("torch", "torchaudio", "torchvision", "numpy", "av", "onnxruntime") if name in sys.modules
    ]
    libraries = [f"{name} {version(name)}" for name in names]
    parts = [f"bridle {__version__}", f"Python {platform.python_version()}", *libraries, f"{seconds:.2f} s"]
    with suppress(ImportError):  # Windows has none
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        parts.append(f"{peak / (1e6 if sys.platform == 'darwin' else 1e3):.0f} MB at most")
    return ", ".join(parts)


def _report(error: BaseException, console: Console) -> int:
    """Says what happened and returns the exit code that goes with it."""
    if isinstance(error, UsageError | ConfigError | Interrupted) and os.environ.get("RANK", "0") != "0":
        return error.exit_code  # all processes of a run meet it, and the first says it
    if isinstance(error, BridleError):
        if console.json and error.result:
            console.record(error.result)
        console.fail(error.message, error.hint)
        return error.exit_code
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return error.exit_code
    if isinstance(error, click.ClickException):
        where = getattr(error, "ctx", None)
        message = " ".join(error.format_message().split())  # it puts each choice on a line of its own
        console.fail(message, f"Options and examples: {where.command_path if where else 'bridle'} --help")
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | click.Abort):
        console.fail("Interrupted.")
        return error.exit_code if isinstance(error, Interrupted) else _INTERRUPTED
    ours = isinstance(error, ImportError) and str(error.name).startswith("bridle")
    no_memory = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)  # PyTorch's own
    if (isinstance(error, OSError | MemoryError | ImportError) and not ours) or no_memory:
        console.fail(*_machine(error))
        return _ENVIRONMENT
    console.fail(
        f"This is a bug in bridle: {type(error).__name__}: {error}",
        "" if console.debug else "Add --debug for the traceback, and please report both.",
    )
    return 1


def _machine(error: BaseException) -> tuple[str, str]:
    """Message and hint for what the machine refused."""
    if isinstance(error, ImportError):
        return f"A library is missing or broken: {error}", "Run bridle doctor for the fix."
    if not isinstance(error, OSError):
        return (
            f"Out of memory: {error}",
            "Use less memory: --batch-size auto, a smaller --set optim.batch_size=32 or a smaller preset.",
        )
    name = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{name}the disk is full.",
            "Partial output was removed. Free some space and run the command again, with --resume if it has that.",
        )
    return f"{name}{error.strerror or error}", ""
