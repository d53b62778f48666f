"""How much the frozen features and the codes are worth: probes with intervals, codebook health."""

from bridle.evaluate.compare import compare
from bridle.evaluate.dataset import Division
from bridle.evaluate.evaluate import OWN_DATA, Protocol, evaluate

__all__ = ["OWN_DATA", "Division", "Protocol", "compare", "evaluate"]
