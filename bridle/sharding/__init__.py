"""A folder of raw media -> WebDataset tars and a manifest.

discover (what is there) -> workers (decode each file in a process that may die) -> write (tars, in a fixed order)
-> manifest (what was written, measured and refused).
"""

from bridle.sharding.corpus import merge_extent, merge_statistics
from bridle.sharding.manifest import Manifest, Shard, find_sets, read_manifest, verify
from bridle.sharding.shard import shard

__all__ = ["Manifest", "Shard", "find_sets", "merge_extent", "merge_statistics", "read_manifest", "shard", "verify"]
