"""The demo's picture: a spectrogram and an image, and beside each the code map of every level.

A code map gives every patch the colour of its code. Equal colours in one map are equal codes; colours are sorted by
what the codes stand for, so that neighbours in colour are neighbours in the code book.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bridle import api, media
from bridle.infer import Pretrained
from bridle.report.code_maps import code_ranks


def draw(runs: Path, sample: Path, out: Path) -> None:
    """Args:
    runs: holds one run a modality, `audio` and `image`.
    sample: raw media.
    out: the PNG.
    """
    rows = []
    for modality, suffix in (("audio", ".wav"), ("image", ".jpg")):
        model = api.load(runs / modality)
        clips = sorted(path for path in (sample / modality).rglob("*") if path.suffix == suffix)
        path = max(clips[:: max(1, len(clips) // 12)], key=lambda clip: clip.stat().st_size)  # the richest of a few
        view, codes_THWQ = seen(model, path)
        rows.append((path, view, codes_THWQ, code_ranks(model.model)))
    levels = rows[0][2].shape[-1]
    figure, axes = plt.subplots(len(rows), 1 + levels, figsize=(2.6 * (1 + levels), 2.7 * len(rows)), dpi=110)
    for line, (path, view, codes_THWQ, rank_QK) in zip(axes, rows, strict=True):
        line[0].imshow(view, aspect="auto", origin="lower" if view.ndim == 2 else "upper", cmap="magma")
        line[0].set_title(path.name, fontsize=9)
        for level in range(levels):
            show_level(line[1 + level], codes_THWQ[..., level], level, rank_QK[level])
        for axis in line:
            axis.set_xticks([])
            axis.set_yticks([])
    figure.suptitle("what goes in, and its discrete codes, one map a level", fontsize=11)
    figure.tight_layout()
    figure.savefig(out)
    plt.close(figure)


def seen(model: Pretrained, path: Path) -> tuple[np.ndarray, torch.Tensor]:
    """A file's first window: spectrogram `(mel, time)` or image `(H, W, 3)` in 0..1, and its codes `(T, H, W, Q)`."""
    patcher = model.model.patcher
    clip = media.decode(path, media.probe(path, path.name))
    batch = patcher([patcher.windows(clip)[0][0]])
    (t, h, w), (pt, ph, pw) = batch.grid, patcher.patch
    codes_THWQ = model.model.tokenize(batch)[0].view(t, h, w, -1)
    x = batch.x_BNP[0].view(t, h, w, patcher.channels, pt, ph, pw).permute(3, 0, 4, 1, 5, 2, 6)
    x_CTHW = x.reshape(patcher.channels, t * pt, h * ph, w * pw)
    if patcher.channels == 1:
        return x_CTHW[0, :, :, 0].T.numpy(), codes_THWQ
    low, high = x_CTHW.amin(), x_CTHW.amax()
    return ((x_CTHW[:, 0].permute(1, 2, 0) - low) / (high - low)).numpy(), codes_THWQ


def show_level(axis: Axes, codes_THW: torch.Tensor, level: int, rank_K: torch.Tensor) -> None:
    """One map: time to the right for sound, rows and columns for an image."""
    audio = codes_THW.shape[0] > 1
    map_HW = codes_THW[:, :, 0].T if audio else codes_THW[0]
    axis.imshow(rank_K[map_HW], aspect="auto", origin="lower" if audio else "upper", cmap="turbo", vmin=0, vmax=1)
    axis.set_title(f"level {level + 1}: {len(map_HW.unique())} of {len(rank_K)} codes", fontsize=9)
