"""Files of codes and vectors: one format per suffix."""

from bridle.formats.codes import CodesFile, each_codes, read_codes, write_codes
from bridle.formats.vectors import read_vectors, write_vectors

__all__ = ["CodesFile", "each_codes", "read_codes", "read_vectors", "write_codes", "write_vectors"]
