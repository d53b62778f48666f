"""Fine-tuning: the whole encoder and a linear layer trained on labels.

recipe (YAML) --load_recipe--> Finetune
sources --clips--> views --patcher, augment--> patches and shares of classes --trial--> Classifier, scores
"""

from bridle.evaluate.finetune.recipe import Finetune, load_recipe
from bridle.evaluate.finetune.trial import score, tune_and_score

__all__ = ["Finetune", "load_recipe", "score", "tune_and_score"]
