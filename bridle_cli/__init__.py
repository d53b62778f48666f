"""The command line of BRIDLE: click and rich over `bridle.api`; no torch at import."""
