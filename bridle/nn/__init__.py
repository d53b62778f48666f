"""Network parts without knowledge of clips or codes."""

from bridle.nn.block import Attention, Block, Blocks, initialise
from bridle.nn.positions import GridPositions
from bridle.nn.standardise import Standardise

__all__ = ["Attention", "Block", "Blocks", "GridPositions", "Standardise", "initialise"]
