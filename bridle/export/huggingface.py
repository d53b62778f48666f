"""A run -> a folder that `transformers` loads, with code that comes along and needs none of this library.

    OUT/config.json, model.safetensors        sizes; encoder, tokenizer and head
    OUT/preprocessor_config.json              (video_preprocessor_config.json) how media become patches
    OUT/*_bridle.py, preprocess.py            the code
    OUT/classes.json                          where a classifier was fine-tuned
    OUT/preprocessing.json, config.yaml       as in every export
    OUT/README.md                             a model card

A child process loads it through the Auto classes and computes on real clips, with this library out of its reach; only
then the folder takes its place.

Shapes: B clips, N patches.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bridle.checkpoint.files import write_tensors
from bridle.children import python
from bridle.errors import EnvironmentFault, NumericalError
from bridle.export.card import model_card
from bridle.export.describe import add_classes, add_json, add_preprocessing, describe, preprocessing
from bridle.export.folder import check_output, names_of, new_folder
from bridle.export.parity import Material, Tolerance, check, differs, material
from bridle.export.programs import PARTS, STORED
from bridle.export.standalone import __path__ as standalone
from bridle.export.subject import Subject, open_subject
from bridle.model import Bridle
from bridle.nn import Standardise
from bridle.schema import PatchBatch
from bridle.storage import Location

# Of each kind: the module of its processor, the class in it, the Auto class, the file of its settings.
PROCESSORS = {
    "audio": (
        "feature_extraction_bridle",
        "BridleFeatureExtractor",
        "AutoFeatureExtractor",
        "preprocessor_config.json",
    ),
    "image": ("image_processing_bridle", "BridleImageProcessor", "AutoImageProcessor", "preprocessor_config.json"),
    "video": (
        "video_processing_bridle",
        "BridleVideoProcessor",
        "AutoVideoProcessor",
        "video_preprocessor_config.json",
    ),
}
_CODE = ("configuration_bridle", "modeling_bridle")
_STORED_AS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
# The model computes in the dtype that it is stored in.
TOLERANCES = {"fp32": Tolerance(1e-4), "fp16": Tolerance(None, 0.999), "bf16": Tolerance(None, 0.99)}
_PATCHES = 1e-3  # what preprocessing may differ by: of audio, in the last digits of float32 spectra
_TIMEOUT_S = 1800
_CHILD = Path(__file__).with_name("huggingface_child.py")


def check_extras() -> None:
    """Check that the package is installed; raises EnvironmentFault."""
    if find_spec("transformers") is None:
        raise EnvironmentFault(
            "--format huggingface needs a library that is not installed: transformers",
            "pip install 'bridle[huggingface]'",
        )


def export_huggingface(
    run: Path,
    out: Path,
    *,
    part: str,
    dtype: str,
    data: Location | None,
    overwrite: bool,
) -> dict[str, Any]:
    """Writes the newest checkpoint of `run` to the folder `out` and checks what it computes.

    Args:
        part: "both", or "encoder": without codes.
        dtype: that encoder and head are stored in, and compute in where they are loaded without another; the tokenizer
            stays float32.
        data: clips to check on; None: of the shards of the run, if they are there, else noise.

    Returns:
        `{format, out, files, parity}`, see `parity.check`; `parity` has `patches`, too: by how much the processor's
        differ (None where no clip could be compared).

    Raises:
        UsageError: `out` exists, or the tokenizer is asked for and was never fitted.
        DataError: `run` holds no complete checkpoint, or `data` no clip that can be read.
        NumericalError: the exported model does not compute what the model does.
        EnvironmentFault: a library is missing; the disk is full or cannot be written.
    """
    check_output(out, overwrite=overwrite)  # before anything is loaded
    check_extras()
    subject = open_subject(run)
    parts = subject.parts(part)
    compared = material(subject, data)
    with new_folder(out, overwrite=overwrite) as folder:
        _write(subject, folder, parts, dtype, out.name)
        programs, patches = _loaded_elsewhere(folder, subject, compared, parts)
        parity = check(subject, programs, compared, TOLERANCES[dtype])
        if patches is not None and not patches <= _PATCHES:
            what = f"patches by up to {patches:.2g}, at most {_PATCHES:.2g} is allowed"
            raise differs(f"the exported preprocessing differs on {compared.origin}: {what}", full=True)
    return {"format": "huggingface", "out": str(out), "files": names_of(out), "parity": {**parity, "patches": patches}}


def _write(subject: Subject, folder: Path, parts: tuple[str, ...], dtype: str, name: str) -> None:
    model, head = subject.model, subject.head
    module, kind, auto, settings = PROCESSORS[model.modality]
    write_tensors(weights(subject, parts, STORED.get(dtype, torch.float32)), folder / "model.safetensors")
    add_json(sizes(subject, parts, dtype), folder / "config.json")
    made = {"auto_map": {auto: f"{module}.{kind}"}, "settings": preprocessing(model)}
    add_json(made, folder / settings)
    for one in (*_CODE, module):
        shutil.copyfile(Path(standalone[0]) / f"{one}.py", folder / f"{one}.py")
    add_preprocessing(model.modality, folder)
    if head:
        add_classes(head, folder)
    describe(model, folder, model_card(subject, name, parts, auto))


def sizes(subject: Subject, parts: tuple[str, ...], dtype: str) -> dict[str, Any]:
    """`config.json`."""
    model, head = subject.model, subject.head
    encoder, quantizer, tokenizer = model.config.encoder, model.config.quantizer, model.config.tokenizer
    names = head.classes if head else []
    classifier: dict[str, Any] = {}
    if head:
        kind = "multi_label_classification" if head.multi_label else "single_label_classification"
        classifier = {"id2label": dict(enumerate(names)), "label2id": {name: at for at, name in enumerate(names)}}
        classifier |= {"problem_type": kind, "head_pool": head.classifier.pool}
    return {
        "model_type": "bridle",
        "architectures": ["BridleForClassification" if head else "BridleModel"],
        "auto_map": {
            "AutoConfig": "configuration_bridle.BridleConfig",
            "AutoModel": "modeling_bridle.BridleModel",
            f"AutoModelFor{model.modality.capitalize()}Classification": "modeling_bridle.BridleForClassification",
        },
        "dtype": _STORED_AS[dtype],
        "values": model.patcher.values,
        "grid": list(model.patcher.grid),
        "axes": list(model.patcher.axes),
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "mlp_ratio": encoder.mlp_ratio,
        "tokenizer": None if "tokenizer" not in parts else "learned" if bool(model.learned) else "cold",
        "tokenizer_layers": tokenizer.depth or encoder.depth,
        "standardise": tokenizer.standardise,
        "codebooks": quantizer.levels,
        "codes": quantizer.codes,
        "code_width": quantizer.width,
        "num_frames": model.patcher.patch[0] * model.patcher.grid[0] if len(model.patcher.axes) == 3 else 1,
        **classifier,
    }


def weights(subject: Subject, parts: tuple[str, ...], dtype: torch.dtype) -> dict[str, Tensor]:
    """By the names that `modeling_bridle.py` gives them."""
    model, head = subject.model, subject.head
    encoder = (model.average or model.encoder).state_dict()
    found = {f"encoder.{name}": value.to(dtype) for name, value in encoder.items()}
    if "tokenizer" in parts:
        found |= {f"tokenizer.{name}": value for name, value in _tokenizer(model).items()}
    if head:
        layer = head.classifier.state_dict()
        found = {f"bridle.{name}": value for name, value in found.items()}
        found |= {name: value.to(dtype) for name, value in layer.items() if not name.startswith("encoder.")}
    return found


def _tokenizer(model: Bridle) -> dict[str, Tensor]:
    """The one in force; always float32."""
    if not bool(model.learned):
        cold = model.cold_tokenizer
        found = {"mean_P": cold.projection.mean_P, "map_PC": cold.projection.map_PC}
        return {**found, "codebook_QKC": cold.quantizer.codebook_QKC.detach()}
    tokenizer = model.tokenizer
    found = {f"encoder.{name}": value for name, value in tokenizer.encoder.state_dict().items()}
    found |= {f"project.{name}": value for name, value in tokenizer.project.state_dict().items()}
    found["codebook_QKC"] = tokenizer.quantizer.codebook_QKC.detach()
    if isinstance(tokenizer.centre, Standardise):
        found |= {"mean_C": tokenizer.centre.running_mean, "scale_C": tokenizer.centre.scale_C}
    return found


def _loaded_elsewhere(
    folder: Path, subject: Subject, compared: Material, parts: tuple[str, ...]
) -> tuple[dict[str, Callable[[PatchBatch], list[Tensor]]], float | None]:
    """What the exported model makes of the same batches in a process of its own, and by how much its processor differs.

    Raises:
        NumericalError: it does not load there.
    """
    inputs: dict[str, Tensor] = {}
    for at, batch in enumerate(compared.batches):
        inputs |= {f"{at}.patches": batch.x_BNP, f"{at}.coords": batch.coords_BN3.contiguous()}
        inputs |= {f"{at}.valid": batch.valid_BN}
    work = folder / "check"
    work.mkdir()
    try:
        for at, medium in enumerate(compared.media):
            made = subject.model.patcher(medium.views)
            inputs |= {f"medium.{at}.made": made.x_BNP, f"medium.{at}.made_valid": made.valid_BN}
            if isinstance(medium.given, bytes):
                (work / f"medium.{at}").write_bytes(medium.given)
            elif medium.given is not None:
                inputs[f"medium.{at}"] = medium.given
        save_file(inputs, work / "inputs.safetensors")
        answer = _run_child(folder, work, subject.model.modality, bool(subject.head))
        found = load_file(work / "outputs.safetensors")
    except (SafetensorError, OSError) as error:
        raise EnvironmentFault(f"{work} cannot be used: {error}", "Free some space, or name another --out.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    names = ["features", "class_token", "mean", *(["logits"] if subject.head else [])]
    outputs = {"encoder": names, "tokenizer": ["codes"]}
    place = {id(batch): at for at, batch in enumerate(compared.batches)}

    def program(part: str) -> Callable[[PatchBatch], list[Tensor]]:
        return lambda batch: [found[f"{place[id(batch)]}.{name}"] for name in outputs[part]]

    return {part: program(part) for part in PARTS if part in parts}, answer["patches"]


def _run_child(folder: Path, work: Path, modality: str, head: bool) -> dict[str, Any]:
    """What it printed. It has what this process has but this library, no network, and its own place for code."""
    _, _, auto, _ = PROCESSORS[modality]
    model = f"AutoModelFor{modality.capitalize()}Classification" if head else "AutoModel"
    own = {"HF_HOME": str(work.absolute() / "home"), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    own |= {"HF_MODULES_CACHE": str(work.absolute() / "modules"), "PYTHONDONTWRITEBYTECODE": "1"}
    own |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
    arguments = [str(folder.absolute()), str(work.absolute()), model, auto, str(torch.get_num_threads())]
    try:
        done = subprocess.run(
            python(_CHILD.read_text(encoding="utf-8"), *arguments),
            env={**os.environ, **own},
            cwd=work,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return answer
    except subprocess.TimeoutExpired as error:
        raise NumericalError(f"the exported model was not loaded in {_TIMEOUT_S} s", "Nothing was written.") from error
    except (ValueError, IndexError) as error:
        why = (done.stderr.strip() or f"the process ended with {done.returncode}").splitlines()[-1]
        raise NumericalError(
            f"the exported model does not load through transformers: {why}", "Nothing was written."
        ) from error
