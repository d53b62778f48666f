"""A run as one HTML page: curves, codebooks, a map of clips, clips with their codes, results, facts.

run folder --facts, curves, results--> charts, tables
data through the model --clips--> maps, code maps, previews
all --page--> report.html, which needs no network and no other file
"""

from bridle.report.report import FILE, write_report

__all__ = ["FILE", "write_report"]
