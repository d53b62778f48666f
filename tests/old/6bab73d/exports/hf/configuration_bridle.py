"""Sizes of a BRIDLE model, as `config.json` keeps them."""

from transformers import PreTrainedConfig


class BridleConfig(PreTrainedConfig):
    """Args:
    values: numbers in a patch.
    grid: patches of a full clip along time, rows and columns.
    axes: which of them carry positions.
    tokenizer: "learned", "cold" (a random projection), or None: there are no codes.
    tokenizer_layers: blocks of the learned tokenizer.
    standardise: whether its vectors are centred before they are quantized.
    codebooks, codes, code_width: of the tokenizer.
    head_pool: what a classifier sees: the "mean" of the patches, or the "class" token.
    num_frames: of a full video clip; 1 for other media.
    """

    model_type = "bridle"

    values: int = 768
    grid: list[int] | tuple[int, ...] = (1, 14, 14)
    axes: list[int] | tuple[int, ...] = (1, 2)
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: float = 4.0
    tokenizer: str | None = None
    tokenizer_layers: int = 12
    standardise: bool = True
    codebooks: int = 4
    codes: int = 1024
    code_width: int = 256
    head_pool: str = "mean"
    num_frames: int = 1
