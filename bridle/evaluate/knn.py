"""Weighted nearest neighbours on cosine similarity (Wu et al., arXiv 1805.01978), the probe without training.

Shapes: N train clips, M test clips, D dimensions, K neighbours, L classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bridle.evaluate.labels import Truth
from bridle.evaluate.metrics import metrics
from bridle.infer.standardise import standardiser

TEMPERATURE = 0.07
NEIGHBOURS = (1, 5, 10, 20, 50)
_CHUNK = 256
_CHOOSERS = 5000  # train clips that choose the number of neighbours


def knn(
    train_ND: Tensor,
    truth_N: Truth,
    test_MD: Tensor,
    *,
    groups_N: np.ndarray | None = None,
    neighbours: tuple[int, ...] = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> tuple[Tensor, int]:
    """Share of the votes that each class gets from a test clip's nearest train clips, each voting
    `exp(cosine / temperature)` for its classes.

    Features are z-scored by train, then scaled to unit length. The number of neighbours is the one that does best
    leaving one train clip out (with groups: leaving its whole group out), the smallest of equals.

    Returns:
        Scores `(M, L)` and the number of neighbours.
    """
    scale = standardiser(train_ND)
    train_ND, test_MD = F.normalize(scale(train_ND), dim=-1), F.normalize(scale(test_MD), dim=-1)
    ks = [k for k in neighbours if k < len(train_ND)] or [1]
    best = ks[0]
    if len(ks) > 1:
        out_N = torch.arange(len(train_ND)) if groups_N is None else torch.as_tensor(np.asarray(groups_N))
        rows_C = torch.linspace(0, len(train_ND) - 1, min(len(train_ND), _CHOOSERS)).round().long()
        scores = _votes(train_ND, truth_N, train_ND[rows_C], ks, temperature, (out_N, out_N[rows_C]))
        truth_C = truth_N.y[rows_C].numpy()
        quality = [next(iter(metrics(scores_CL.numpy(), truth_C).values())) for scores_CL in scores]
        best = ks[int(np.argmax(quality))]
    return _votes(train_ND, truth_N, test_MD, [best], temperature)[0], best


def _votes(
    train_ND: Tensor,
    truth_N: Truth,
    query_MD: Tensor,
    ks: list[int],
    temperature: float,
    out: tuple[Tensor, Tensor] | None = None,
) -> list[Tensor]:
    """Scores `(M, L)` for each number of neighbours.

    Args:
        out: groups of the train clips and of the queries; clips of a query's own group do not vote.
    """
    votes: list[list[Tensor]] = [[] for _ in ks]
    for begin in range(0, len(query_MD), _CHUNK):
        similarity_MN = query_MD[begin : begin + _CHUNK] @ train_ND.T
        if out is not None:
            similarity_MN.masked_fill_(out[1][begin : begin + _CHUNK, None] == out[0][None], -torch.inf)
        nearest_MK, index_MK = similarity_MN.topk(max(ks), dim=1)
        vote_MK = ((nearest_MK - 1) / temperature).exp()  # minus one: the same weights, and no overflow
        for at, k in enumerate(ks):
            ballot_ML = torch.einsum("mk,mkl->ml", vote_MK[:, :k], truth_N.shares(index_MK[:, :k]))
            votes[at].append(ballot_ML / vote_MK[:, :k].sum(1, keepdim=True).clamp(min=1e-30))
    return [torch.cat(parts) for parts in votes]
