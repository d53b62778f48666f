"""Processes that decode the files of a listing ahead of the model, a piece of a file at a time.

Threads would do for the decoders, which are C, but what is around them is Python and holds up the thread that feeds the
model; and many of them would share one core (docs/decisions.md).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from bridle.errors import BridleError, EnvironmentFault, MediaError
from bridle.inputs.listing import Listing
from bridle.inputs.sources import Source, View, fetched, info_of, piece_of, windows_of
from bridle.media import preload
from bridle.patches.patcher import Patcher
from bridle.schema import Modality

Opened = tuple[Source, Callable[[], Iterator[View]]]  # a source with a function that yields its windows
_AHEAD = 4  # pieces in the making or waiting, for each process
_POLL_S = 1.0

_listing: Listing  # these two in the decoding processes
_patcher: Patcher


@dataclass(slots=True)
class Piece:
    """What is reported of a decoded piece beside its windows.

    Attributes:
        starts_s: start and step along time of each window.
        next_s: where the next piece begins; None: there is none.
        notice: what decoding lost.
        failure: why the file cannot be read.
        unseen_by: the node of a cluster on which there is no such file.
    """

    starts_s: list[tuple[float, float]] = field(default_factory=list)
    next_s: float | None = None
    failure: str = ""
    notice: str = ""
    unseen_by: str = ""


def decode_piece(
    source: Source, patcher: Patcher, modality: Modality, start_s: float
) -> tuple[list[np.ndarray], Piece]:
    """The windows of one piece as arrays, which travel well, and what is to be told of it.

    Raises:
        MediaError: the file cannot be read.
    """
    if isinstance(source.data, MediaError):
        raise source.data
    here = fetched(source)
    views, next_s = piece_of(here, info_of(here, modality, patcher), patcher, start_s)
    starts_s = [(view.start_s, view.step_s) for view in views]
    return [view.view.numpy() for view in views], Piece(starts_s, next_s, notice=views[0].notice if views else "")


class Decoders:
    """`with Decoders(listing, patcher, modality, 4) as decoders: decoders.opened(range(100))`

    Args:
        workers: processes; 0: none, each file is decoded when its windows are asked for.
    """

    def __init__(self, listing: Listing, patcher: Patcher, modality: Modality, workers: int) -> None:
        self._listing, self._workers = listing, min(workers, len(listing))
        self._settings = patcher, modality
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool:
            processes = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:  # what they are at is of no use to anybody
                process.kill()

    def opened(self, numbers: Iterable[int]) -> Iterator[Opened]:
        """Every file, in order; the first pieces of the next ones are under way.

        Raises:
            EnvironmentFault: a process was killed.
        """
        patcher, modality = self._settings
        if not self._workers:
            for number in numbers:
                source = self._listing.source(number)
                yield source, partial(windows_of, source, patcher, modality)
            return
        if self._pool is None:
            self._pool = self._started()
        todo, ahead = iter(numbers), deque[tuple[int, Future[Any]]]()
        while True:
            for number in islice(todo, _AHEAD * self._workers - len(ahead)):
                ahead.append((number, self._submit(number, 0.0)))
            if not ahead:
                return
            number, first = ahead.popleft()
            yield self._listing.source(number), partial(self._windows, number, first)

    def _windows(self, number: int, piece: Future[Any] | None) -> Iterator[View]:
        while piece is not None:
            try:
                answer = piece.result()
            except BrokenProcessPool as error:
                raise _killed() from error
            if isinstance(answer, BridleError):  # as a value: thrown in another process it would lose its hint
                raise answer
            views, header = answer
            if header.failure:
                raise MediaError(header.failure)
            piece = None if header.next_s is None else self._submit(number, header.next_s)
            for view, (start_s, step_s) in zip(views, header.starts_s, strict=True):
                yield View(torch.from_numpy(view), start_s, step_s, header.notice)

    def _submit(self, number: int, start_s: float) -> Future[Any]:
        assert self._pool is not None
        try:
            return self._pool.submit(_work, number, start_s, *self._settings[1:])
        except BrokenProcessPool as error:
            raise _killed() from error

    def _started(self) -> ProcessPoolExecutor:
        preload(self._settings[1])
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)  # the listing is inherited
        arguments = self._listing, self._settings[0], os.getpid()
        return ProcessPoolExecutor(self._workers, context, initializer=_begin, initargs=arguments)


def _killed() -> EnvironmentFault:
    return EnvironmentFault(
        "a decoding process was killed",
        "If memory ran out, use fewer --workers. Finished work is kept: continue with --resume.",
    )


def _begin(listing: Listing, patcher: Patcher, parent: int) -> None:
    """In a decoding process: it ends with its parent and by nothing else, and uses one core."""
    global _listing, _patcher
    _listing, _patcher = listing, patcher
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os._exit(1)


def _work(number: int, start_s: float, modality: Modality) -> tuple[list[np.ndarray], Piece] | BridleError:
    try:
        return decode_piece(_listing.source(number), _patcher, modality, start_s)
    except MediaError as error:
        return [], Piece(failure=error.message)
    except BridleError as error:
        return error
