"""`bridle export`: a run becomes files that others can load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from bridle import api
from bridle.api.options import Export
from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.progress import Progress


@click.command(name="export", cls=options.Command)
@click.argument("run", type=options.PATH)
@options.takes(Export)
@options.shared
@click.pass_obj
def command(console: Console, chosen: Export, run: Path) -> None:
    """Export a model for other programs.

    safetensors loads with bridle.load. huggingface loads with the Auto classes of transformers and has a model card.
    onnx and torch-export run without BRIDLE, with preprocessing in NumPy. RUN may also be a fine-tuned classifier
    (bridle eval --protocol finetune --out).

    The export is compared with the model: `parity` has the largest difference of features and the fraction of equal
    codes. If they differ too much, nothing is written.

    \b
    Examples:
      bridle export runs/recordings-audio-tiny --format safetensors --out encoder/
      bridle export tuned/ --format huggingface --dtype bf16 --out classifier/
      bridle export runs/recordings-audio-tiny --format onnx --data recordings/ --out encoder-onnx/
      bridle export runs/photos-image-tiny --format onnx --part encoder --dtype int8 --out encoder-int8/
      bridle export runs/photos-image-tiny --format torch-export --out encoder-pt2/ --overwrite --json
    """
    with Progress(console) as progress:
        result = api.export(run, **vars(replace(chosen, on_event=progress)))
    console.result(result)
