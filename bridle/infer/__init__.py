"""A trained model at work: files of any length -> features, embeddings, codes."""

from bridle.infer.codes import CodesFile, each_codes, read_codes, write_codes
from bridle.infer.corpus import fit_cold_codes, measure
from bridle.infer.embed import Per, check_vectors_output, write_embeddings
from bridle.infer.encode import Encoded, Failures, encode, encode_listed, modality_of
from bridle.infer.listing import Listing, find_sources, spread_sources
from bridle.infer.parts import in_parts
from bridle.infer.parts_folder import check_free
from bridle.infer.pooling import Pool, pool
from bridle.infer.pretrained import Pretrained, pool_encoded
from bridle.infer.search import Hit, Index
from bridle.infer.sources import Member, Several, Source, training_view
from bridle.infer.tokenize import (
    How,
    check_output,
    default_workers,
    nothing_read,
    require_codes,
    tokenize_inputs,
    write_tokens,
)
from bridle.infer.vectors_file import read_vectors, write_vectors

__all__ = [
    "CodesFile",
    "Encoded",
    "Failures",
    "Hit",
    "How",
    "Index",
    "Listing",
    "Member",
    "Per",
    "Pool",
    "Pretrained",
    "Several",
    "Source",
    "check_free",
    "check_output",
    "check_vectors_output",
    "default_workers",
    "each_codes",
    "encode",
    "encode_listed",
    "find_sources",
    "fit_cold_codes",
    "in_parts",
    "measure",
    "modality_of",
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
    "write_embeddings",
    "write_tokens",
    "write_vectors",
]
