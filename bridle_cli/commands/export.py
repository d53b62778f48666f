"""`bridle export`: a run becomes files that others can load."""

from __future__ import annotations

from pathlib import Path

import click

from bridle import api
from bridle_cli import options
from bridle_cli.console import Console
from bridle_cli.progress import Progress


@click.command(name="export")
@click.argument("run", type=options.PATH)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["safetensors", "huggingface", "onnx", "torch-export"]),
    required=True,
    help="What to write: for BRIDLE, for transformers, for onnxruntime, for PyTorch alone.",
)
@click.option(
    "--part",
    type=click.Choice(["encoder", "tokenizer", "both"]),
    default="both",
    show_default=True,
    help="Features, codes or both; not available for safetensors.",
)
@click.option(
    "--dtype",
    type=click.Choice(["fp32", "fp16", "bf16", "int8"]),
    default="fp32",
    show_default=True,
    help="Of the encoder's weights; the tokenizer stays fp32. int8: onnx only.",
)
@click.option("--opset", type=int, default=None, help="Of ONNX, 18 to 22; default: 20.")
@click.option(
    "--data",
    type=options.LOCATION,
    default=None,
    help="Media or shards to check the result on; default: the run's own shards, else noise.",
)
@options.out("Folder for the files.", required=True)
@options.overwrite
@options.shared
@click.pass_obj
def command(
    console: Console,
    run: Path,
    format_: str,
    part: str,
    dtype: str,
    opset: int | None,
    data: Path | None,
    out: Path,
    overwrite: bool,
) -> None:
    """Write the model of RUN to a folder for others to load, and check that it computes the same.

    safetensors loads with bridle.load. huggingface loads with the Auto classes of transformers, and has a model card
    with data, recipe and results of the run. onnx and torch-export run without BRIDLE: encoder and tokenizer as
    programs, preprocess.py with NumPy alone, a README with the lines to run them. What `bridle eval --protocol
    finetune --out` kept comes with its classifier. `parity` says how far features are off (on real clips; safetensors:
    on noise) and which share of the codes is equal: all, or nothing is written.

    \b
    Examples:
      bridle export runs/recordings-audio-tiny --format safetensors --out encoder/
      bridle export tuned/ --format huggingface --dtype bf16 --out classifier/
      bridle export runs/recordings-audio-tiny --format onnx --data recordings/ --out encoder-onnx/
      bridle export runs/photos-image-tiny --format onnx --part encoder --dtype int8 --out encoder-int8/
      bridle export runs/photos-image-tiny --format torch-export --out encoder-pt2/ --overwrite --json
    """
    with Progress(console) as progress:
        result = api.export(
            run,
            format=format_,
            out=out,
            part=part,
            dtype=dtype,
            opset=opset,
            data=data,
            overwrite=overwrite,
            on_event=progress,
        )
    console.result(result)
