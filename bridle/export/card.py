"""The model card of an export for `transformers`: what a run knows of its data, its recipe and its results."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from bridle.archive import Manifest
from bridle.checkpoint import read_results
from bridle.errors import BridleError
from bridle.export.describe import MEDIA, METHOD, PIPELINES, about_media, class_names, titled
from bridle.export.subject import Subject
from bridle.inputs import find_sets

_COLUMNS = ("task", "data", "protocol", "metric", "value", "95 % interval", "chance", "clips tested")
_NO_RESULTS = "This model was not evaluated; `bridle eval` does that."
_BESIDE = "From the pretraining run (other checkpoints, the untrained network, fine-tuned models):"
_SHARES = ("accuracy", "map")  # metrics that are shown in percent
_CARD = """---
library_name: transformers
{pipeline}tags:
- bridle
- self-supervised-learning
- {modality}
# license: yours to choose, as the data allow; uncomment this line
---

# {name}

{what}

## Use

In this folder, with `transformers`, PyTorch and NumPy; BRIDLE itself is not needed:

```python
{code}
```

{outputs}

{about}

`trust_remote_code=True` runs the Python files of this folder: read them first. Weights are safetensors.

## Trained on

{data}

## Recipe

{recipe}
{again}
## Results

{results}

## Publishing it

Choose a licence in the first lines of this file, then `hf auth login` and `hf upload YOUR_NAME/{upload} . .` in this
folder; whoever loads it says `from_pretrained("YOUR_NAME/{upload}", trust_remote_code=True)`.

{method}
"""
_CODE = """{imports}
from transformers import {auto}, {auto_model}

processor = {auto}.from_pretrained(".", trust_remote_code=True)
model = {auto_model}.from_pretrained(".", trust_remote_code=True).eval()
{line}inputs = processor({media}, return_tensors="pt")
with torch.inference_mode():
    found = {base}(**inputs)
{more}features, class_token, mean = found.last_hidden_state, found.class_token, found.pooler_output"""
_OUTPUTS = """`features` are those of each patch (clips, patches, width), zero at padding; `mean`, over the valid
patches, and `class_token` are (clips, width).{codes}
`inputs` are `patches` (clips, patches, values), `coords` (clips, patches, 3: time, row, column) and `valid` (clips,
patches).{windows}"""
_CODES = """
`codes` are int64 (clips, patches, levels), -1 at padding; the first levels alone are a coarser code. They are computed
in float32 whatever the model is."""
_WINDOWS = """
A clip longer than {seconds:.4g} s is cut there; `processor(media, windows="all")` gives a row for each of the windows
that cover it."""
_LOGITS = """
`logits` are the scores of {names}{several}. With several windows, average the probabilities."""


def model_card(subject: Subject, name: str, parts: Sequence[str], auto: str) -> str:
    """`README.md`.

    Args:
        parts: what is exported.
        auto: the Auto class of the processor.
    """
    model, head = subject.model, subject.head
    encoder = model.config.encoder
    what = f"An encoder for {model.modality}, pretrained without labels with BRIDLE: a Vision Transformer of width "
    what += f"{encoder.width} and depth {encoder.depth}."
    if "tokenizer" in parts:
        kind = "learned" if bool(model.learned) else "random projection's"
        what += f" Its {kind} tokenizer has {model.config.quantizer.levels} codebooks of {model.config.quantizer.codes}"
        what += " codes."
    if head:
        what += f" Fine-tuned to tell {len(head.classes)} classes: {class_names(head)}."
    pipeline = f"{model.modality}-classification" if head else PIPELINES.get(model.modality)
    return _CARD.format(
        pipeline=f"pipeline_tag: {pipeline}\n" if pipeline else "",
        modality=model.modality,
        name=titled(name),
        upload=re.sub(r"[^\w.-]+", "-", name).strip("-.") or "NAME",
        again=_again(subject),
        what=what,
        code=_usage(subject, parts, auto),
        outputs=_outputs(subject, parts),
        about=about_media(model),
        data=_table(("", ""), _data(subject)) or "The training data are unknown.",
        recipe=_table(("", ""), _recipe(subject)),
        results=_results(subject),
        method=METHOD,
    )


def _usage(subject: Subject, parts: Sequence[str], auto: str) -> str:
    """Code that runs beside the files; a test does."""
    modality = subject.model.modality
    media = MEDIA[modality]
    opened = media.processed.startswith("media")  # and not by the processor itself
    more = "    codes = model.tokenize(**inputs)\n" if "tokenizer" in parts else ""
    if subject.head:
        more += "    logits = model(**inputs).logits\n"
        more += "said = [model.config.id2label[at] for at in logits.argmax(-1).tolist()]\n"
    return _CODE.format(
        imports="\n".join([*([media.imports] if opened else []), "import torch"]),
        auto=auto,
        auto_model=f"AutoModelFor{modality.capitalize()}Classification" if subject.head else "AutoModel",
        base="model.bridle" if subject.head else "model",
        line=f"{media.line}\n" if opened else "",
        media=media.processed,
        more=more,
    )


def _outputs(subject: Subject, parts: Sequence[str]) -> str:
    model, head = subject.model, subject.head
    seconds = model.patcher.step_s * model.patcher.grid[0]
    text = _OUTPUTS.format(
        codes=_CODES if "tokenizer" in parts else "", windows=_WINDOWS.format(seconds=seconds) if seconds else ""
    )
    if head:
        several = "; a clip may have several of them, or none: take the sigmoid" if head.multi_label else ""
        text += _LOGITS.format(names=class_names(head), several=several)
    return text


def _data(subject: Subject) -> Iterator[tuple[str, str]]:
    """What the manifests say of the shards of the run; where they are gone, their names."""
    sets = list[Manifest]()
    with suppress(BridleError, OSError):
        sets = [one for place in subject.shards() for one in find_sets(place)]
    if not sets:
        yield from ((PurePosixPath(place).name, "") for place in subject.state().get("shards", []))
    for one in sets:
        facts = [f"{one.samples:,} clips"]
        if len(length_s := one.extent.get("duration_s", [])) == 3:
            facts.append(f"{length_s[1]:.3g} s long (median; {length_s[0]:.3g} to {length_s[2]:.3g} s are nine of ten)")
        if "fbank_mean" in one.statistics and one.decoded_bytes:
            facts.append(f"{one.decoded_bytes / 2 / 16000 / 3600:.3g} hours")
        if len(side := one.extent.get("short_side", [])) == 3:
            facts.append(f"{side[1]:.0f} pixels at the shorter side (median)")
        facts += [f"{len(one.labels)} labels, not used in pretraining"] if one.labels else []
        facts += [f"split {one.options['split']}"] if one.options.get("split") else []
        yield one.name, f"{subject.model.modality}: {', '.join(facts)}"
    tuned = subject.about.get("finetuned")
    if isinstance(tuned, dict):
        yield "fine-tuned on", f"{PurePosixPath(str(tuned.get('data'))).name}, task {tuned.get('task')}"


def _recipe(subject: Subject) -> Iterator[tuple[str, str]]:
    model, state = subject.model, subject.state()
    config, done = model.config, state.get("result") or {}
    encoder, quantizer, mask, optim, plan = (
        config.encoder,
        config.quantizer,
        config.mask,
        config.optim,
        config.schedule,
    )
    if state.get("preset"):
        yield "preset", str(state["preset"])
    if unfinished := subject.unfinished():
        yield "status", unfinished
    if done:
        yield "length", f"{done.get('steps')} steps, {done.get('clips')} clips seen, {done.get('seconds')} s"
    if (step := subject.step) and step != done.get("steps"):
        yield ("of it, this model", f"the first {step} steps") if done else ("length", f"{step} steps")
    size = sum(one.numel() for one in (model.average or model.encoder).parameters()) / 1e6
    yield "encoder", f"width {encoder.width}, depth {encoder.depth}, heads {encoder.heads}; {size:.2f} M parameters"
    grid, patch = (" x ".join(map(str, one)) for one in (model.patcher.grid, model.patcher.patch))
    yield "patches", f"{grid} (time, rows, columns) of {patch} values"
    yield "quantizer", f"{quantizer.levels} levels, {quantizer.codes} codes, width {quantizer.width}"
    yield "mask", f"{mask.shape}, {100 * mask.ratio:.3g} % masked, {mask.per_clip} per clip"
    rates = f"rate {optim.lr:g}, of the tokenizer {optim.tokenizer_lr:g}"
    yield "optimiser", f"AdamW, batch {optim.batch_size}, {rates}, weight decay {optim.weight_decay:g}"
    turns = f"{plan.turns} x (tokenizer {plan.tokenizer:g}, encoder {plan.encoder:g})"
    yield "schedule", f"{plan.mode}, in epochs: cold start {plan.cold:g}, then {turns}"
    yield "seed", str(config.train.seed)
    tuned = subject.about.get("finetuned")
    if isinstance(tuned, dict) and isinstance(tuned.get("recipe"), dict):
        yield "fine-tuning", ", ".join(f"{key} {value}" for key, value in tuned["recipe"].items() if value is not None)


def _again(subject: Subject) -> str:
    """The command, where the options are known that say how long: they are no part of the configuration."""
    limits = subject.state().get("limits")
    if limits is None:
        return ""
    options = "".join(f" --{name.replace('_', '-')} {value}" for name, value in limits.items() if value is not None)
    does = "pretrains the encoder again" if subject.head else "trains the same again"
    return f"\n`bridle pretrain --config config.yaml --shards ...{options}` {does}.\n"


def _results(subject: Subject) -> str:
    """What `bridle eval` found of this model, and below of the run that pretrained it."""
    folder = Path(str(subject.model.source))
    own, of_run = _kept_in(folder), _kept_in(subject.run)
    if not own:  # a checkpoint of the run; what was fine-tuned from it is another model
        own = [one for one in of_run if _is_of(one, folder) and one.get("protocol") != "finetune"]
    others = [row for one in of_run if one not in own and (row := _row(one))]
    results = _table(_COLUMNS, list(dict.fromkeys(row[:-1] for one in own if (row := _row(one))))) or _NO_RESULTS
    if not others:
        return results
    table = _table((*_COLUMNS, "of"), list(dict.fromkeys(others)))
    return f"{results}\n\n{_BESIDE}\n\n{table}"


def _kept_in(folder: Path | None) -> list[dict[str, Any]]:
    with suppress(BridleError, OSError):
        return read_results(folder) if folder else []
    return []


def _is_of(one: dict[str, Any], folder: Path) -> bool:
    return PurePosixPath(str(one.get("checkpoint", ""))).name == folder.name


def _row(one: dict[str, Any]) -> tuple[str, ...] | None:
    value, ends, chance = one.get("value"), one.get("ci95"), one.get("chance")
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    share = one.get("metric") in _SHARES

    def show(x: Any) -> str:
        return "" if not isinstance(x, int | float) else f"{100 * x:.1f} %" if share else f"{x:.4g}"

    low, high = ends if isinstance(ends, list) and len(ends) == 2 else (None, None)
    checkpoint = str(one.get("checkpoint", ""))
    return (
        str(one.get("task", "")),
        PurePosixPath(str(one.get("data", ""))).name,
        _judged_by(one),
        str(one.get("metric", "")),
        show(value),
        f"{show(low)} to {show(high)}" if low is not None else "",
        show(chance),
        str(one.get("n_test", "")),
        "untrained" if checkpoint == "random" else PurePosixPath(checkpoint).name,
    )


def _judged_by(one: dict[str, Any]) -> str:
    """The protocol, and what else tells one row from the next."""
    protocol, pool, recipe = str(one.get("protocol", "")), one.get("pool"), one.get("recipe")
    terms = [protocol, *([str(pool)] if pool and pool != protocol else [])]
    if isinstance(recipe, dict):
        terms += [
            f"{key} {recipe[key]:g}" for key in ("epochs", "lr", "mixup", "cutmix", "mask_time") if recipe.get(key)
        ]
    if one.get("views"):
        terms.append(f"views {one['views']}")
    if (folds := one.get("folds") or 1) > 1:
        terms.append(f"{folds} folds" + (f" by `{one['group_by']}`" if one.get("group_by") else ""))
    return ", ".join(terms)


def _table(columns: Sequence[str], rows: Any) -> str:
    """Markdown; "" without rows."""
    lines = [" | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    if not lines:
        return ""
    return "\n".join(f"| {line} |" for line in (" | ".join(columns), " | ".join(["---"] * len(columns)), *lines))
