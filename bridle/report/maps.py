"""Vectors of clips -> places on a map, and who is near whom.

Shapes: F clips, D width, R neighbours.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor
from torch.nn import functional as F

_LEAST = 5  # clips of which t-SNE makes anything
_PERPLEXITY = 30.0  # as its authors advise; less where clips are few
_KEPT = 50  # principal axes that t-SNE looks at, as is the custom


@dataclass(frozen=True, slots=True)
class Map:
    """Where the clips lie.

    Attributes:
        places_F2: of each clip.
        x_name, y_name: what the axes are.
    """

    name: str
    places_F2: np.ndarray
    x_name: str
    y_name: str


def make_maps(vectors_FD: Tensor) -> list[Map]:
    """The first two principal axes, and t-SNE where there are clips enough; nothing where all vectors are equal."""
    x_FD = vectors_FD.double().numpy()
    if len(x_FD) < 2 or not np.isfinite(x_FD).all() or np.ptp(x_FD, axis=0).max(initial=0.0) == 0:
        return []
    pca = PCA(min(_KEPT, *x_FD.shape), random_state=0)
    axes_FP = pca.fit_transform(x_FD)
    share = [100 * float(one) for one in pca.explained_variance_ratio_[:2]] + [0.0]
    places_F2 = np.pad(axes_FP[:, :2], ((0, 0), (0, max(0, 2 - axes_FP.shape[1]))))
    names = [f"principal axis {at + 1} ({share[at]:.0f} % of the variance)" for at in (0, 1)]
    maps = [Map("PCA", places_F2, *names)]
    if len(x_FD) >= _LEAST and axes_FP.shape[1] > 1:
        perplexity = min(_PERPLEXITY, (len(x_FD) - 1) / 3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # copies among the clips
            near_F2 = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(axes_FP)
        if np.isfinite(near_F2).all():
            maps.append(Map("t-SNE", near_F2, f"t-SNE of the first {axes_FP.shape[1]} principal axes", ""))
    return maps


def neighbours(vectors_FD: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The nearest other clips of each, by the cosine between vectors from which the mean of all is taken.

    Returns:
        Cosines, the greatest first, and who, `(F, R)`.
    """
    unit_FD = F.normalize(vectors_FD.float() - vectors_FD.float().mean(0), dim=-1)
    cosine_FF = (unit_FD @ unit_FD.T).nan_to_num(-1.0).fill_diagonal_(-torch.inf)
    near = cosine_FF.topk(min(count, max(len(unit_FD) - 1, 0)))
    return near.values, near.indices


def agreement(labels: list[str], nearest_F: Tensor) -> float | None:
    """Share of the labelled clips whose nearest other clip has the same label; None without a pair of labels."""
    pairs = [(labels[at], labels[near]) for at, near in enumerate(nearest_F.tolist()) if labels[at]]
    if len({label for label in labels if label}) < 2 or not pairs:
        return None
    return sum(one == other for one, other in pairs) / len(pairs)
