"""A checkpoint at work on files: codes, vectors, an export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bridle.api.session import OnEvent, open_model, silent
from bridle.errors import UsageError
from bridle.storage import locate

if TYPE_CHECKING:
    from bridle.cluster import Engine
    from bridle.infer import Pretrained
    from bridle.schema import Codes


def load(
    checkpoint: str | Path | None = None,
    *,
    device: str = "auto",
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    batch_size: int = 32,
    workers: int = 0,
) -> Pretrained:
    """A model that takes paths, arrays and lists of them: `load("runs/voices").embed("clip.wav")`.

    Args:
        checkpoint: a run, checkpoint or export; `None`: the newest run below `runs/`.
        device: "auto", "cpu" or "cuda".
        dtype: what features are computed in; they are float32 when they come out, and codes always are computed in it.
        batch_size: windows that the model sees at once.
        workers: threads that decode ahead.

    Raises:
        UsageError: an unknown dtype, or a batch of nothing.
        DataError: no run, or none that can be read.
        EnvironmentFault: no such device.
    """
    import torch

    from bridle.infer import Pretrained

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if dtype not in dtypes:
        raise UsageError(f"dtype {dtype} is not known", f"choose from {', '.join(dtypes)}")
    if batch_size < 1 or workers < 0:
        raise UsageError(f"batch_size {batch_size}, workers {workers}: at least 1 and 0 are needed")
    return Pretrained(open_model(checkpoint, device), dtypes[dtype], batch_size, workers)


def tokenize(
    inputs: Sequence[str | Path],
    *,
    checkpoint: str | Path | None = None,
    workers: int = 0,
    engine: Engine = "local",
    device: str = "auto",
    on_event: OnEvent | None = None,
) -> Iterator[dict[str, Any]]:
    """Codes of files, folders and sets of shards, one object a file: `{file, levels, grid, codes, times}`.

    `codes` is nested: levels, then time, rows and columns as in `grid`; `times` are the starts of the time steps in
    seconds.

    Args:
        workers: threads that decode ahead; with `engine="ray"` (a Ray cluster), processes with the model.
    """
    for codes in _codes(inputs, checkpoint, workers, engine, device, on_event)[0]:
        yield {
            "file": codes.file,
            "levels": codes.levels,
            "grid": list(codes.grid),
            "codes": codes.codes_THWQ.movedim(-1, 0).tolist(),
            "times": codes.times_T,
        }


def write_codes(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    checkpoint: str | Path | None = None,
    workers: int = 0,
    engine: Engine = "local",
    device: str = "auto",
    overwrite: bool = False,
    on_event: OnEvent | None = None,
) -> dict[str, Any]:
    """As `tokenize`, into one `.npz` or `.safetensors` file; its layout is in `bridle.infer.codes_file`."""
    from bridle import infer

    infer.check_output(Path(out), overwrite=overwrite)  # before anything is loaded
    codes, source = _codes(inputs, checkpoint, workers, engine, device, on_event)
    return infer.write_codes(Path(out), codes, source=source, overwrite=overwrite)


def export(
    run: str | Path,
    *,
    format: str = "safetensors",
    out: str | Path,
    part: str = "both",
    dtype: str = "fp32",
    opset: int | None = None,
    data: str | Path | None = None,
    overwrite: bool = False,
    on_event: OnEvent | None = None,
) -> dict[str, Any]:
    """Write a run for others to load, and check that what was written computes the same.

    Args:
        format: "safetensors" loads with `load`, "huggingface" with the Auto classes of transformers; "onnx" and
            "torch-export" need nothing of BRIDLE either.
        part: "encoder", "tokenizer" or "both".
        dtype: of the encoder's weights, "fp32", "fp16", "bf16" or "int8"; the tokenizer's stay as they are.
        opset: of ONNX; the default is 20.
        data: clips to check on; None: some of the run's own shards if they are there, else noise.
        on_event: told as `note` what the figures are of.

    Returns:
        `{format, out, files, parity}`; see `bridle.export`.
    """
    from bridle.export import export as write

    report = on_event or silent
    return write(
        Path(run),
        format=format,
        out=Path(out),
        part=part,
        dtype=dtype,
        opset=opset,
        data=None if data is None else locate(data),
        overwrite=overwrite,
        tell=lambda message: report("note", message=message),
    )


def _codes(
    inputs: Sequence[str | Path],
    checkpoint: str | Path | None,
    workers: int,
    engine: Engine,
    device: str,
    on_event: OnEvent | None,
) -> tuple[Iterator[Codes], str]:
    """Codes as they come, and the checkpoint that they are of."""
    from bridle.infer import tokenize_inputs

    model = open_model(checkpoint, device if engine == "local" else "cpu")
    places = [locate(item) for item in inputs]
    codes = tokenize_inputs(model, places, workers=workers, engine=engine, device=device, on_event=on_event)
    return codes, str(model.source)
