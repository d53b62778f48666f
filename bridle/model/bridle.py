"""The whole model: encoder, predictor, both tokenizers, estimator.

Shapes: B clips, N patches, D width, Q levels, R valid patches.
"""

from __future__ import annotations

import hashlib
import json
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from bridle import distributed
from bridle.config.sections import Config
from bridle.model.encoder import Encoder
from bridle.model.masking import Mask, pick
from bridle.model.predictor import Predictor
from bridle.model.tokenizer import ColdTokenizer, Estimator, Tokenizer
from bridle.nn import Standardise
from bridle.patches import build_patcher
from bridle.quantize import Quantized
from bridle.schema import PatchBatch

# Keys of the patches that older models lack, and what they mean there: the fingerprint stays the one in their files.
_ADDED = {"low_hz": 20.0, "range_db": None}


class Bridle(nn.Module):
    """One model for all modalities; what they differ in lies in `patcher`.

    Args:
        config: the recipe.
        statistics: the corpus statistics of the manifest.
    """

    learned: Tensor
    source = "untrained"

    def __init__(self, config: Config, statistics: dict[str, Any]) -> None:
        super().__init__()
        self.config, self.statistics = config, statistics
        self.patcher = build_patcher(config.patches, statistics)
        values, axes, section = self.patcher.values, self.patcher.axes, config.quantizer
        self.encoder = Encoder(values, axes, config.encoder)
        # What features come from: an average over the last steps is smoother than any of them (Polyak & Juditsky 1992).
        self.average = deepcopy(self.encoder) if config.optim.ema else None
        self.predictor = Predictor(config.encoder.width, axes, config.predictor, section.levels, section.codes)
        self.cold_tokenizer = ColdTokenizer(values, section, config.train.seed)
        shape = config.encoder.model_copy(update={"depth": config.tokenizer.depth or config.encoder.depth})
        standardise = config.tokenizer.standardise
        self.tokenizer = Tokenizer(values, axes, shape, section, config.train.seed + 1, standardise=standardise)
        self.estimator = Estimator(section.width, axes, config.encoder, config.tokenizer.estimator_depth)
        # The estimator's targets have mean 0 and variance 1 in every channel, or a few channels would rule the cosine.
        self.target_norm = Standardise(config.encoder.width) if standardise else nn.Identity()
        # Whether the learned tokenizer is the one in force.
        self.register_buffer("learned", torch.tensor(False))

    def _apply(self, fn: Any, recurse: bool = True) -> Bridle:
        super()._apply(fn, recurse)
        self.learned = self.learned.cpu()  # asked at every step (see `ResidualQuantizer`)
        return self

    @property
    def modality(self) -> str:
        return self.config.patches.modality

    @property
    def ready(self) -> bool:
        """Whether there are codes at all: an untrained model has none."""
        return bool(self.tokenizer.quantizer.initialised if self.learned else self.cold_tokenizer.quantizer.initialised)

    def quantize(self, batch: PatchBatch) -> Quantized:
        """The R valid patches through the tokenizer in force."""
        return self.tokenizer(batch) if bool(self.learned) else self.cold_tokenizer(batch)

    def encode_visible(self, batch: PatchBatch, mask: Mask) -> Tensor:
        """E's features `(B, V, D)` of the visible patches, which alone it computes, for each of B masks."""
        x_BVP, visible_BV3 = pick(batch.x_BNP, mask.visible_BV), pick(batch.coords_BN3, mask.visible_BV)
        return self.encoder(x_BVP, visible_BV3, mask.visible_valid_BV)[:, 1:]

    def predict(self, h_BVD: Tensor, batch: PatchBatch, mask: Mask) -> Tensor:
        """Logits of the hidden patches' codes `(B, M, Q, K)`, from the features of the visible ones."""
        visible_BV3, masked_BM3 = pick(batch.coords_BN3, mask.visible_BV), pick(batch.coords_BN3, mask.masked_BM)
        return self.predictor(h_BVD, visible_BV3, masked_BM3, mask.visible_valid_BV, mask.masked_valid_BM)

    def restart_encoder(self) -> None:
        """New weights for encoder and predictor, from the global generator."""
        fresh = type(self)(self.config, self.statistics)
        for part in ("encoder", "predictor"):
            getattr(self, part).load_state_dict(getattr(fresh, part).state_dict())
        if self.average is not None:
            self.average.load_state_dict(fresh.encoder.state_dict())

    @torch.no_grad()
    def follow(self, step: int, sound: Tensor) -> None:
        """The encoder's average takes in the weights after that step, if it was `sound`; young runs forget faster."""
        if self.average is not None:
            decay = min(self.config.optim.ema, (1 + step) / (10 + step))
            share = sound * (1 - decay)
            for mean, now in zip(self.average.parameters(), self.encoder.parameters(), strict=True):
                distributed.local(mean).lerp_(distributed.local(now), share)

    @torch.no_grad()
    def settle(self, sound: Tensor) -> None:
        """Codebooks and running averages take in what the tokenizer saw in this step, or forget it."""
        if isinstance(self.target_norm, Standardise):
            self.target_norm.update(sound)
        self.tokenizer.settle(sound)

    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal of what features and codes follow from: weights, patches and statistics."""
        patches = self.config.patches.model_dump(mode="json")
        patches = {key: value for key, value in patches.items() if _ADDED.get(key, "") != value}
        identity = [patches, self.statistics]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
        for name, value in self.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    @torch.no_grad()
    def features(self, batch: PatchBatch) -> Tensor:
        """E's features of the unmasked clips, float32 `(B, N, D)`; rows of padding are zero."""
        return self.features_and_class(batch)[0]

    @torch.no_grad()
    def features_and_class(self, batch: PatchBatch) -> tuple[Tensor, Tensor]:
        """`features`, and E's class token `(B, 1, D)`."""
        h_BND = (self.average or self.encoder)(batch.x_BNP, batch.coords_BN3, batch.mask_BN).float()
        return h_BND[:, 1:] * batch.valid_BN[..., None], h_BND[:, :1]

    @torch.no_grad()
    def tokenize(self, batch: PatchBatch) -> Tensor:
        """Codes, int64 `(B, N, Q)`; padding is -1, and what follows from values that are not finite."""
        codes_BNQ, norm_BNQ = self.tokenize_detailed(batch)
        return codes_BNQ.where(norm_BNQ.isfinite(), -1)

    @torch.no_grad()
    def tokenize_detailed(self, batch: PatchBatch) -> tuple[Tensor, Tensor]:
        """Codes as in `tokenize`, and the norm of the residual after each level `(B, N, Q)` (z has norm 1)."""
        out = self.quantize(batch)
        return batch.padded(out.codes_NQ, -1), batch.padded(out.residual_norm_NQ)


def weightless(config: Config) -> Bridle:
    """A model of shapes alone, to count with: nothing is drawn or kept, and no corpus need be known."""
    none = {"fbank_mean": 0.0, "fbank_std": 1.0, "pixel_mean": [0.0] * 3, "pixel_std": [1.0] * 3}
    with torch.device("meta"):
        return Bridle(config, none)
