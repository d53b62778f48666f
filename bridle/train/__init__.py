"""Phases in turn: shards in, a run folder out."""

from bridle.train.pretrain import pretrain

__all__ = ["pretrain"]
