"""What leaves the library computes what the model does: features, means, codes by an independent search."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from exports import learned
from standins import small
from torch import Tensor

from bridle.export.parity import noise
from bridle.export.programs import program_of
from bridle.model import Bridle
from bridle.schema import PatchBatch


def searched(model: Bridle, batch: PatchBatch) -> Tensor:
    """Codes `(B, N, Q)` by distances written out, level after level; -1 at padding."""
    z_RC = (
        model.tokenizer._embed(batch)
        if bool(model.learned)
        else model.cold_tokenizer.projection(batch.x_BNP[batch.valid_BN])
    )
    quantizer = model.tokenizer.quantizer if bool(model.learned) else model.cold_tokenizer.quantizer
    residual_RC, levels = F.normalize(z_RC, dim=-1), []
    for codebook_KC in quantizer.codebook_QKC:
        levels.append((residual_RC[:, None] - codebook_KC).square().sum(-1).argmin(-1))
        residual_RC = residual_RC - codebook_KC[levels[-1]]
    codes_BNQ = torch.full((*batch.valid_BN.shape, len(levels)), -1)
    codes_BNQ[batch.valid_BN] = torch.stack(levels, dim=-1)
    return codes_BNQ


@pytest.mark.parametrize("modality", ["audio", "image", "video"])
@pytest.mark.parametrize("make", [small, learned])
@torch.inference_mode()
def test_codes_of_model_and_program_are_the_nearest_at_each_level(make: Callable[[str], Bridle], modality: str) -> None:
    model = make(modality)
    batch = noise(model)
    wanted = searched(model, batch)
    assert torch.equal(model.tokenize(batch), wanted)
    assert torch.equal(program_of(model, "tokenizer")(batch.x_BNP, batch.coords_BN3, batch.valid_BN), wanted)


@torch.inference_mode()
def test_the_encoder_program_gives_features_class_token_and_mean_of_the_average() -> None:
    """The average of the encoder where the run keeps one; padding is zero and counts in no mean."""
    model = small("audio", optim={"ema": 0.9})
    assert model.average is not None
    model.average.embed.weight.mul_(1.5)
    batch = noise(model)
    assert not batch.dense
    h_BND = model.average(batch.x_BNP, batch.coords_BN3, batch.valid_BN)
    features, class_token, mean = program_of(model, "encoder")(batch.x_BNP, batch.coords_BN3, batch.valid_BN)
    for row, length in enumerate(batch.lengths):
        assert torch.allclose(features[row, :length], h_BND[row, 1 : 1 + length], atol=1e-5)
        assert not features[row, length:].any()
        assert torch.allclose(class_token[row], h_BND[row, 0], atol=1e-5)
        assert torch.allclose(mean[row], h_BND[row, 1 : 1 + length].mean(0), atol=1e-5)
    assert torch.allclose(features, model.features(batch), atol=1e-5)
