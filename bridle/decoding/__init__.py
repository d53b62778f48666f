"""Processes that decode media: unknown files (`pool`, `server`), or ahead of a model (`ahead`)."""
