"""A trained model at work: files of any length -> features, embeddings, codes."""

from bridle.infer.corpus import fit_cold_codes, measure
from bridle.infer.embed import Per, check_vectors_output, write_embeddings
from bridle.infer.encode import Encoded, Failures, encode, encode_listed, modality_of
from bridle.infer.parts import in_parts
from bridle.infer.parts_folder import check_free
from bridle.infer.pooling import Pool, pool
from bridle.infer.pretrained import Pretrained, pool_encoded
from bridle.infer.search import Hit, Index
from bridle.infer.tokenize import (
    How,
    check_output,
    default_workers,
    nothing_read,
    require_codes,
    tokenize_inputs,
    write_tokens,
)

__all__ = [
    "Encoded",
    "Failures",
    "Hit",
    "How",
    "Index",
    "Per",
    "Pool",
    "Pretrained",
    "check_free",
    "check_output",
    "check_vectors_output",
    "default_workers",
    "encode",
    "encode_listed",
    "fit_cold_codes",
    "in_parts",
    "measure",
    "modality_of",
    "nothing_read",
    "pool",
    "pool_encoded",
    "require_codes",
    "tokenize_inputs",
    "write_embeddings",
    "write_tokens",
]
