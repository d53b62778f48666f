"""The one way out: files and folders that appear whole or not at all, one lock, one wording of what hinders."""

from bridle.outputs.atomic import put_in_place, settle, sync, write_text, written
from bridle.outputs.claim import alone, disk_errors, exists, same_settings

__all__ = [
    "alone",
    "disk_errors",
    "exists",
    "put_in_place",
    "same_settings",
    "settle",
    "sync",
    "write_text",
    "written",
]
