"""Network parts without knowledge of clips or codes."""

from bridle.nn.block import Attention, Block, initialise
from bridle.nn.positions import GridPositions

__all__ = ["Attention", "Block", "GridPositions", "initialise"]
