"""Tars of samples: writing them, and the index that says where each sample lies. The format: shards/README.md."""

from bridle.archive.corpus import merge_extent, merge_statistics
from bridle.archive.description import parse_description
from bridle.archive.headers import open_tar, read_npy
from bridle.archive.index import (
    check_sizes,
    damaged,
    describe_sample,
    index_name,
    load_index,
    make_index,
    rows_of,
    save_index,
    tar_of,
)
from bridle.archive.manifest import Manifest, read_manifest
from bridle.archive.read import Place, TarReader
from bridle.archive.write import ROW, Shard, TarWriter

__all__ = [
    "ROW",
    "Manifest",
    "Place",
    "Shard",
    "TarReader",
    "TarWriter",
    "check_sizes",
    "damaged",
    "describe_sample",
    "index_name",
    "load_index",
    "make_index",
    "merge_extent",
    "merge_statistics",
    "open_tar",
    "parse_description",
    "read_manifest",
    "read_npy",
    "rows_of",
    "save_index",
    "tar_of",
]
