"""The model as two plain functions of tensors, fit to be traced: what leaves this library holds nothing else.

    encoder:    patches, coords, valid -> features, class_token, mean, and logits of a fine-tuned classifier
    tokenizer:  patches, coords, valid -> codes

Clips of one batch and patches of one clip may be of any number, also after the export. The arithmetic is that of
`Bridle.features` and `Bridle.tokenize`, without branches on data.

Shapes: B clips, N patches, P values a patch, D width, Q levels, K codes a level, C code width,
L classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bridle.model import Bridle, Classifier
from bridle.model.encoder import Encoder
from bridle.quantize import ResidualQuantizer

PARTS = ("encoder", "tokenizer")
INPUTS = ("patches", "coords", "valid")
STORED = {"fp16": torch.float16, "bf16": torch.bfloat16}  # dtypes that matrices are kept in, while fp32 computes


class Program(nn.Module):
    """What is traced: tensors by the names of `INPUTS` in, those of `outputs` out."""

    outputs: tuple[str, ...]


def program_of(model: Bridle, part: str, *, dtype: str = "fp32", classifier: Classifier | None = None) -> Program:
    """The encoder that features come from, or the tokenizer in force, learned or cold.

    Args:
        part: of `PARTS`.
        dtype: of `STORED`: the encoder keeps its matrices so, half the bytes, and still computes in float32; anything
            else leaves them float32. Never the tokenizer: rounded like that it picks other codes.
        classifier: fine-tuned with this encoder, which then gives logits, too.
    """
    if part == "encoder":
        program: Program = EncoderProgram(deepcopy(model.average or model.encoder), classifier)
        if dtype in STORED:
            _shrink(program, STORED[dtype])
    elif bool(model.learned):
        program = TokenizerProgram(_LearnedEmbed(model), model.tokenizer.quantizer)
    else:
        program = TokenizerProgram(_ColdEmbed(model), model.cold_tokenizer.quantizer)
    return program.eval().requires_grad_(False)


def example_of(model: Bridle) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs to trace with: two clips of five patches, for a single one of either would be taken for a constant."""
    valid_BN = torch.ones(2, 5, dtype=torch.bool)
    valid_BN[1, 3:] = False
    return torch.zeros(2, 5, model.patcher.values), torch.zeros(2, 5, 3, dtype=torch.int64), valid_BN


class EncoderProgram(Program):
    """float32 `(B, N, P)`, int64 `(B, N, 3)`, bool `(B, N)` -> float32 features `(B, N, D)`, zero at padding, class
    token `(B, D)` and mean over the valid patches `(B, D)`; with a classifier its logits `(B, L)`, too."""

    def __init__(self, encoder: Encoder, classifier: Classifier | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.outputs = ("features", "class_token", "mean")
        if classifier is not None:
            self.outputs += ("logits",)
            self.pool, self.norm, self.head = classifier.pool, deepcopy(classifier.norm), deepcopy(classifier.head)

    def forward(self, patches: Tensor, coords: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        h_BND = self.encoder(patches, coords, valid)
        valid_BN1 = valid[..., None].to(h_BND.dtype)
        features_BND, class_BD = h_BND[:, 1:] * valid_BN1, h_BND[:, 0]
        mean_BD = features_BND.sum(1) / valid_BN1.sum(1).clamp(min=1)
        found = features_BND, class_BD, mean_BD
        if "logits" not in self.outputs:
            return found
        return *found, self.head(self.norm(class_BD if self.pool == "class" else mean_BD))


class TokenizerProgram(Program):
    """float32 `(B, N, P)`, int64 `(B, N, 3)`, bool `(B, N)` -> codes, int64 `(B, N, Q)`, -1 at padding.

    Args:
        embed: the same inputs -> z `(B, N, C)`.
    """

    outputs = ("codes",)
    codebook_QKC: Tensor
    half_norm_QK: Tensor

    def __init__(self, embed: nn.Module, quantizer: ResidualQuantizer) -> None:
        super().__init__()
        self.embed = embed
        codebook_QKC = quantizer.codebook_QKC.detach().clone()
        self.register_buffer("codebook_QKC", codebook_QKC)
        self.register_buffer("half_norm_QK", 0.5 * codebook_QKC.square().sum(-1))

    def forward(self, patches: Tensor, coords: Tensor, valid: Tensor) -> Tensor:
        codes = [code_BN for _, code_BN in self._levels(self.embed(patches, coords, valid))]
        return torch.stack(codes, dim=-1).masked_fill(~valid[..., None], -1)

    def margin(self, patches: Tensor, coords: Tensor, valid: Tensor) -> Tensor:
        """How much nearer than the second the nearest code is, `(B, N)`: half the difference of squared distances, at
        the level where it is least. z has norm 1."""
        nearest_two = [
            distance_BNK.topk(2, largest=False).values
            for distance_BNK, _ in self._levels(self.embed(patches, coords, valid))
        ]
        return torch.stack([two[..., 1] - two[..., 0] for two in nearest_two]).amin(0)

    def _levels(self, z_BNC: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each level the distances (halved, squared, without what all have in common) and the nearest code."""
        residual_BNC = F.normalize(z_BNC, dim=-1)
        for codebook_KC, half_norm_K in zip(self.codebook_QKC.unbind(), self.half_norm_QK.unbind(), strict=True):
            distance_BNK = half_norm_K - residual_BNC @ codebook_KC.T
            code_BN = distance_BNK.argmin(-1)
            residual_BNC = residual_BNC - F.embedding(code_BN, codebook_KC)
            yield distance_BNK, code_BN


class _ColdEmbed(nn.Module):
    def __init__(self, model: Bridle) -> None:
        super().__init__()
        self.projection = model.cold_tokenizer.projection

    def forward(self, patches: Tensor, coords: Tensor, valid: Tensor) -> Tensor:
        return self.projection(patches)


class _LearnedEmbed(nn.Module):
    def __init__(self, model: Bridle) -> None:
        super().__init__()
        tokenizer = model.tokenizer
        self.encoder, self.project, self.centre = tokenizer.encoder, tokenizer.project, tokenizer.centre

    def forward(self, patches: Tensor, coords: Tensor, valid: Tensor) -> Tensor:
        return self.centre(self.project(self.encoder(patches, coords, valid)[:, 1:]))


class _SmallLinear(nn.Module):
    """A linear layer whose matrix is kept in a smaller dtype."""

    weight: Tensor

    def __init__(self, full: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", full.weight.detach().to(dtype))
        self.bias = full.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.float(), self.bias)


def _shrink(module: nn.Module, dtype: torch.dtype) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, _SmallLinear(child, dtype))
        else:
            _shrink(child, dtype)
