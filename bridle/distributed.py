"""Ranks and collectives: the only file that asks about process groups.

A run of one process needs no process group: every function is then the identity.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bridle import progress
from bridle.errors import BridleError, EnvironmentFault, first_line

T = TypeVar("T")
_PATIENCE = timedelta(days=30)
_alone = False  # see `alone`


def launched() -> bool:
    """Whether `torchrun` (or what sets the same variables) started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world() -> int:
    """How many processes train together on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def launch_id() -> str | None:
    """What the processes of one launch have in common, also after they were started again; None for a single one."""
    if not launched():
        return None
    launch = os.environ.get("TORCHELASTIC_RUN_ID", "none")  # "none" unless --rdzv-id or --standalone gave another
    return launch if launch != "none" else f"{socket.gethostname()}-{os.getppid()}"


@contextmanager
def group(device: str) -> Iterator[None]:
    """A process group while the `with` lasts, if this process was started beside others and has none yet."""
    if not launched() or dist.is_initialized():
        yield
        return
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_world()))
    if device.startswith("cuda"):
        torch.cuda.set_device(torch.device(device))
    try:
        dist.init_process_group(
            "nccl" if device.startswith("cuda") else "gloo",
            device_id=torch.device(device) if device.startswith("cuda") else None,
            **_meeting_point(),
        )
        with progress.listening(progress.silent if rank() else None):  # the first speaks for all
            yield
    except RuntimeError as error:
        # Gloo raises plain `RuntimeError`s; its name is in their text.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        raise EnvironmentFault(
            f"rank {os.environ['RANK']} lost contact with the other ranks: {first_line(error)}",
            "See their errors above; continue with --resume.",
        ) from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()  # or the threads of gloo may abort the process at its end


def _active() -> bool:
    return not _alone and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@contextmanager
def alone() -> Iterator[None]:
    """This process as if there were no others: what a rank tries by itself must not wait for them."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def rank() -> int:
    """This process's number, 0 for a single process."""
    return dist.get_rank() if _active() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _active() else 1


def _meeting_point() -> dict[str, Any]:
    """Where the processes find each other.

    The store of `torchrun` outlives its processes: those that it starts again would find the addresses of the dead.
    """
    if "TORCHELASTIC_RESTART_COUNT" not in os.environ:
        return {}
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world, is_master=False)
    prefix = f"bridle-{os.environ['TORCHELASTIC_RESTART_COUNT']}"
    return {"store": dist.PrefixStore(prefix, store), "rank": rank, "world_size": world}


def _device() -> torch.device:
    """Where collectives want their tensors."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def first_decides(decide: Callable[[], T]) -> T:
    """What `decide` returns or raises on rank 0, on every rank; the others do not call it."""
    if not _active():
        return decide()
    outcome: list[tuple[T | None, Exception | None]] = [(None, None)]
    if rank() == 0:
        try:
            outcome = [(decide(), None)]
        except Exception as error:  # raised below, on all of them
            outcome = [(None, error)]
    dist.broadcast_object_list(outcome, 0, device=_device())
    result, failure = outcome[0]
    if failure and rank() == 0:
        raise failure
    if failure:
        raise SystemExit(getattr(failure, "exit_code", 1))  # rank 0 says why, once
    return result  # type: ignore[return-value]


def together(work: Callable[[], T], *, hours_apart: bool = False) -> T:
    """What `work` gives to each rank, if it succeeds on all of them; else all end with the first failure of any.

    Rank 0 raises it, so that it is said once. `work` must not ask the other ranks.

    Args:
        hours_apart: a rank may end long after another, which is no sign that it hangs; one that dies is still noticed.
    """
    if not _active():
        return work()
    patient = dist.new_group(backend="gloo", timeout=_PATIENCE) if hours_apart else None
    result: T | None = None
    failure: Exception | None = None
    try:
        result = work()
    except Exception as error:  # raised below, on all of them
        failure = error
    for number, other in enumerate(gather_objects(failure, patient)):
        if other is None:
            continue
        if rank() == 0:
            if number and isinstance(other, BridleError):
                other.message = f"process {number}: {other.message}"
            raise other
        raise SystemExit(getattr(other, "exit_code", 1))
    return result  # type: ignore[return-value]


def gather_objects(item: T, among: dist.ProcessGroup | None = None) -> list[T]:
    """Everybody's item, by rank, on every rank."""
    if not _active():
        return [item]
    items: list[T | None] = [None] * world()
    dist.all_gather_object(items, item, among)
    return items  # type: ignore[return-value]


def join_gradients(module: nn.Module, *, some_unused: bool = False) -> nn.Module:
    """`module`; in a run of several processes one whose backward pass leaves the mean of all gradients.

    Args:
        some_unused: a step may leave parameters without a gradient.
    """
    if not _active():
        return module
    # All ranks build the model from one seed or one file, and buffers are ours to keep equal.
    return DistributedDataParallel(
        module,
        init_sync=False,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        find_unused_parameters=some_unused,
    )


def shard_weights(parts: Iterable[nn.Module], unit: type[nn.Module]) -> None:
    """Deals weights, gradients and whatever is made of them to all ranks (FSDP2); each forward pass fetches them.

    Args:
        parts: modules that are called as a whole.
        unit: what is fetched at once inside of them.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(_device().type, (world(),))
    for part in parts:
        for module in part.modules():
            if isinstance(module, unit):
                fully_shard(module, mesh=mesh, reshard_after_forward=True)
        fully_shard(part, mesh=mesh, reshard_after_forward=True)  # also what is asked without a gradient


def are_dealt(parameters: Iterable[Tensor]) -> bool:
    """Whether some of them are parts of larger ones, see `shard_weights`."""
    return any(map(_is_dealt, parameters))


def _is_dealt(x: Any) -> bool:
    """Without an import that takes a fifth of a second: who dealt it has made that."""
    kinds = sys.modules.get("torch.distributed.tensor")
    return kinds is not None and isinstance(x, kinds.DTensor)


def whole(x: Any) -> Tensor:
    """All of a tensor that may be dealt to the ranks; then every rank must call it."""
    return x.full_tensor() if _is_dealt(x) else x


def local(x: Any) -> Tensor:
    """This rank's part of it."""
    return x.to_local() if _is_dealt(x) else x


def dealt_like(x: Tensor, other: Any) -> Tensor:
    """A whole tensor dealt as the other is."""
    if not _is_dealt(other):
        return x
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x.to(other.device), other.device_mesh, other.placements)


def beside_dealt(wanted: bool) -> AbstractContextManager[None]:
    """Plain tensors in it are taken for the same on all ranks, beside those that are dealt."""
    if not wanted:
        return contextlib.nullcontext()
    from torch.distributed.tensor.experimental import implicit_replication

    replication: AbstractContextManager[None] = implicit_replication()
    return replication


@contextmanager
def without_joining(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Backward passes in it only add up: the last one of a step joins for all."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    dealt = [one for one in module.modules() if fsdp and isinstance(one, fsdp.FSDPModule)]
    for one in dealt:
        one.set_requires_gradient_sync(not wanted, recurse=False)
    with module.no_sync() if wanted and isinstance(module, DistributedDataParallel) else contextlib.nullcontext():
        yield


def sum_over_ranks(x: Tensor) -> Tensor:
    """Adds `x` up over all ranks, in place."""
    if _active():
        dist.all_reduce(x)
    return x


def differentiable_sum(x: Tensor) -> Tensor:
    """The sum of `x` over all ranks; its gradient is summed over them too."""
    if not _active():
        return x
    from torch.distributed.nn.functional import all_reduce

    summed: Tensor = all_reduce(x)
    return summed


def least(x: int) -> int:
    """The smallest of all ranks' numbers."""
    return min(gather_objects(x))


def number_of_first(x: float) -> float:
    """What rank 0 says."""
    return float(from_first(torch.tensor(x, dtype=torch.float64, device=_device()))) if _active() else x


def from_first(x: Tensor) -> Tensor:
    """What rank 0 holds, on every rank, in place."""
    if _active():
        dist.broadcast(x, 0)
    return x


def row_span(rows: int, device: torch.device) -> tuple[Tensor | int, Tensor | int]:
    """Where this rank's rows begin among the rows of all ranks one after the other, and how many those are.

    Numbers on the device when there are several ranks: to read them here would wait for it.
    """
    if not _active():
        return 0, rows
    counts = _row_counts(rows, device)
    return counts[: rank()].sum(), counts.sum()


def _row_counts(rows: int, device: torch.device) -> Tensor:
    counts = torch.zeros(world(), dtype=torch.int64, device=device)
    counts[rank()] = rows
    dist.all_reduce(counts)
    return counts


def gather_rows(x_NC: Tensor) -> Tensor:
    """Rows of all ranks one after the other, the same on every rank; row counts may differ."""
    if not _active():
        return x_NC
    counts = _row_counts(len(x_NC), x_NC.device)
    most = int(counts.max())
    padded = x_NC.new_zeros(most, *x_NC.shape[1:])
    padded[: len(x_NC)] = x_NC
    parts = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(n)] for part, n in zip(parts, counts, strict=True)])
