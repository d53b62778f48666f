"""Code maps: every patch in the colour of its code, one small image a level.

Equal colours in one map are equal codes. The hue follows what the codes stand for, so that neighbours in hue are
neighbours in the codebook; the lightness changes from each code to the next, so that neighbours still differ.

Shapes: T, H, W grid of a clip, Q levels, K codes, C width.
"""

from __future__ import annotations

import colorsys
import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bridle.model import Bridle

_TURN = 0.86  # of the circle of hues: its ends must not look alike
_LIGHT = (0.38, 0.6, 0.78)
_ACROSS = 8  # maps of a long clip that stand side by side


def code_ranks(model: Bridle) -> Tensor:
    """Place of every code along its codebook's first principal axis, 0 to 1, `(Q, K)`."""
    quantizer = (model.tokenizer if bool(model.learned) else model.cold_tokenizer).quantizer
    codebook_QKC = quantizer.codebook_QKC.detach().float().cpu()
    codebook_QKC = codebook_QKC - codebook_QKC.mean(1, keepdim=True)
    axis_QC1 = torch.linalg.svd(codebook_QKC, full_matrices=False).Vh[:, 0, :, None]
    order_QK = (codebook_QKC @ axis_QC1)[..., 0].argsort(1).argsort(1)
    return order_QK / max(order_QK.shape[1] - 1, 1)


def palette(rank_K: Tensor) -> np.ndarray:
    """A colour for each code, uint8 `(K, 3)`."""
    last = max(len(rank_K) - 1, 1)
    colours = [
        colorsys.hls_to_rgb(_TURN * rank, _LIGHT[round(rank * last) % len(_LIGHT)], 0.72) for rank in rank_K.tolist()
    ]
    return (255 * np.array(colours)).round().astype(np.uint8)


def code_map(codes_THW: Tensor, colours_K3: np.ndarray, *, spread: bool) -> np.ndarray:
    """One level of a clip as an image, a pixel a patch, uint8 `(height, width, 4)`.

    Args:
        spread: whether the grid has columns of its own: then every time step is a map, side by side with a gap, and
            time steps of a long clip are left out; else time runs to the right and rows go up, as in a spectrogram.
    """
    colours_K4 = np.concatenate([colours_K3, np.full((len(colours_K3), 1), 255, np.uint8)], 1)
    map_THW4 = colours_K4[codes_THW.long().numpy()]
    if not spread:
        return map_THW4[:, ::-1, 0].swapaxes(0, 1)
    steps = len(map_THW4)
    chosen = sorted({at * (steps - 1) // max(min(steps, _ACROSS) - 1, 1) for at in range(min(steps, _ACROSS))})
    gap = np.zeros((map_THW4.shape[1], 1, 4), np.uint8)
    parts = [part for at in chosen for part in (gap, map_THW4[at])]
    return np.concatenate(parts[1:], 1)


def as_png(picture: np.ndarray) -> bytes:
    """Of so few pixels that lossless is smallest."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(file, "PNG", optimize=True)
    return file.getvalue()
