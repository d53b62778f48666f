"""The tokenizers that make the encoder's targets, and the estimator that trains the learned one.

    cold start:  patches -> frozen random projection -> quantizer, k-means once, then frozen
    learned:     patches -> own encoder -> Linear-Tanh-Linear -> centred z -> quantizer -> estimator -> E's features

Shapes: B clips, N patches, P values a patch, D width, C code width, Q levels, R valid patches of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bridle import distributed
from bridle.config.sections import EncoderSection, QuantizerSection
from bridle.model.encoder import Encoder
from bridle.nn import Blocks, GridPositions, Standardise, initialise
from bridle.quantize import Quantized, RandomProjection, ResidualQuantizer
from bridle.schema import PatchBatch


def build_quantizer(section: QuantizerSection, seed: int) -> ResidualQuantizer:
    return ResidualQuantizer(
        section.levels,
        section.codes,
        section.width,
        learn=section.learn,
        decay=section.decay,
        dead_below=section.dead_below,
        kmeans_iterations=section.kmeans_iterations,
        seed=seed,
    )


class ColdTokenizer(nn.Module):
    """Codes of raw patches: what the encoder predicts before there is a tokenizer worth the name."""

    def __init__(self, values: int, section: QuantizerSection, seed: int) -> None:
        super().__init__()
        self.projection = RandomProjection(
            values, section.width, components=section.cold_components, power=section.cold_whitening, seed=seed
        )
        self.quantizer = build_quantizer(section.model_copy(update={"learn": "ema"}), seed)  # k-means, then frozen

    def fit(self, x_RP: Tensor) -> None:
        """Projection and codebooks from these patches, the same on every rank, then frozen for good."""
        self.projection.fit(x_RP)
        self.quantizer.reset()
        self.quantizer.start(self.projection(x_RP))
        self.quantizer.freeze()

    def forward(self, batch: PatchBatch) -> Quantized:
        """Quantizes the R valid patches of the batch, clip by clip."""
        return self.quantizer(self.projection(batch.rows(batch.x_BNP)))


class Tokenizer(nn.Module):
    """T: an encoder of its own, a projection to C, a residual quantizer."""

    def __init__(
        self,
        values: int,
        axes: tuple[int, ...],
        shape: EncoderSection,
        section: QuantizerSection,
        seed: int,
        *,
        standardise: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(values, axes, shape)
        self.project = nn.Sequential(
            nn.Linear(shape.width, shape.width), nn.Tanh(), nn.Linear(shape.width, section.width)
        )
        self.project.apply(initialise)
        # z that is not centred puts nearly all patches into a few codes of the first level.
        self.centre = Standardise(section.width) if standardise else nn.Identity()
        self.quantizer = build_quantizer(section, seed)

    @torch.no_grad()
    def start(self, batches: Sequence[PatchBatch]) -> None:
        """New codebooks, from what this network makes of some batches of every rank."""
        self.quantizer.reset()
        z_RC = torch.cat([distributed.gather_rows(self._embed(batch)) for batch in batches])
        self.quantizer.start(z_RC)
        self.settle(torch.tensor(False, device=z_RC.device))

    def settle(self, sound: Tensor) -> None:
        """See `Bridle.settle`."""
        if isinstance(self.centre, Standardise):
            self.centre.update(sound)
        self.quantizer.update(sound)

    def forward(self, batch: PatchBatch) -> Quantized:
        """Quantizes the R valid patches of the batch, clip by clip."""
        return self.quantizer(self._embed(batch))

    def _embed(self, batch: PatchBatch) -> Tensor:
        """z of the valid patches, `(R, C)`."""
        h_BND = self.encoder(batch.x_BNP, batch.coords_BN3, batch.mask_BN)[:, 1:]
        z_RC = self.project(batch.rows(h_BND))
        with torch.autocast(z_RC.device.type, enabled=False):
            return self.centre(z_RC.float())


class Estimator(nn.Module):
    """TE: guesses the encoder's features of the unmasked clip from `z_q` alone."""

    def __init__(self, code_width: int, axes: tuple[int, ...], shape: EncoderSection, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(code_width, shape.width)
        self.positions = GridPositions(shape.width, axes)
        self.blocks = Blocks(depth, shape.width, shape.heads, shape.mlp_ratio)
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.width)
        self.apply(initialise)

    def forward(self, z_q_RC: Tensor, batch: PatchBatch) -> Tensor:
        """`(R, C)` of the valid patches -> `(R, D)`."""
        h_BND = self.embed(batch.padded(z_q_RC)) + self.positions(batch.coords_BN3)
        h_BND = self.blocks(h_BND, batch.mask_BN)
        return self.head(self.norm(batch.rows(h_BND)))
