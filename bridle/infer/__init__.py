"""A trained model at work: files of any length -> features, embeddings, codes."""

from bridle.infer.codes_file import check_output, read_codes, write_codes
from bridle.infer.corpus import measure
from bridle.infer.encode import Encoded, Failures, encode
from bridle.infer.pooling import Pool, pool
from bridle.infer.pretrained import Pretrained, pool_encoded
from bridle.infer.sources import Source, find_sources, spread_sources
from bridle.infer.tokenize import nothing_read, require_codes, tokenize_inputs

__all__ = [
    "Encoded",
    "Failures",
    "Pool",
    "Pretrained",
    "Source",
    "check_output",
    "encode",
    "find_sources",
    "measure",
    "nothing_read",
    "pool",
    "pool_encoded",
    "read_codes",
    "require_codes",
    "spread_sources",
    "tokenize_inputs",
    "write_codes",
]
