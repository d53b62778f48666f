"""Run as text by a process of its own: an exported folder through the Auto classes of `transformers`.

argv: FOLDER WORK AutoModel... AutoProcessor... THREADS
WORK/inputs.safetensors -> WORK/outputs.safetensors, and one line of JSON on stdout
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
            raise ImportError(f"{name} is not to be had here")


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
    print(json.dumps({"patches": _difference(processor, inputs, batches)}))  # noqa: T201 (what the parent reads)


def _difference(processor: Any, inputs: dict[str, Any], batches: list[str]) -> float | None:
    """By how much the processor's patches differ from the first batch's, made of the same views."""
    import numpy

    views = [inputs[f"view.{at}"].numpy() for at in range(sum(name.startswith("view.") for name in inputs))]
    if not views:
        return None
    first = 0
    worst = 0.0
    for at in batches:
        wanted = inputs[f"{at}.patches"].numpy()
        some = views[first : first + len(wanted)]
        first += len(wanted)
        # As they would be decoded: sound in [-1, 1], pixels with the channels last.
        media = [one / numpy.float32(32767) if one.ndim == 1 else numpy.moveaxis(one, -3, -1) for one in some]
        found = numpy.asarray(processor(media)["patches"])
        worst = max(worst, float(abs(found - wanted).max()) if found.shape == wanted.shape else numpy.inf)
    return worst


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
