"""Weighted nearest neighbours on cosine similarity (Wu et al., arXiv 1805.01978), the probe without training.

Shapes: N train clips, M test clips, D dimensions, K neighbours, L classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bridle.evaluate.standardise import standardiser

TEMPERATURE = 0.07
NEIGHBOURS = (1, 5, 10, 20, 50)
_CHUNK = 1024


def knn(
    train_ND: Tensor,
    labels_N: Tensor,
    test_MD: Tensor,
    *,
    groups_N: np.ndarray | None = None,
    neighbours: tuple[int, ...] = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> tuple[Tensor, int]:
    """Class of each test clip by its nearest train clips, each voting `exp(cosine / temperature)`.

    Features are z-scored by train, then scaled to unit length. The number of neighbours is the one that does best
    leaving one train clip out (with groups: leaving its whole group out), the smallest of equals.

    Returns:
        Predictions `(M,)` and the number of neighbours.
    """
    scale = standardiser(train_ND)
    train_ND, test_MD = F.normalize(scale(train_ND), dim=-1), F.normalize(scale(test_MD), dim=-1)
    classes = int(labels_N.max()) + 1
    ks = [k for k in neighbours if k < len(train_ND)] or [1]
    out_N = torch.arange(len(train_ND)) if groups_N is None else torch.as_tensor(np.asarray(groups_N))
    best = ks[0]
    if len(ks) > 1:
        guess_KN = _votes(train_ND, labels_N, train_ND, ks, classes, temperature, out_N)
        best = ks[int((guess_KN == labels_N).float().mean(1).argmax())]
    return _votes(train_ND, labels_N, test_MD, [best], classes, temperature)[0], best


def _votes(
    train_ND: Tensor,
    labels_N: Tensor,
    query_MD: Tensor,
    ks: list[int],
    classes: int,
    temperature: float,
    out_N: Tensor | None = None,
) -> Tensor:
    """Predictions `(len(ks), M)`; with `out_N` the queries are the train clips, and equals of it do not vote."""
    predictions = []
    for begin in range(0, len(query_MD), _CHUNK):
        similarity_MN = query_MD[begin : begin + _CHUNK] @ train_ND.T
        if out_N is not None:
            similarity_MN.masked_fill_(out_N[begin : begin + _CHUNK, None] == out_N[None], -torch.inf)
        nearest_MK, index_MK = similarity_MN.topk(max(ks), dim=1)
        vote_MK = ((nearest_MK - 1) / temperature).exp()  # minus one: the same weights, and no overflow
        ballot_MKL = F.one_hot(labels_N[index_MK], classes) * vote_MK.unsqueeze(-1)
        predictions.append(torch.stack([ballot_MKL[:, :k].sum(1).argmax(1) for k in ks]))
    return torch.cat(predictions, dim=1)
