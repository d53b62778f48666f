"""Published benchmarks: what each wants, and its official release as people have it on disk -> labelled items.

definitions/NAME.yaml -> Task (what a user wants to know, and a reader) -> read_task -> Listing. A reader turns the
lists of a release into entries; what is to be checked for all of them is checked in `listing.py`. Nothing is decoded.
"""

from bridle.tasks.listing import Item, Listing, read_task
from bridle.tasks.task import Task, load_task, task_names

__all__ = ["Item", "Listing", "Task", "load_task", "read_task", "task_names"]
