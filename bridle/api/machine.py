"""Check this machine."""

from __future__ import annotations

from typing import cast

from bridle.api.results import Finding


def doctor() -> list[Finding]:
    """Check versions, decoders (each in a separate process), devices, memory, disks and limits."""
    from bridle.doctor import examine

    return cast(list[Finding], examine())
