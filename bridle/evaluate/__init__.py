"""How much the frozen features and the codes are worth: probes with intervals, codebook health."""

from bridle.evaluate.compare import compare
from bridle.evaluate.dataset import Division
from bridle.evaluate.evaluate import OWN_DATA, evaluate
from bridle.evaluate.finetune import load_recipe
from bridle.evaluate.protocol import Protocol

__all__ = ["OWN_DATA", "Division", "Protocol", "compare", "evaluate", "load_recipe"]
