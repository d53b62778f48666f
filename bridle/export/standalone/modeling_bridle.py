"""BRIDLE's encoder, its tokenizer and a classifier on top, for `transformers`.

The processor of this folder makes the inputs: `patches` (B, N, P), `coords` (B, N, 3) and `valid` (B, N).

Shapes: B clips, N patches, P values a patch, D width, H heads, Q codebooks, K codes each, C code width, L classes.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, initialization
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ModelOutput

from .configuration_bridle import BridleConfig

LONGEST = 10000.0  # wave of the positions


@dataclass
class BridleOutput(ModelOutput):
    """What the encoder found.

    Attributes:
        last_hidden_state: of each patch `(B, N, D)`, zero at padding.
        pooler_output: its mean over the valid patches `(B, D)`.
        class_token: `(B, D)`.
        hidden_states: what went into each block and came out of the last `(B, 1 + N, D)`, the class token first.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    class_token: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class BridleClassifierOutput(ModelOutput):
    """`logits` are float32 `(B, L)`; `loss` is there where labels were given."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


def positions(coords_BN3: Tensor, axes: list[int], width: int) -> Tensor:
    """Sines and cosines of the coordinates in use, `(B, N, D)` in float32: half precision cannot tell them apart."""
    pairs = width // (2 * len(axes))
    exponent_F = torch.arange(pairs, device=coords_BN3.device) / max(pairs, 1)
    frequency_F = torch.exp(-math.log(LONGEST) * exponent_F)
    used = torch.stack([coords_BN3[..., axis] for axis in axes], dim=-1)
    angle = used[..., None].float() * frequency_F
    wave = torch.cat([angle.sin(), angle.cos()], dim=-1).flatten(-2)
    return F.pad(wave, (0, width - wave.shape[-1]))


class BridleAttention(nn.Module):
    """Self-attention; padding is never attended to."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BND: Tensor, mask_B11N: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x_BND).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x_BHNE = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_B11N)
        return self.out(x_BHNE.transpose(1, 2).flatten(2))


class BridleBlock(GradientCheckpointingLayer):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        hidden = round(width * mlp_ratio)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = BridleAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x_BND: Tensor, mask_B11N: Tensor | None) -> Tensor:
        x_BND = x_BND + self.attention(self.norm1(x_BND), mask_B11N)
        return x_BND + self.mlp(self.norm2(x_BND))


class BridleEncoder(nn.Module):
    """A Vision Transformer with a class token and fixed positions."""

    def __init__(self, config: BridleConfig, layers: int):
        super().__init__()
        width = config.hidden_size
        self.axes = list(config.axes)
        self.embed = nn.Linear(config.values, width)
        self.class_token_D = nn.Parameter(torch.zeros(width))
        blocks = [BridleBlock(width, config.num_attention_heads, config.mlp_ratio) for _ in range(layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)

    def forward(self, patches: Tensor, coords: Tensor, valid: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """`(B, 1 + N, D)`, the class token first, and what each block saw."""
        h_BND = self.embed(patches.to(self.embed.weight.dtype))
        h_BND = h_BND + positions(coords, self.axes, h_BND.shape[-1]).to(h_BND.dtype)
        class_B1D = self.class_token_D.to(h_BND.dtype).expand(len(h_BND), 1, -1)
        h_BND = torch.cat([class_B1D, h_BND], dim=1)
        mask_B11N = None if valid is None else F.pad(valid, (1, 0), value=True)[:, None, None]
        states = [h_BND]
        for block in self.blocks:
            h_BND = block(h_BND, mask_B11N)
            states.append(h_BND)
        return self.norm(h_BND), tuple(states)


class BridleTokenizer(nn.Module):
    """Patches -> codes, by residual quantization. Frozen, and float32 whatever the model is: anything less picks
    other codes."""

    mean_P: Tensor
    map_PC: Tensor
    mean_C: Tensor
    scale_C: Tensor
    codebook_QKC: Tensor

    def __init__(self, config: BridleConfig):
        super().__init__()
        width, code_width = config.hidden_size, config.code_width
        self.learned = config.tokenizer == "learned"
        self.standardise = self.learned and config.standardise
        if self.learned:
            self.encoder = BridleEncoder(config, config.tokenizer_layers)
            self.project = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, code_width))
        else:
            self.register_buffer("mean_P", torch.zeros(config.values))
            self.register_buffer("map_PC", torch.zeros(config.values, code_width))
        if self.standardise:
            self.register_buffer("mean_C", torch.zeros(code_width))
            self.register_buffer("scale_C", torch.ones(code_width))
        self.register_buffer("codebook_QKC", torch.zeros(config.codebooks, config.codes, code_width))

    def train(self, mode=True):
        """Nothing here is trained, whatever loading or `model.train()` says."""
        return super().train(False).requires_grad_(False)

    def _apply(self, fn, recurse=True):
        def moved(tensor: Tensor) -> Tensor:
            found = fn(tensor)
            return found if found.dtype == tensor.dtype else tensor.to(found.device)

        return super()._apply(moved, recurse)

    @torch.no_grad()
    def forward(self, patches: Tensor, coords: Tensor, valid: Tensor | None) -> Tensor:
        with torch.autocast(patches.device.type, enabled=False):
            z_BNC = self._embedded(patches.float(), coords, valid)
            residual_BNC = F.normalize(z_BNC, dim=-1)
            codes = []
            for codebook_KC in self.codebook_QKC.unbind():
                distance_BNK = 0.5 * codebook_KC.square().sum(-1) - residual_BNC @ codebook_KC.T
                codes.append(distance_BNK.argmin(-1))
                residual_BNC = residual_BNC - F.embedding(codes[-1], codebook_KC)
        codes_BNQ = torch.stack(codes, dim=-1)
        return codes_BNQ if valid is None else codes_BNQ.masked_fill(~valid[..., None], -1)

    def _embedded(self, patches: Tensor, coords: Tensor, valid: Tensor | None) -> Tensor:
        if not self.learned:
            return (patches - self.mean_P) @ self.map_PC
        z_BNC = self.project(self.encoder(patches, coords, valid)[0][:, 1:])
        return (z_BNC - self.mean_C) * self.scale_C if self.standardise else z_BNC


class BridleHead(nn.Linear):
    """The layer on top: a new one begins with nearly equal scores."""


class BridlePreTrainedModel(PreTrainedModel):
    """What the models of this file share."""

    config_class = BridleConfig
    base_model_prefix = "bridle"
    main_input_name = "patches"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["BridleBlock"]  # noqa: RUF012 (as in all of transformers)
    _keep_in_fp32_modules_strict = {"tokenizer"}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module):
        """As pretraining begins."""
        if isinstance(module, nn.Linear):
            if isinstance(module, BridleHead):
                initialization.normal_(module.weight, std=0.01)
            else:
                initialization.xavier_uniform_(module.weight)
            initialization.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            initialization.ones_(module.weight)
            initialization.zeros_(module.bias)
        elif isinstance(module, BridleEncoder):
            initialization.normal_(module.class_token_D, std=0.02)


class BridleModel(BridlePreTrainedModel):
    """Patches -> features, and codes where there is a tokenizer."""

    def __init__(self, config: BridleConfig):
        super().__init__(config)
        self.encoder = BridleEncoder(config, config.num_hidden_layers)
        self.tokenizer = BridleTokenizer(config) if config.tokenizer else None
        self.post_init()

    def forward(
        self,
        patches: Tensor,
        coords: Tensor | None = None,
        valid: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unused,
    ) -> BridleOutput | tuple:
        """Features of the patches, see `BridleOutput`.

        Args:
            patches: float `(B, N, P)`.
            coords: integer `(B, N, 3)`; None: those of the first N patches of a full clip.
            valid: `(B, N)`, false at padding; None: nothing is.
        """
        coords, valid = self._completed(patches, coords, valid)
        h_BND, states = self.encoder(patches, coords, valid)
        features_BND, class_BD = h_BND[:, 1:], h_BND[:, 0]
        if valid is None:
            mean_BD = features_BND.mean(1)
        else:
            features_BND = features_BND * valid[..., None].to(h_BND.dtype)
            mean_BD = features_BND.sum(1) / valid.sum(1, keepdim=True).clamp(min=1).to(h_BND.dtype)
        kept = states if _chosen(output_hidden_states, self.config.output_hidden_states) else None
        output = BridleOutput(features_BND, mean_BD, class_BD, kept)
        return output if _chosen(return_dict, self.config.return_dict) else output.to_tuple()

    def tokenize(self, patches: Tensor, coords: Tensor | None = None, valid: Tensor | None = None, **unused) -> Tensor:
        """Codes, int64 `(B, N, Q)`, -1 at padding; the first codebooks alone are a coarser code."""
        if self.tokenizer is None:
            raise ValueError("this model was exported without a tokenizer, so it has no codes")
        return self.tokenizer(patches, *self._completed(patches, coords, valid))

    def _completed(self, patches: Tensor, coords: Tensor | None, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if coords is None:
            axes = [torch.arange(size, device=patches.device) for size in self.config.grid]
            grid_N3 = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
            coords = grid_N3[: patches.shape[1]].expand(len(patches), -1, -1)
        return coords, None if valid is None else valid.bool()


class BridleForClassification(BridlePreTrainedModel):
    """Patches -> a score for each class, from the mean of the patches or the class token (`config.head_pool`)."""

    def __init__(self, config: BridleConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bridle = BridleModel(config)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.head = BridleHead(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        patches: Tensor,
        coords: Tensor | None = None,
        valid: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **unused,
    ) -> BridleClassifierOutput | tuple:
        """Scores of the classes, see `BridleClassifierOutput`.

        Args:
            labels: `(B,)` integers; `(B, L)` of 0 and 1 where a clip may have several classes.
        """
        found = self.bridle(patches, coords, valid, output_hidden_states, return_dict=True)
        pooled_BD = found.class_token if self.config.head_pool == "class" else found.pooler_output
        logits_BL = self.head(self.norm(pooled_BD)).float()
        loss = None if labels is None else self._loss(logits_BL, labels)
        output = BridleClassifierOutput(loss, logits_BL, found.hidden_states)
        return output if _chosen(return_dict, self.config.return_dict) else output.to_tuple()

    def tokenize(self, *inputs, **named) -> Tensor:
        """See `BridleModel.tokenize`."""
        return self.bridle.tokenize(*inputs, **named)

    def _loss(self, logits_BL: Tensor, labels: Tensor) -> Tensor:
        kind = self.config.problem_type
        if kind == "regression":
            return F.mse_loss(logits_BL.squeeze(-1), labels.float())
        if kind == "multi_label_classification" or (kind is None and labels.is_floating_point()):
            return F.binary_cross_entropy_with_logits(logits_BL, labels.float())
        return F.cross_entropy(logits_BL, labels)


def _chosen(asked: bool | None, usual: bool | None) -> bool | None:
    return usual if asked is None else asked
