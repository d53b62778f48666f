"""Tars of samples: writing them, and the index that says where each sample lies. The format: shards/README.md."""

from bridle.archive.index import damaged, index_name, load_index, rows_of, save_index
from bridle.archive.read import Place, TarReader
from bridle.archive.write import ROW, Shard, TarWriter, write_durably

__all__ = [
    "ROW",
    "Place",
    "Shard",
    "TarReader",
    "TarWriter",
    "damaged",
    "index_name",
    "load_index",
    "rows_of",
    "save_index",
    "write_durably",
]
