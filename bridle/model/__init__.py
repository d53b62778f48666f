"""PatchBatch -> features, codes."""

from bridle.model.bridle import Bridle
from bridle.model.masking import Mask, draw_mask, pick
from bridle.model.tokenizer import Estimator, Tokenizer

__all__ = ["Bridle", "Estimator", "Mask", "Tokenizer", "draw_mask", "pick"]
