"""Run as text by a process of its own: an exported folder through the Auto classes of `transformers`.

argv: FOLDER WORK AutoModel... AutoProcessor... THREADS
WORK/inputs.safetensors, WORK/medium.* -> WORK/outputs.safetensors, and one line of JSON on stdout
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


class Blocker:
    """This library cannot be imported: what comes with the folder must do."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in ("bridle", "bridle_cli"):
            raise ImportError(f"{name} is not available here")


def main(folder: str, work: Path, auto_model: str, auto_processor: str, threads: str) -> None:
    sys.meta_path.insert(0, Blocker())
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(int(threads))
    transformers.logging.set_verbosity_error()
    model = getattr(transformers, auto_model).from_pretrained(folder, trust_remote_code=True).eval()
    processor = getattr(transformers, auto_processor).from_pretrained(folder, trust_remote_code=True)
    inputs = load_file(work / "inputs.safetensors")
    outputs: dict[str, Any] = {}
    batches = sorted({name.split(".")[0] for name in inputs if name.endswith(".patches")}, key=int)
    with torch.inference_mode():
        for at in batches:
            batch = {name: inputs[f"{at}.{name}"] for name in ("patches", "coords", "valid")}
            base = getattr(model, "bridle", model)
            found = base(**batch)
            named = {"features": found.last_hidden_state, "class_token": found.class_token, "mean": found.pooler_output}
            if base is not model:
                named["logits"] = model(**batch).logits
            if model.config.tokenizer:
                named["codes"] = model.tokenize(**batch)
            floats = {name: value.float() if value.is_floating_point() else value for name, value in named.items()}
            outputs |= {f"{at}.{name}": value.contiguous() for name, value in floats.items()}
    save_file(outputs, work / "outputs.safetensors")
    print(json.dumps({"patches": _difference(processor, inputs, work)}))  # noqa: T201 (what the parent reads)


def _difference(processor: Any, inputs: dict[str, Any], work: Path) -> float | None:
    """By how much the processor's patches differ from those that were made of the same files, or samples."""
    differences = []
    for at in range(sum(name.endswith(".made") for name in inputs)):
        name = f"medium.{at}"
        if name not in inputs and not (work / name).exists():
            continue
        given = inputs[name].numpy() if name in inputs else str(work / name)
        try:
            found = processor(given, windows="all", return_tensors="pt")
        except OSError:  # a JPEG that was cut short: torchvision fills it up, Pillow refuses it
            continue
        for row, valid_N in enumerate(inputs[f"{name}.made_valid"]):
            wanted = inputs[f"{name}.made"][row][valid_N]
            patches = found["patches"][row][found["valid"][row]]
            same = patches.shape == wanted.shape
            differences.append(float((patches - wanted).abs().max()) if same else float("inf"))
    return max(differences, default=None)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
