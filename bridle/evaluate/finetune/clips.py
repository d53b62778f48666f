"""Labelled sources -> batches of training views, decoded ahead by threads.

Shapes: N clips, L classes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from bridle.errors import MediaError
from bridle.evaluate.labels import Truth
from bridle.infer import modality_of
from bridle.inputs import Source, training_view
from bridle.model import Bridle
from bridle.rng import key_of

View = tuple[int, Tensor | MediaError]  # which clip, and its view, or why there is none
_AHEAD = 4  # batches


def views_of(
    sources: Sequence[Source], model: Bridle, rows: Iterator[np.ndarray], seed: int, workers: int
) -> Iterator[list[View]]:
    """A random view of each of the clips of every step; equal seeds give equal views, whatever the workers.

    Raises:
        DataError, EnvironmentFault: a shard is gone, or its storage does not answer.
    """
    modality = modality_of(model)

    def view(step: int, place: int, clip: int) -> View:
        rng = torch.Generator().manual_seed(abs(key_of(seed, step, place)))
        try:
            return clip, training_view(sources[clip], model.patcher, modality, rng)
        except MediaError as error:
            return clip, error

    wanted = ([(step, place, clip) for place, clip in enumerate(rows_B.tolist())] for step, rows_B in enumerate(rows))
    if not workers:
        for batch in wanted:
            yield [view(*one) for one in batch]
        return
    with ThreadPoolExecutor(workers) as threads:
        ahead: deque[list[Future[View]]] = deque()
        try:
            while True:
                for batch in islice(wanted, _AHEAD - len(ahead)):
                    ahead.append([threads.submit(view, *one) for one in batch])
                if not ahead:
                    return
                yield [future.result() for future in ahead.popleft()]
        finally:
            threads.shutdown(cancel_futures=True)


def rows_of_steps(truth: Truth, batch_size: int, steps: int, balanced: bool, seed: int) -> Iterator[np.ndarray]:
    """Clips of each step: every one once an epoch, or drawn with replacement so that each class comes equally often."""
    rng = np.random.default_rng(seed)
    weight_N = class_weights(truth) if balanced else None
    left = np.empty(0, dtype=int)
    for _ in range(steps):
        while len(left) < min(batch_size, len(truth)):
            more = rng.permutation(len(truth)) if weight_N is None else rng.choice(len(truth), len(truth), p=weight_N)
            left = np.concatenate([left, more])
        yield left[:batch_size]
        left = left[batch_size:]


def class_weights(truth: Truth) -> np.ndarray:
    """How often each clip is drawn, `(N,)`: the sum over its classes of 1 / the clips of that class (as AST does for
    AudioSet, Gong et al. 2021); a clip without a class as rarely as the rarest. They add up to one."""
    shares_NL = truth.shares(slice(None)).double().numpy()
    weight_N = (shares_NL / np.maximum(shares_NL.sum(0), 1)).sum(1)
    weight_N[weight_N == 0] = weight_N[weight_N > 0].min(initial=1.0)
    return weight_N / weight_N.sum()
