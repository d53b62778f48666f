"""Programs -> `.onnx` files, for runtimes without PyTorch; int8 by onnxruntime's dynamic quantization.

In int8 the encoder's matrices are stored as 7-bit integers in bytes, each output channel with its own scale; what is
multiplied with them is rounded to 8 bits at run time.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bridle.errors import EnvironmentFault, UsageError
from bridle.export.programs import INPUTS, STORED, Program
from bridle.schema import PatchBatch

OPSETS = range(18, 23)  # that PyTorch writes, onnxruntime runs and a test compares
OPSET = 20
SUFFIX = "onnx"
IMPORTS = ("import onnxruntime",)
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_ONE_FILE = 1_500_000_000  # bytes of weights: beyond 2 GB a protobuf cannot be read
_QUIET = 3  # errors only, of onnxruntime's levels


def code_of(part: str, outputs: Sequence[str]) -> str:
    """The line that runs it."""
    names = ", ".join(outputs) if len(outputs) > 1 else f"({outputs[0]},)"
    return f'{names} = onnxruntime.InferenceSession("{part}.onnx").run(None, inputs)'


def check_extras() -> None:
    """Check that the packages are installed; raises EnvironmentFault."""
    for name in _NEEDED:
        if find_spec(name) is None:
            raise EnvironmentFault(
                f"--format onnx needs a library that is not installed: {name}", "pip install 'bridle[onnx]'"
            )


def check_opset(opset: int | None) -> None:
    """Check that the opset is supported; raises UsageError."""
    if opset is not None and opset not in OPSETS:
        raise UsageError(f"--opset {opset} is not supported", f"Use {OPSETS[0]} to {OPSETS[-1]}.")


def write(program: Program, example: tuple[Tensor, ...], path: Path, *, opset: int | None, dtype: str) -> None:
    """Traces and saves one program.

    Args:
        dtype: one of `STORED` keeps matrices so, which the tracer may have made float32 again; "int8" quantizes.

    Raises:
        OSError: it cannot be written.
    """
    batch, patches = torch.export.Dim("batch", min=1), torch.export.Dim("patches", min=1)
    with _quietly():
        traced = torch.onnx.export(
            program,
            example,
            dynamo=True,
            dynamic_shapes=tuple({0: batch, 1: patches} for _ in INPUTS),
            input_names=list(INPUTS),
            output_names=list(program.outputs),
            opset_version=opset or OPSET,
            verbose=False,
        )
        assert traced is not None
        _forget_where(traced.model)
        if dtype in STORED:
            _shrink(traced.model, dtype)
        full = path.with_suffix(".full") if dtype == "int8" else path
        traced.save(full, external_data=_bytes_of(program) > _ONE_FILE)
        if dtype == "int8":
            _quantize(full, path)


def opened(path: Path) -> Any:
    """A function `PatchBatch -> outputs` that runs the file with onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), _QUIET
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(batch: PatchBatch) -> list[Tensor]:
        values = (batch.x_BNP, batch.coords_BN3, batch.valid_BN)
        return [torch.from_numpy(out) for out in session.run(None, dict(zip(INPUTS, (v.numpy() for v in values))))]

    return run


def _quantize(full: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # CPUs without VNNI sum pairs of products in 16 bits, and saturate: 2 x 255 x 127 does not fit, 2 x 255 x 64 does.
    quantize_dynamic(
        full,
        path,
        op_types_to_quantize=["MatMul"],
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
    )
    for left in full.parent.glob(f"{full.name}*"):
        left.unlink()


def _shrink(model: Any, dtype: str) -> None:
    """Every float32 matrix becomes a smaller one behind a cast, which runtimes compute once, at loading."""
    import onnx_ir as ir

    kind = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}[dtype]
    for name, value in list(model.graph.initializers.items()):
        if value.dtype != ir.DataType.FLOAT or len(value.shape) < 2:
            continue
        kept = ir.Value(name=f"{name}.small", const_value=ir.tensor(value.const_value.numpy().astype(kind.numpy())))
        cast = ir.node("Cast", [kept], {"to": ir.DataType.FLOAT})
        cast.outputs[0].name = f"{name}.full"
        value.replace_all_uses_with(cast.outputs[0])
        model.graph.initializers.pop(name)
        model.graph.initializers.add(kept)
        model.graph.insert_before(model.graph[0], cast)


def _forget_where(model: Any) -> None:
    """Without the paths of this machine, which the tracer notes beside every operation."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()


def _bytes_of(program: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in program.state_dict().values())


@contextmanager
def _quietly() -> Iterator[None]:
    """The exporter tells its users about its own insides."""
    loggers = [logging.getLogger(name) for name in ("", "onnxscript", "onnx_ir", "torch.onnx")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
