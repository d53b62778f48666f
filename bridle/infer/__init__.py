"""A trained model at work: files of any length -> features, embeddings, codes."""

from bridle.infer.codes_file import check_output, read_codes, write_codes
from bridle.infer.corpus import fit_cold_codes, measure
from bridle.infer.embed import Embedded, Per, embed_inputs
from bridle.infer.encode import Encoded, Failures, decoded_as, encode
from bridle.infer.pooling import Pool, pool
from bridle.infer.pretrained import Pretrained, pool_encoded
from bridle.infer.search import Hit, Index
from bridle.infer.sources import Member, Several, Source, find_sources, spread_sources, training_view
from bridle.infer.tokenize import nothing_read, require_codes, tokenize_inputs
from bridle.infer.vectors_file import check_vectors_output, read_vectors, write_vectors

__all__ = [
    "Embedded",
    "Encoded",
    "Failures",
    "Hit",
    "Index",
    "Member",
    "Per",
    "Pool",
    "Pretrained",
    "Several",
    "Source",
    "check_output",
    "check_vectors_output",
    "decoded_as",
    "embed_inputs",
    "encode",
    "find_sources",
    "fit_cold_codes",
    "measure",
    "nothing_read",
    "pool",
    "pool_encoded",
    "read_codes",
    "read_vectors",
    "require_codes",
    "spread_sources",
    "tokenize_inputs",
    "training_view",
    "write_codes",
    "write_vectors",
]
