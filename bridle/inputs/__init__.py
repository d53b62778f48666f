"""What a path names: files, folders, sets of shards -> a listing of files, each read when it is needed."""

from bridle.inputs.listing import Listing, find_sources, spread_sources
from bridle.inputs.sets import find_all_sets, find_sets
from bridle.inputs.sources import Member, Several, Source, training_view

__all__ = [
    "Listing",
    "Member",
    "Several",
    "Source",
    "find_all_sets",
    "find_sets",
    "find_sources",
    "spread_sources",
    "training_view",
]
