"""The tokenizers that make the encoder's targets, and the estimator that trains the learned one.

    cold start:  patches -> frozen random projection -> quantizer, k-means once, then frozen
    learned:     patches -> own encoder -> Linear-Tanh-Linear -> centred z -> quantizer -> estimator -> E's features

Shapes: B clips, N patches, P values a patch, D width, C code width, Q levels, R valid patches of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bridle.config.sections import EncoderSection, QuantizerSection
from bridle.model.encoder import Encoder
from bridle.nn import Block, GridPositions, initialise
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


def standardiser(width: int, wanted: bool) -> nn.Module:
    """Mean 0 and variance 1 in every channel, or nothing."""
    return nn.BatchNorm1d(width, affine=False) if wanted else nn.Identity()


class ColdTokenizer(nn.Module):
    """Codes of raw patches: what the encoder predicts before there is a tokenizer worth the name."""

    def __init__(self, values: int, section: QuantizerSection, seed: int) -> None:
        super().__init__()
        self.projection = RandomProjection(
            values, section.width, components=section.cold_components, power=section.cold_whitening, seed=seed
        )
        self.quantizer = build_quantizer(section.model_copy(update={"learn": "ema"}), seed)  # k-means, then frozen

    def fit(self, x_RP: Tensor) -> None:
        """Projection and codebooks from the first batches, then frozen for good."""
        self.projection.fit(x_RP)
        self.quantizer.reset()
        training = self.quantizer.training
        self.quantizer.train()(self.projection(x_RP))
        self.quantizer.train(training).freeze()

    def forward(self, batch: PatchBatch) -> Quantized:
        """Quantizes the R valid patches of the batch, clip by clip."""
        return self.quantizer(self.projection(batch.x_BNP[batch.valid_BN]))


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
        self.centre = standardiser(section.width, standardise)
        self.quantizer = build_quantizer(section, seed)

    def forward(self, batch: PatchBatch) -> Quantized:
        """Quantizes the R valid patches of the batch, clip by clip."""
        valid_BN = None if batch.dense else batch.valid_BN
        h_BND = self.encoder(batch.x_BNP, batch.coords_BN3, valid_BN)[:, 1:]
        z_RC = self.project(h_BND[batch.valid_BN])
        with torch.autocast(z_RC.device.type, enabled=False):
            z_RC = self.centre(z_RC.float())
        return self.quantizer(z_RC)


class Estimator(nn.Module):
    """TE: guesses the encoder's features of the unmasked clip from `z_q` alone."""

    def __init__(self, code_width: int, axes: tuple[int, ...], shape: EncoderSection, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(code_width, shape.width)
        self.positions = GridPositions(shape.width, axes)
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads, shape.mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, shape.width)
        self.apply(initialise)

    def forward(self, z_q_RC: Tensor, batch: PatchBatch) -> Tensor:
        """`(R, C)` of the valid patches -> `(R, D)`."""
        z_BNC = z_q_RC.new_zeros(*batch.valid_BN.shape, z_q_RC.shape[-1])
        z_BNC[batch.valid_BN] = z_q_RC
        h_BND = self.embed(z_BNC) + self.positions(batch.coords_BN3)
        valid_BN = None if batch.dense else batch.valid_BN
        for block in self.blocks:
            h_BND = block(h_BND, valid_BN)
        return self.head(self.norm(h_BND[batch.valid_BN]))
