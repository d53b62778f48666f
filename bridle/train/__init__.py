"""Phases in turn: shards in, a run folder out."""

from bridle.train.phases import Limits
from bridle.train.pretrain import pretrain, resume

__all__ = ["Limits", "pretrain", "resume"]
