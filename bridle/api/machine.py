"""What of this machine would stand in the way."""

from __future__ import annotations

from typing import Any


def doctor() -> list[dict[str, Any]]:
    """Versions, decoders (each tried in a process of its own), devices, memory, disks and limits.

    Returns:
        `{check, status, found, remedy}` for each; `status` is `ok`, `note`, `warning` or `fault`.
    """
    from bridle.doctor import examine

    return examine()
