"""A folder of raw media -> WebDataset tars and a manifest.

discover, labels, split (what is there) -> journal (all of it, in the order of the shards) -> build (workers decode each
file in a process that may die, tars are filled) -> publish (the set appears whole, its manifest last).
"""

from bridle.archive import Shard
from bridle.sharding.corpus import merge_extent, merge_statistics
from bridle.sharding.manifest import Manifest, find_all_sets, find_sets, read_manifest
from bridle.sharding.notices import energy_above, energy_by_hz, notices, notices_together
from bridle.sharding.shard import Options, shard
from bridle.sharding.split import Split
from bridle.sharding.verify import describe, verify

__all__ = [
    "Manifest",
    "Options",
    "Shard",
    "Split",
    "describe",
    "energy_above",
    "energy_by_hz",
    "find_all_sets",
    "find_sets",
    "merge_extent",
    "merge_statistics",
    "notices",
    "notices_together",
    "read_manifest",
    "shard",
    "verify",
]
