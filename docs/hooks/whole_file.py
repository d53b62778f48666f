"""Files that lie elsewhere in the repository as pages: `<!-- page: shards/README.md -->` makes a page that file."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by MkDocs with the text of every page."""
    named = re.search(r"<!-- page: (\S+) -->", markdown)
    return (ROOT / named[1]).read_text("utf-8") if named else markdown
