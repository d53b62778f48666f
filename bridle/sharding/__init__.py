"""A folder of raw media -> WebDataset tars and a manifest.

discover, labels, split (what is there) -> journal (all of it, in the order of the shards) -> build (workers decode each
file in a process that may die, tars are filled) -> publish (the set appears whole, its manifest last).
"""

from bridle.sharding.notices import energy_above, energy_by_hz, notices, notices_together
from bridle.sharding.options import Options
from bridle.sharding.shard import shard
from bridle.sharding.split import Split
from bridle.sharding.verify import describe, verify

__all__ = [
    "Options",
    "Split",
    "describe",
    "energy_above",
    "energy_by_hz",
    "notices",
    "notices_together",
    "shard",
    "verify",
]
