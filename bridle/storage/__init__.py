"""Where files lie: on this machine, or in object storage that fsspec reaches (`s3://...`).

locate("s3://bucket/set") -> Location: a Path, or a Remote that answers to the same few names
Cache: parts of remote files on the local disk, never more than a limit
"""

from bridle.storage.cache import Cache, blocks_of, cache_folder
from bridle.storage.foreign import is_plain, lock_file, read_small, read_text, recorded, refuse_links
from bridle.storage.location import Location, check_bucket, folders_with, hashed, locate, names_in, opened, sizes_in
from bridle.storage.remote import Entry, Remote
from bridle.storage.spool import copies

__all__ = [
    "Cache",
    "Entry",
    "Location",
    "Remote",
    "blocks_of",
    "cache_folder",
    "check_bucket",
    "copies",
    "folders_with",
    "hashed",
    "is_plain",
    "locate",
    "lock_file",
    "names_in",
    "opened",
    "read_small",
    "read_text",
    "recorded",
    "refuse_links",
    "sizes_in",
]
