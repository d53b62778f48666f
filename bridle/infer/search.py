"""Which files, or which moments of them, are like this one: exact nearest neighbours among the vectors of a file.

As the kNN probe does, vectors are z-scored by those of the index and compared by cosine: a direction that all of them
share says nothing about which are equal.

Shapes: R rows of the index, M queries, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bridle.errors import DataError, EnvironmentFault
from bridle.formats.vectors import VectorsFile
from bridle.infer.standardise import standardiser

_CHUNK = 65536  # rows
_AGAIN = "Write it again: bridle embed FILES --out vectors.npz"
_SPARE = 8  # rows asked for a hit: many rows of one file may be nearer than the first of the next


@dataclass(frozen=True, slots=True)
class Hit:
    """A place that is like the query.

    Attributes:
        similarity: cosine, at most 1.
        start_s: where in the file; 0 where a vector stands for a whole file.
    """

    file: str
    similarity: float
    start_s: float


class Index:
    """The vectors of a file, ready to be searched; they are held in memory, in float32.

    Raises:
        DataError: it has no vectors, or some that are not finite.
        EnvironmentFault: faiss is not installed.
    """

    def __init__(self, vectors: VectorsFile) -> None:
        try:
            import faiss
        except ModuleNotFoundError as error:
            raise EnvironmentFault(
                f"search needs a library that is not installed: {error.name}", "pip install 'bridle[search]'"
            ) from None
        self._faiss: Any = faiss
        if not len(vectors.vectors_RD):
            raise DataError("the index holds no vectors", _AGAIN)
        if not np.isfinite(vectors.vectors_RD).all():
            raise DataError("the index holds vectors that are not finite numbers", _AGAIN)
        self.vectors = vectors
        rows_RD = torch.from_numpy(vectors.vectors_RD.astype(np.float32))
        self._scale = standardiser(rows_RD) if len(rows_RD) > 1 else torch.Tensor.float
        for some_RD in rows_RD.split(_CHUNK):  # in place: there may be millions
            some_RD.copy_(F.normalize(self._scale(some_RD), dim=-1))
        self._rows_RD = rows_RD.numpy()

    def search(self, query_MD: Tensor, top: int) -> list[list[Hit]]:
        """For each query the files that are most like it, the nearest first, each at its best place."""
        if query_MD.shape[1:] != self._rows_RD.shape[1:]:
            raise DataError(f"vectors of {query_MD.shape[1]} numbers, and the index's have {self._rows_RD.shape[1]}")
        query_MD = F.normalize(self._scale(query_MD.float()), dim=-1)
        found = []
        for query_D in query_MD.numpy():
            wanted = top * _SPARE
            while len(hits := self._hits(query_D, wanted)) < top and wanted < len(self._rows_RD):
                wanted *= 4
            found.append(hits[:top])
        return found

    def _hits(self, query_D: np.ndarray, rows: int) -> list[Hit]:
        similarity, row = self._faiss.knn(
            query_D[None], self._rows_RD, min(rows, len(self._rows_RD)), metric=self._faiss.METRIC_INNER_PRODUCT
        )
        best: dict[int, Hit] = {}
        for near, place in zip(similarity[0].tolist(), row[0].tolist(), strict=True):
            file = int(self.vectors.file_R[place])
            best.setdefault(file, Hit(self.vectors.files[file], min(near, 1.0), float(self.vectors.times_R[place])))
        return list(best.values())
