"""Programs -> `.pt2` files: `torch.export` graphs that load wherever PyTorch is, without this library."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bridle.export.programs import INPUTS
from bridle.schema import PatchBatch

SUFFIX = "pt2"
IMPORTS = ("import torch",)


def code_of(part: str, outputs: Sequence[str]) -> str:
    """The line that runs it."""
    return f'{", ".join(outputs)} = torch.export.load("{part}.pt2").module()(*map(torch.from_numpy, inputs.values()))'


def write(program: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    """Traces and saves one program.

    Raises:
        OSError: it cannot be written.
    """
    batch, patches = torch.export.Dim("batch", min=1), torch.export.Dim("patches", min=1)
    shapes = tuple({0: batch, 1: patches} for _ in INPUTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.export.export(program, example, dynamic_shapes=shapes)
        for module in traced.graph_module.modules():  # without the paths of this machine
            for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
                node.meta.pop("stack_trace", None)
        content = io.BytesIO()  # a full disk is an OSError only where we write ourselves
        torch.export.save(traced, content)
    path.write_bytes(content.getbuffer())


def opened(path: Path) -> Any:
    """A function `PatchBatch -> outputs` that runs the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(path).module()

    def run(batch: PatchBatch) -> tuple[Tensor, ...]:
        outputs = program(batch.x_BNP, batch.coords_BN3, batch.valid_BN)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    return run
