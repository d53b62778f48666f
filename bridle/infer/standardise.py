"""Zero mean and unit variance by what the train split says.

Shapes: N train clips, M clips of any split, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def standardiser(train_ND: Tensor) -> Callable[[Tensor], Tensor]:
    """A function that z-scores `(M, D)` features by mean and standard deviation of `train_ND`.

    Dimensions that are constant in train are set to zero: dividing by their rounding noise would let it decide.
    """
    mean_D = train_ND.mean(0)
    std_D = train_ND.std(0, correction=0)
    alive_D = std_D > 1e-6 * std_D.max()
    scale_D = torch.where(alive_D, 1 / std_D, torch.zeros_like(std_D))
    return lambda x_MD: (x_MD - mean_D) * scale_D
