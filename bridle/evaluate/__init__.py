"""How much the frozen features and the codes are worth: probes with intervals, codebook health."""

from bridle.evaluate.attentive import AttentiveRecipe
from bridle.evaluate.evaluate import evaluate
from bridle.evaluate.features import Patches, Vectors, extract_patches, extract_vectors
from bridle.evaluate.intervals import bootstrap
from bridle.evaluate.probe import ProbeResult, probe, probe_attentive
from bridle.evaluate.splits import Split, group_names, make_splits
from bridle.infer.pooling import pool

__all__ = [
    "AttentiveRecipe",
    "Patches",
    "ProbeResult",
    "Split",
    "Vectors",
    "bootstrap",
    "evaluate",
    "extract_patches",
    "extract_vectors",
    "group_names",
    "make_splits",
    "pool",
    "probe",
    "probe_attentive",
]
