"""Check this machine."""

from __future__ import annotations

from typing import Any


def doctor() -> list[dict[str, Any]]:
    """Check versions, decoders (each in a separate process), devices, memory, disks and limits.

    Returns:
        `{check, status, found, remedy}` for each; `status` is `ok`, `note`, `warning` or `fault`.
    """
    from bridle.doctor import examine

    return examine()
