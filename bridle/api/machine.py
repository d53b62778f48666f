"""What of this machine would stand in the way."""

from __future__ import annotations

from typing import cast

from bridle.api.results import Finding


def doctor() -> list[Finding]:
    """Versions, decoders (each tried in a process of its own), devices, memory, disks and limits."""
    from bridle.doctor import examine

    return cast(list[Finding], examine())
