"""Quantizers and their health: vectors -> codes."""

from bridle.quantize.kmeans import kmeans, nearest_code
from bridle.quantize.random_projection import RandomProjection
from bridle.quantize.residual import Quantized, ResidualQuantizer
from bridle.quantize.usage import count_codes, mutual_information, usage_entropy, usage_share

__all__ = [
    "Quantized",
    "RandomProjection",
    "ResidualQuantizer",
    "count_codes",
    "kmeans",
    "mutual_information",
    "nearest_code",
    "usage_entropy",
    "usage_share",
]
