"""Files, folders and shards -> Codes, one a file, any length.

Shapes: T, H, W grid of a file, Q levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing

import torch

from bridle.cluster import Cluster, Engine
from bridle.errors import DataError, UsageError
from bridle.infer.encode import BATCH_SIZE, Encoded, Failures, encode
from bridle.infer.ray_encode import tokenize_on
from bridle.infer.sources import find_sources
from bridle.model import Bridle
from bridle.schema import Codes, Modality
from bridle.storage import Location

_INT16_MOST = 1 << 15


def tokenize_inputs(
    model: Bridle,
    inputs: Sequence[Location],
    *,
    batch_size: int = BATCH_SIZE,
    workers: int = 0,
    engine: Engine = "local",
    device: str = "auto",
    on_event: Callable[..., None] | None = None,
) -> Iterator[Codes]:
    """Codes of everything that `inputs` name, in order.

    Args:
        inputs: media files, folders, sets of shards.
        batch_size: windows the model sees at once.
        workers: threads that decode ahead; with Ray, actors with the model (see `tokenize_on`).
        engine: "local", or "ray" for a Ray cluster, whose nodes see media files under the same path; the codes are the
            same.
        device: with Ray, what the actors compute on; otherwise the model is there already.
        on_event: told `progress` (done, total, what) after every file, `warning` (message) for every file that is
            skipped.

    Raises:
        UsageError: the model is untrained and has no codes.
        DataError: inputs of another modality, or nothing that could be read.
        EnvironmentFault: with Ray, see `Cluster` and `tokenize_on`.
    """
    require_codes(model)
    failures = Failures(on_event)
    sources, total = find_sources(inputs, Modality(model.modality))
    done = 0
    with ExitStack() as stack:
        if engine == "ray":
            cluster = stack.enter_context(Cluster())
            on_cluster = tokenize_on(
                cluster, model, sources, failures=failures, batch_size=batch_size, workers=workers, device=device
            )
            found: Iterator[Encoded] = stack.enter_context(closing(on_cluster))  # ends before the connection
        else:
            found = encode(
                model,
                sources,
                lambda batch: (model.tokenize(batch),),
                failures=failures,
                batch_size=batch_size,
                workers=workers,
            )
        for encoded in found:
            done += 1
            if on_event:
                on_event("progress", done=done + len(failures.reasons), total=total, what="files")
            yield as_codes(encoded, model)
    if not done:
        raise nothing_read(failures)


def as_codes(encoded: Encoded, model: Bridle) -> Codes:
    """Codes on their grid, int16 where the codebook allows."""
    dtype = torch.int16 if model.config.quantizer.codes <= _INT16_MOST else torch.int32
    codes_NQ = encoded.outputs[0].to(dtype)
    return Codes(encoded.source.path, codes_NQ.view(*encoded.grid, -1), encoded.times_T)


def require_codes(model: Bridle) -> None:
    """Raises UsageError for a model whose codebooks were never fitted."""
    if not model.ready:
        raise UsageError(f"{model.source} has no codes: its codebooks were never fitted", "train one: bridle pretrain")


def nothing_read(failures: Failures) -> DataError:
    """The error for when every single file failed."""
    reasons = [f"{path}: {reason}" for path, reason in failures.reasons.items()]
    return DataError("nothing could be read" + "".join(f"\n  {line}" for line in reasons[:5]))
