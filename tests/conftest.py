"""What several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def sample() -> Path:
    """The small real sample: `audio/`, `image/` and `video/`, each in class folders."""
    return Path(__file__).parent / "media"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The large data folder beside the checkout; the test is skipped where it is absent."""
    folder = Path(__file__).parents[2] / "shared/data"
    if not folder.is_dir():
        pytest.skip(f"needs the data folder {folder}")
    return folder
