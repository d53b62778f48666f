"""Attentive probe: a small transformer head over frozen patch features, for what an average cannot show.

Which way an image moves is a product of change in space and change in time. A mean of patch features and a linear
layer cannot form that product. Learned queries can: a key holds content plus fixed position, so a head looks for
some content at some place and time and says where it found it, and an MLP over all heads compares what they found
(V-JEPA's probe, arXiv 2404.08471, made small). It has no self-attention on purpose: on raw video that saw no more
motion at twice the cost, and every layer more judges the probe instead of the encoder.

    x_BND --z-score, Linear, + positions--> LayerNorm --> cross-attention by learned queries --> LayerNorm, MLP

The same head reads a sequence of codes, each code of each level with a vector of its own in place of the linear layer.

Shapes: B clips, N patches, D feature width, W probe width, H heads, L queries, Q levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from bridle.errors import DataError
from bridle.evaluate.labels import Truth

Patches = tuple[Tensor, Tensor, Tensor]  # x, valid_NP, coords_NP3: all patches of N clips
Look = Callable[
    [Tensor], tuple[Tensor, Patches]
]  # rows of clips -> those that can be read, in order, and their patches
_CLIPS = 256  # looked at at once
_MOST_PATCHES = 8192  # of a clip
_SCALED_BY = 4096  # clips that features are z-scored by
_AXIS_FREQUENCIES = 8  # sines and cosines an axis


@dataclass(frozen=True, slots=True)
class AttentiveRecipe:
    """How the probe is built and trained; the same for every encoder that is compared."""

    width: int = 64
    heads: int = 8
    queries: int = 4
    epochs: int = 20
    batch_size: int = 32
    lr: float = 4e-3
    weight_decay: float = 0.05
    dropout: float = 0.1
    smoothing: float = 0.1


class AttentiveProbe(nn.Module):
    """What a patch is and where -> class scores `(B, classes)`.

    Args:
        project: what a patch is -> `(..., W)`.
    """

    def __init__(self, project: nn.Module, classes: int, recipe: AttentiveRecipe) -> None:
        super().__init__()
        width = recipe.width
        self.project = project
        self.place = nn.Linear(6 * _AXIS_FREQUENCIES, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.queries_LW = nn.Parameter(0.02 * torch.randn(recipe.queries, width))
        self.collect = _Attention(width, recipe.heads)
        self.head = nn.Sequential(
            nn.Flatten(1),
            nn.LayerNorm(recipe.queries * width),
            nn.Dropout(recipe.dropout),
            nn.Linear(recipe.queries * width, 2 * width),
            nn.GELU(),
            nn.Dropout(recipe.dropout),
            nn.Linear(2 * width, classes),
        )

    def forward(self, x: Tensor, valid_BN: Tensor, coords_BN3: Tensor) -> Tensor:
        x_BNW = self.project(x) + self.place(positions(coords_BN3))
        query_BLW = self.queries_LW.expand(len(x_BNW), -1, -1)
        return self.head(self.collect(query_BLW, self.norm(x_BNW), valid_BN))


class _Codes(nn.Module):
    """Codes `(..., Q)` -> the sum of a learned vector for each, `(..., W)`."""

    first_Q: Tensor

    def __init__(self, levels: int, codes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("first_Q", torch.arange(levels) * codes)
        self.vectors = nn.Embedding(levels * codes, width)
        nn.init.normal_(self.vectors.weight, std=width**-0.5)

    def forward(self, codes_BNQ: Tensor) -> Tensor:
        return self.vectors(codes_BNQ.long().clamp(min=0) + self.first_Q).sum(-2)


class _Attention(nn.Module):
    """Multi-head attention of `query_BLW` over the valid `memory_BNW`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, query_BLW: Tensor, memory_BNW: Tensor, valid_BN: Tensor) -> Tensor:
        key_BNW, value_BNW = self.key_value(memory_BNW).chunk(2, dim=-1)
        query, key, value = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (self.query(query_BLW), key_BNW, value_BNW)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=valid_BN[:, None, None, :])
        return self.out(mixed.transpose(1, 2).flatten(2))


def positions(coords_BN3: Tensor) -> Tensor:
    """Fixed sines and cosines of the integer coordinates, wavelengths 2 to 256 patches an axis, `(B, N, 6 F)`."""
    frequency_F = torch.pi * 2.0 ** -torch.arange(_AXIS_FREQUENCIES, device=coords_BN3.device)
    angle_BNP = (coords_BN3.float().unsqueeze(-1) * frequency_F).flatten(-2)
    return torch.cat([angle_BNP.sin(), angle_BNP.cos()], dim=-1)


def pad(rows: Sequence[tuple[Tensor, Tensor]]) -> Patches:
    """What the patches of each clip are and where -> those of all, as long as the longest. Of very long clips every
    second, third ... step in time, whole."""
    rows = [_thinned(*row) for row in rows]
    x_BNX, coords_BN3 = (pad_sequence([row[at] for row in rows], batch_first=True) for at in (0, 1))
    lengths_B = torch.tensor([len(x) for x, _ in rows])
    return x_BNX, torch.arange(x_BNX.shape[1]) < lengths_B[:, None], coords_BN3


def _thinned(x_NX: Tensor, coords_N3: Tensor) -> tuple[Tensor, Tensor]:
    every = -(-len(x_NX) // _MOST_PATCHES)
    keep_N = coords_N3[:, 0] % every == 0
    return (x_NX, coords_N3) if every == 1 else (x_NX[keep_N], coords_N3[keep_N])


def ragged(clips: Sequence[tuple[Tensor, Tensor]]) -> Look:
    """Patches of clips of different lengths that are in memory; only those of a batch are padded."""
    return lambda rows: (rows, pad([clips[row] for row in rows.tolist()]))


def held(patches: Patches) -> Look:
    """Patches that are in memory."""
    return lambda rows: (rows, (patches[0][rows], patches[1][rows], patches[2][rows]))


def attentive(
    look: Look,
    train_N: Tensor,
    truth_N: Truth,
    test_M: Tensor,
    *,
    codes: int = 0,
    seed: int = 0,
    recipe: AttentiveRecipe | None = None,
) -> Tensor:
    """Train the probe on frozen features or codes for a fixed number of epochs and score the test clips.

    Args:
        look: at clips by their rows: features `(B, P, D)` or codes (integers) `(B, P, Q)`, validity and coordinates of
            the P patches; a clip without any valid patch is not allowed.
        train_N, test_M: rows.
        truth_N: of the train clips.
        codes: K, where it is codes that are looked at.
        seed: weights, order and dropout; the same seed gives the same scores.

    Returns:
        Scores `(M, L)`, on the CPU; nan for clips that cannot be read.
    """
    recipe = recipe or AttentiveRecipe()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        if codes:
            levels = look(train_N[:1])[1][0].shape[-1]
            project: nn.Module = _Codes(levels, codes, recipe.width)
        else:
            mean_D, scale_D = _mean_and_scale(look, train_N)
            project = nn.Sequential(_Scale(mean_D, scale_D), nn.Linear(len(mean_D), recipe.width))
        probe = AttentiveProbe(project, len(truth_N.classes), recipe)
        _train(probe, look, train_N, truth_N, recipe)
    probe.eval()
    scores_ML = torch.full((len(test_M), len(truth_N.classes)), torch.nan)
    with torch.no_grad():
        for places in torch.arange(len(test_M)).split(_CLIPS):
            kept, patches = look(test_M[places])
            if not len(kept):
                continue
            scores_ML[places[torch.isin(test_M[places], kept)]] = probe(*patches)
    return scores_ML


def _train(probe: AttentiveProbe, look: Look, train_N: Tensor, truth_N: Truth, recipe: AttentiveRecipe) -> None:
    batches = -(-len(truth_N) // recipe.batch_size)
    optimiser = torch.optim.AdamW(probe.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=recipe.lr, total_steps=recipe.epochs * batches, pct_start=0.1
    )
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(truth_N)).chunk(batches):
            kept, patches = look(train_N[rows])
            if not len(kept):
                continue
            truth_B = truth_N[rows[torch.isin(train_N[rows], kept)]]
            loss = truth_B.loss(probe(*patches), recipe.smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(probe.parameters(), 1.0)
            optimiser.step()
            schedule.step()


class _Scale(nn.Module):
    """Z-score of patch features, which may be stored in half precision."""

    mean_D: Tensor
    scale_D: Tensor

    def __init__(self, mean_D: Tensor, scale_D: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean_D", mean_D)
        self.register_buffer("scale_D", scale_D)

    def forward(self, x_BND: Tensor) -> Tensor:
        return (x_BND.float() - self.mean_D) * self.scale_D


def _mean_and_scale(look: Look, train_N: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and one over the deviation of the valid patches of some train clips, evenly chosen.

    Raises:
        DataError: none of them can be read.
    """
    count, sum_D, square_D = 0, torch.zeros(()), torch.zeros(())
    for rows in train_N[:: -(-len(train_N) // _SCALED_BY)].split(_CLIPS):
        kept, (x_BND, valid_BN, _) = look(rows)
        if not len(kept):
            continue
        x_RD = x_BND[valid_BN].double()
        count, sum_D, square_D = count + len(x_RD), sum_D + x_RD.sum(0), square_D + x_RD.square().sum(0)
    if not count:
        raise DataError("no training clip can be read")
    mean_D = sum_D / count
    std_D = (square_D / count - mean_D.square()).clamp(min=0).sqrt()
    return mean_D.float(), torch.where(std_D > 1e-6 * std_D.max(), 1 / std_D, torch.zeros_like(std_D)).float()
