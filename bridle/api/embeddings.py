"""Embed files and search embeddings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from bridle.api.models import open_model
from bridle.api.options import Embed, Search, takes
from bridle.api.results import Found, VectorsWritten
from bridle.api.session import pick_device
from bridle.errors import DataError, MediaError, UsageError
from bridle.storage import locate


@takes(Embed)
def embed(inputs: Sequence[str | Path], out: str | Path, chosen: Embed) -> VectorsWritten:
    """Write the embeddings of files, folders and sets of shards to one file; layout: `bridle.formats.vectors`.

    The work is done in chunks that are kept beside `out`; processes started by `torchrun` share them, and all but
    the first return `{}`.

    Args:
        out: `.npz`, `.safetensors` or `.parquet`.
    """
    from bridle import distributed, infer

    if chosen.per != "file" and chosen.pool != "mean":
        raise UsageError(
            f"--pool {chosen.pool} makes one vector per file.", f"Leave out --per {chosen.per}, or --pool."
        )
    places, target = [locate(item) for item in inputs], locate(out)
    rules: dict[str, Any] = {"resume": chosen.resume, "overwrite": chosen.overwrite}
    with distributed.group(picked := pick_device(chosen.device)):
        # Before anything is loaded.
        distributed.first_decides(lambda: infer.check_vectors_output(target, **rules))
        model, how = open_model(chosen.checkpoint, picked), infer.How(workers=chosen.workers)
        what: dict[str, Any] = {"per": chosen.per, "pool": chosen.pool, "half": chosen.half}
        return cast(VectorsWritten, infer.write_embeddings(model, places, target, how, **what, **rules) or {})


@takes(Search)
def search(queries: Sequence[str | Path], index: str | Path, chosen: Search) -> list[Found]:
    """Find the files of an index (made by `embed`) that are most similar to each query.

    Args:
        checkpoint: the model that made the index; None: the path stored in the index.

    Returns:
        For each query its hits, the nearest first.

    Raises:
        DataError: the index is damaged or of another model, or a query cannot be read.
        UsageError: the index's model was moved or removed.
        EnvironmentFault: faiss is not installed.
    """
    from bridle import infer
    from bridle.formats import read_vectors

    vectors = read_vectors(Path(index))
    ready = infer.Index(vectors)
    model = infer.Pretrained(open_model(_model_of(vectors.about, Path(index), chosen.checkpoint), chosen.device))
    if model.model.fingerprint() != vectors.about.get("model"):
        raise DataError(
            f"{index} was not made by {model.model.source}",
            f"Use --checkpoint with the model that made it (it was {vectors.about.get('checkpoint')}), or embed again.",
        )
    how = vectors.about["pool"]
    try:
        query_MD = model.embed([Path(query) for query in queries], how)
    except MediaError as error:
        hint = f"A query is {model.modality} in a file that can be decoded, such as {vectors.files[0]}."
        raise MediaError(error.message, hint) from error
    found = [
        {"query": str(query), "hits": [{**asdict(hit), "path": _path_of(hit.file, vectors.about)} for hit in hits]}
        for query, hits in zip(queries, ready.search(query_MD, chosen.top), strict=True)
    ]
    return cast(list[Found], found)


def _model_of(about: dict[str, Any], index: Path, checkpoint: str | Path | None) -> str | Path:
    """The checkpoint to load: the one that is named, else the one of the index."""
    if checkpoint is not None:
        return checkpoint
    made_by = Path(about.get("folder", ""), about["checkpoint"])
    if not made_by.exists():
        raise UsageError(
            f"{index} was made by {made_by}, which does not exist", "Name its model with --checkpoint RUN."
        )
    return made_by


def _path_of(file: str, about: dict[str, Any]) -> str | None:
    """Where a file of the index lies: below the one folder that it was found in, or as it was called from the folder
    that `embed` was called in. Another file of that name in the current folder is not meant. Only media files
    are returned: an index from elsewhere might name others to have them opened."""
    from bridle.media import detect

    places = [Path(one) / file for one in about["inputs"][:1]] if len(about["inputs"]) == 1 else []
    places += [Path(about["folder"]) / file] if about.get("folder") else []
    return next((str(place) for place in places if place.is_file() and detect(os.path.realpath(place))), None)
