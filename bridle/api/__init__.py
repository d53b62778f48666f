"""Python interface: one function per command, with the same results.

    api.shard("recordings", modality="audio")
    run = api.pretrain("shards/recordings", recipe=api.Recipe(preset="audio-tiny"))
    codes = list(api.tokenize(["clip.wav"], checkpoint=run["run"]))

What they return is typed in `bridle.api.results`. Raw media and shards may be in object storage: `s3://bucket/folder`,
as text. Importing this package is cheap; each function imports what it needs.
"""

from bridle.api.codes import read_codes, tokenize, write_codes
from bridle.api.configuration import config_diff, config_validate, init
from bridle.api.data import shard, shard_info, shard_verify
from bridle.api.embeddings import embed, search
from bridle.api.evaluation import compare, evaluate, tasks
from bridle.api.machine import doctor
from bridle.api.models import export, load
from bridle.api.reports import report
from bridle.api.session import pick_device
from bridle.api.training import launch, pretrain, resume, runs
from bridle.config.recipe import Recipe

__all__ = [
    "Recipe",
    "compare",
    "config_diff",
    "config_validate",
    "doctor",
    "embed",
    "evaluate",
    "export",
    "init",
    "launch",
    "load",
    "pick_device",
    "pretrain",
    "read_codes",
    "report",
    "resume",
    "runs",
    "search",
    "shard",
    "shard_info",
    "shard_verify",
    "tasks",
    "tokenize",
    "write_codes",
]
