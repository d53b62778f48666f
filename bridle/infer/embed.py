"""Files, folders and shards -> vectors: one a file, one a time step, or one a patch.

Shapes: R vectors of a file, N patches of a file, T its time steps, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bridle.infer.encode import BATCH_SIZE, Encoded, Failures, encode
from bridle.infer.listing import find_sources
from bridle.infer.pooling import Pool
from bridle.infer.pretrained import pool_encoded
from bridle.infer.tokenize import nothing_read
from bridle.model import Bridle
from bridle.schema import Modality
from bridle.storage import Location

Per = Literal["file", "step", "patch"]


@dataclass(slots=True)
class Embedded:
    """The vectors of one whole file.

    Attributes:
        file: original path or key.
        vectors_RD: float32.
        times_R: where each begins in seconds.
        coords_R3: (time, row, column) of each in the file's grid; of one vector a file all zero.
    """

    file: str
    vectors_RD: Tensor
    times_R: list[float]
    coords_R3: Tensor


def as_vectors(encoded: Encoded, model: Bridle, per: Per = "file", how: Pool = "mean") -> Embedded:
    """What `model.features_and_class` said of a file, as vectors.

    Args:
        per: "file": one vector, pooled as `how` says; "step": the mean over rows and columns at each time; "patch":
            all of them.
    """
    features_ND, coords_N3, file = encoded.outputs[0].float(), encoded.coords_N3, encoded.source.path
    if per == "file":
        return Embedded(file, pool_encoded(encoded, how, model)[None], [0.0], coords_N3.new_zeros(1, 3))
    if per == "patch":
        return Embedded(file, features_ND, [encoded.times_T[step] for step in coords_N3[:, 0].tolist()], coords_N3)
    steps = encoded.grid[0]
    sums_TD = features_ND.new_zeros(steps, features_ND.shape[1]).index_add_(0, coords_N3[:, 0], features_ND)
    counts_T = torch.bincount(coords_N3[:, 0], minlength=steps)
    coords_T3 = torch.stack([torch.arange(steps), torch.zeros(steps), torch.zeros(steps)], 1).long()
    return Embedded(file, sums_TD / counts_T[:, None], encoded.times_T, coords_T3)


def embed_inputs(
    model: Bridle,
    inputs: Sequence[Location],
    *,
    per: Per = "file",
    how: Pool = "mean",
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
    skipped: list[str] | None = None,
    on_event: Callable[..., None] | None = None,
) -> Iterator[Embedded]:
    """Vectors of everything that `inputs` name, in order; the arguments are those of `tokenize_inputs`.

    Raises:
        DataError: inputs of another modality, or nothing that could be read.
    """
    failures, done = Failures(on_event), 0
    sources, total = find_sources(inputs, Modality(model.modality))
    for encoded in encode(
        model, sources, model.features_and_class, failures=failures, batch_size=batch_size, workers=workers
    ):
        done += 1
        if on_event:
            on_event("progress", done=done + len(failures.reasons), total=total, what="files")
        yield as_vectors(encoded, model, per, how)
    if not done:
        raise nothing_read(failures)
