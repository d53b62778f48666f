"""Files that lie elsewhere in the repository as pages: `<!-- page: shards/README.md -->` makes a page that file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Called by MkDocs with the text of every page."""
    if not (named := re.search(r"<!-- page: (\S+) -->", markdown)):
        return markdown
    file, here = ROOT / named[1], (ROOT / "docs" / page.file.src_uri).parent

    def from_here(link: re.Match[str]) -> str:
        target = (file.parent / link[1]).resolve()
        return f"]({os.path.relpath(target, here)}{link[2] or ''})" if target.is_relative_to(ROOT / "docs") else link[0]

    return re.sub(r"\]\(([^():#\s]+)(#[^()\s]*)?\)", from_here, file.read_text("utf-8"))
