"""A command started as several processes of this machine, and started again when one is killed, as `torchrun` does."""

from __future__ import annotations

import logging
import os
import signal
import uuid
from collections.abc import Sequence

import torch

from bridle import progress
from bridle.children import python_module
from bridle.errors import EnvironmentFault


def launch(command: Sequence[str], devices: int, restarts: int) -> int:
    """Runs `python -m bridle_cli COMMAND` in that many processes of this machine, as `torchrun` does.

    Args:
        command: arguments.
        devices: processes, each with a GPU of its own where there are any.
        restarts: how often they are all started again, with `--restarted`, when one was killed.

    Returns:
        the exit code of a process that failed by itself, else 0.

    Raises:
        EnvironmentFault: more processes than this machine has GPUs or, without any, cores.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    if devices > (gpus or max(cores, 2)):
        there = f"{gpus} GPUs" if gpus else f"no GPU and {cores} cores"
        raise EnvironmentFault(f"--devices {devices}: this machine has {there}.", "Fewer --devices.")
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the processes speak for themselves
    extra, run_id = list[str](), f"bridle-{uuid.uuid4().hex}"
    while True:
        # Its own restarts would repeat what a user got wrong, too: only what was killed from outside is worth it.
        settings = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            run_id=run_id,
            max_restarts=0,
            monitor_interval=0.1,
        )
        try:
            program, *arguments = python_module("bridle_cli", *command, *extra)
            elastic_launch(settings, program)(*arguments)
            return 0
        except SignalException as stopped:
            return 128 + int(stopped.sigval)
        except ChildFailedError as failed:
            # Whoever was killed, the others fail as well, now and then before it is seen; then they are ended.
            first = failed.get_first_failure()[1].exitcode
            codes = [first, *(one.exitcode for one in failed.failures.values() if one.exitcode != -signal.SIGTERM)]
            killed = [code for code in codes if code < 0]
            # Those who only know that another one has gone say 5, too, and may end before it.
            telling = [code for code in codes if code > 0 and code != EnvironmentFault.exit_code]
            code = 128 - killed[0] if killed else (telling or codes)[0]
        if not killed or not restarts:
            return code
        progress.warn("a process was killed; all restart from the last checkpoint")
        restarts, extra = restarts - 1, ["--restarted"]
