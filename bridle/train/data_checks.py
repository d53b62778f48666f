"""What the clips of a run say against it before the first step: too few, copies, silent, blank.

Shapes: N patches, P values a patch, R valid patches.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from bridle.errors import MediaError
from bridle.schema import PatchBatch
from bridle.stream import SampleReader

_LOOK_AT = 128  # clips compared with each other
_MOST = 0.5  # share of them from which a fault is said aloud
_FLAT = 1e-6  # range of the values of a patch below which it is blank


def material_warnings(reader: SampleReader, batches: Sequence[PatchBatch], channels: int, codes: int) -> list[str]:
    """Each fault of the clips that no training can mend, with its cause and a remedy.

    Args:
        reader: the corpus.
        batches: patches of its first clips, without augmentation.
        channels: that the values of a patch begin with.
        codes: K, of one level.
    """
    found = []
    if len(reader) == 1:
        found.append("the corpus is a single clip; add more clips")
    seen, different = _copies(reader)
    patch_RP = torch.cat([batch.x_BNP[batch.valid_BN] for batch in batches])
    channel_RCX = patch_RP.unflatten(-1, (channels, -1))
    blank = float((channel_RCX.amax(-1) - channel_RCX.amin(-1) < _FLAT).all(-1).float().mean())
    if different <= _MOST * seen and seen > 1:
        found.append(f"of {seen} clips only {different} differ, the others are copies; leave the copies out")
    if blank >= _MOST:
        found.append(
            f"{blank:.0%} of the patches are constant (silence, blank images) and cannot be predicted; "
            "leave such clips out"
        )
    patches, batch = _different_rows(patch_RP, codes), int(batches[0].valid_BN.sum())
    if patches < codes:
        found.append(
            f"only {patches} different patches were found for the {codes} codes of a level: some will stay unused; "
            "add clips, or use fewer codes (--set quantizer.codes=...)"
        )
    elif batch < codes:
        found.append(
            f"a batch holds {batch} patches and a level {codes} codes: the tokenizer is initialised from one batch; "
            "use a larger one (--set optim.batch_size=...), or fewer codes (--set quantizer.codes=...)"
        )
    return found


def _copies(reader: SampleReader) -> tuple[int, int]:
    """How many clips were looked at, and how many of them are different files; only equal sizes need reading."""
    chosen = torch.randperm(len(reader), generator=torch.Generator().manual_seed(0))[:_LOOK_AT].tolist()
    sizes = [reader.index.media(n).bytes for n in chosen]
    shared = {size for size, count in Counter(sizes).items() if count > 1}
    alike, altered = [], 0
    for n, size in zip(chosen, sizes, strict=True):
        try:
            alike += [hashlib.blake2b(reader.content(n)).digest()] if size in shared else []
        except MediaError:  # the stream counts and names it
            altered += 1
    return len(chosen) - altered, len(chosen) - altered - len(alike) + len(set(alike))


def _different_rows(x_RP: Tensor, enough: int) -> int:
    """How many different patches there are; once there are `enough` the exact number does not matter."""
    different = 0
    for rows in (4 * enough, len(x_RP)):
        if different < enough:
            different = len(x_RP[:rows].unique(dim=0))
    return different
