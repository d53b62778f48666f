"""The one way out: files and folders that appear whole or not at all, one lock, one wording of what hinders."""

from bridle.outputs.atomic import put_back, put_in_place, settle, sync, write_text, written
from bridle.outputs.claim import (
    LOCK,
    alone,
    disk_errors,
    exists,
    interrupted,
    remote_staging,
    same_settings,
    staging,
)

__all__ = [
    "LOCK",
    "alone",
    "disk_errors",
    "exists",
    "interrupted",
    "put_back",
    "put_in_place",
    "remote_staging",
    "same_settings",
    "settle",
    "staging",
    "sync",
    "write_text",
    "written",
]
