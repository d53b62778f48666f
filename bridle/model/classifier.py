"""An encoder with a linear layer on top, whole: what fine-tuning trains.

Shapes: B clips, N patches, D width, L classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bridle.model.encoder import Encoder
from bridle.schema import PatchBatch

HeadPool = Literal["mean", "class"]


class Classifier(nn.Module):
    """Patches -> a score for each class.

    Args:
        encoder: taken as it is, not copied.
        classes: L.
        pool: what the layer sees: the mean of the patches (as MAE and the paper fine-tune), or the class token.
    """

    def __init__(self, encoder: Encoder, classes: int, pool: HeadPool = "mean") -> None:
        super().__init__()
        self.pool = pool
        self.encoder = encoder
        width = encoder.class_token_D.shape[0]
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.head.weight, std=0.01)  # begins with nearly equal scores
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: PatchBatch) -> Tensor:
        """Scores `(B, L)`, float32."""
        h_BND = self.encoder(batch.x_BNP, batch.coords_BN3, batch.mask_BN)
        if self.pool == "class":
            pooled_BD = h_BND[:, 0]
        else:
            weight_BN1 = batch.valid_BN[..., None].to(h_BND.dtype)
            pooled_BD = (h_BND[:, 1:] * weight_BN1).sum(1) / weight_BN1.sum(1).clamp(min=1)
        return self.head(self.norm(pooled_BD)).float()


def layered_groups(classifier: Classifier, decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters for an optimiser: each layer below the head learns `decay` times as fast as the one above it (Bao
    et al. 2021), the embedding slowest; biases, norms and the class token have no weight decay.

    Returns:
        groups with `params`, `share` (of the learning rate) and `weight_decay`.
    """
    depth = len(classifier.encoder.blocks)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for layer, name, parameter in _by_layer(classifier):
        plain = parameter.ndim < 2 or name.endswith("class_token_D")
        group = groups.setdefault(
            (layer, plain),
            {"params": [], "share": decay ** (depth + 1 - layer), "weight_decay": 0.0 if plain else weight_decay},
        )
        group["params"].append(parameter)
    return list(groups.values())


def _by_layer(classifier: Classifier) -> Iterator[tuple[int, str, nn.Parameter]]:
    """0 the embedding, then the blocks, and what comes after them."""
    depth = len(classifier.encoder.blocks)
    for name, parameter in classifier.named_parameters():
        part = name.removeprefix("encoder.").split(".")
        if part[0] == "blocks":
            yield int(part[1]) + 1, name, parameter
        elif name.startswith(("encoder.embed", "encoder.class_token_D", "encoder.positions")):
            yield 0, name, parameter
        else:
            yield depth + 1, name, parameter


def set_drop_path(encoder: Encoder, most: float) -> None:
    """Rates that grow linearly from 0 in the first block to `most` in the last."""
    rates = torch.linspace(0, most, len(encoder.blocks)).tolist() if len(encoder.blocks) > 1 else [most]
    for block, rate in zip(encoder.blocks, rates, strict=True):
        block.drop_path = rate
