"""Shards -> clips: in a shuffled endless stream for training, in order and once for everything else."""

from bridle.stream.loader import Batch, ClipStream
from bridle.stream.read import SampleReader, iterate

__all__ = ["Batch", "ClipStream", "SampleReader", "iterate"]
