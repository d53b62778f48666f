"""PatchBatch -> features, codes."""

from bridle.model.bridle import Bridle, weightless
from bridle.model.classifier import Classifier, layered_groups, set_drop_path
from bridle.model.masking import Mask, draw_mask, pick
from bridle.model.tokenizer import Estimator, Tokenizer

__all__ = [
    "Bridle",
    "Classifier",
    "Estimator",
    "Mask",
    "Tokenizer",
    "draw_mask",
    "layered_groups",
    "pick",
    "set_drop_path",
    "weightless",
]
