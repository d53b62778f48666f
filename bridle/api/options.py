"""The options of each command: keywords of the function in the interface, and options on the command line.

A field has its name, its type, its default and its help; `bridle_cli.options.takes` makes an option of it and `takes`
below a keyword. Cheap to import.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeVar, overload

from bridle import progress
from bridle.config import MOST_SEED
from bridle.config.recipe import Recipe

if TYPE_CHECKING:
    from bridle.cluster import Engine
    from bridle.config import Config

Place = str | Path
MODALITIES = ("audio", "image", "video")
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_P = ParamSpec("_P")
_A = TypeVar("_A")
_B = TypeVar("_B")
_Kind = TypeVar("_Kind")
_Result = TypeVar("_Result")
_Kind_contra = TypeVar("_Kind_contra", contravariant=True)
_Result_co = TypeVar("_Result_co", covariant=True)


def option(
    default: Any,
    help: str,
    heading: str = "",
    *,
    flag: str = "",
    choices: Sequence[str] = (),
    typed: str | None = None,
    parse: Callable[[str], Any] | None = None,
    **click: Any,
) -> Any:
    """A field that is an option.

    Args:
        default: MISSING: it must be given.
        heading: under which it stands in --help; "": among the first.
        flag: its name on the command line; default: --NAME.
        choices: what it may be.
        typed: what stands for the default on the command line.
        parse: of what is typed; raises ValueError.
        click: `low`, `high`, `above`, `below` (bounds of a number), `place` ("path" or "location"), `metavar`,
            `complete` (what a shell offers), `required`, `hidden`.
    """
    metadata = {"help": help, "heading": heading, "flag": flag, "choices": choices, "typed": typed, "parse": parse}
    return field(default=default, metadata={**metadata, **click})


class _Begins(Protocol[_Kind_contra, _Result_co]):
    """A function whose first parameter may be left out."""

    def __call__(self, first: Any = ..., /, *, chosen: _Kind_contra) -> _Result_co: ...


class _Taken(Protocol[_P, _Result_co]):
    def __call__(self, first: Place | None = ..., /, *args: _P.args, **options: _P.kwargs) -> _Result_co: ...


class takes(Generic[_P, _Kind]):
    """A function whose last parameter is an object of a class below takes the fields of that class as keywords.

    Among them is `on_event`, who listens meanwhile. Type checkers see the keywords, `help` shows them.
    """

    def __init__(self, kind: Callable[_P, _Kind]) -> None:
        self._kind: Any = kind

    @overload
    def __call__(self, function: Callable[[_A, _B, _Kind], _Result]) -> Callable[Concatenate[_A, _B, _P], _Result]: ...

    @overload
    def __call__(self, function: Callable[[_A, _Kind], _Result]) -> Callable[Concatenate[_A, _P], _Result]: ...

    @overload
    def __call__(self, function: _Begins[_Kind, _Result]) -> _Taken[_P, _Result]: ...

    def __call__(self, function: Any) -> Any:
        *own, last = inspect.signature(function).parameters.values()

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            named = {one.name: options.pop(one.name) for one in own if one.name in options}
            chosen = self._kind(**options)
            with progress.listening(chosen.on_event):
                return function(*arguments, **named, **{last.name: chosen})

        only = inspect.Parameter.KEYWORD_ONLY
        keywords = [
            inspect.Parameter(
                one.name, only, default=last.empty if one.default is MISSING else one.default, annotation=one.type
            )
            for one in fields(self._kind)
        ]
        call.__signature__ = inspect.Signature([*own, *keywords])  # type: ignore[attr-defined]
        described = "".join(f"\n    {one.name}: {one.metadata['help']}" for one in fields(self._kind) if one.metadata)
        call.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nOptions:{described}\n"
        return call


def _size(typed: str) -> int:
    """`256MB`, `1GiB` or plain bytes -> bytes."""
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]+)?)\s*([KMG]i?B|)", typed.strip(), re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size <= 0:
        raise ValueError(f"'{typed}' is not a size; expected e.g. 256MB or 1GiB.")
    return size


def _shares(typed: str) -> dict[str, float]:
    """`train=0.9,val=0.1` -> shares."""
    parts = [part.partition("=") for part in typed.split(",")]
    try:
        shares = {name.strip(): float(share) for name, _, share in parts}
    except ValueError:
        raise ValueError(f"'{typed}' is not a split; expected e.g. train=0.9,val=0.1.") from None
    if len(shares) < len(parts):
        raise ValueError(f"'{typed}' names a split twice.")
    return shares


def _channel(typed: str) -> int | None:
    """`mean` -> None, or the number of a channel."""
    if typed != "mean" and not (typed.isdecimal() and int(typed) > 0):
        raise ValueError(f"'{typed}' is neither 'mean' nor a channel number (1 is the first).")
    return None if typed == "mean" else int(typed)


def _range(typed: str) -> tuple[float, float]:
    """`-1000,3000` -> the two numbers."""
    try:
        low, high = map(float, typed.split(","))
    except ValueError:
        low = high = 0.0
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"'{typed}' is not a range; expected e.g. 0,4095.")
    return low, high


def _views(typed: str) -> tuple[int, int]:
    """`5x3` -> (5, 3)."""
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", typed)
    if not match:
        raise ValueError(f"'{typed}' is invalid; expected CLIPSxCROPS, e.g. 5x3.")
    return int(match[1]), int(match[2])


def _modality() -> Any:
    return option(None, "Media type (default: detected).", choices=MODALITIES)


def _overwrite() -> Any:
    return option(False, "Replace an output that exists.")


def _resume(help: str = "Continue after an interruption.") -> Any:
    return option(False, help)


def _dry_run() -> Any:
    return option(False, "Show what would run, then exit.")


def _device() -> Any:
    return option("auto", "auto: GPU if available.", choices=("auto", "cpu", "cuda"))


def _workers(help: str = "Decoding processes (default: one per core).", default: int | None = None) -> Any:
    return option(default, help, "Execution", low=0)


def _engine() -> Any:
    return option(
        "local",
        "local: processes on this machine. ray: a Ray cluster (RAY_ADDRESS, a running one, or a new local one).",
        "Execution",
        choices=("local", "ray"),
    )


def _seed() -> Any:
    return option(0, "Seed of every random choice.", "Execution", low=0, high=MOST_SEED)


def _max_missing(heading: str) -> Any:
    return option(0.5, "Largest fraction of listed files that may be missing.", heading, low=0.0, high=1.0)


def _trained() -> Any:
    return option(
        None,
        "A run, checkpoint or export (default: the newest run).",
        metavar="RUN|FILE",
        complete="folders",
    )


@dataclass(frozen=True, kw_only=True)
class Heard:
    """`on_event(kind, **fields)` receives progress events, see `bridle.progress`."""

    on_event: progress.Listener | None = None


@dataclass(frozen=True, kw_only=True)
class Shard(Heard):
    """Of `shard`."""

    modality: str | None = _modality()
    out: Place | None = option(None, "Folder of the shards (default: shards/NAME).", place="location")
    labels: Place | None = option(
        "folder",
        "Labels: the folder of each file, a JSON beside it, or a table (CSV, TSV, JSONL).",
        metavar="folder|sidecar|FILE|none",
        parse=lambda typed: None if typed == "none" else typed,
    )
    split: Mapping[str, float] | None = option(
        None, "Split into separate sets, e.g. train=0.9,val=0.1.", metavar="NAME=FRACTION,...", parse=_shares
    )
    resume: bool = _resume("Continue after an interruption, or add new files.")
    overwrite: bool = _overwrite()
    dry_run: bool = _dry_run()
    path_column: str | None = option(None, "Table column with the file names.", "Labels and splits", metavar="NAME")
    label_column: str | None = option(None, "Table column with the labels.", "Labels and splits", metavar="NAME")
    group_column: str | None = option(
        None, "Table column with the group of each file, e.g. patient.", "Labels and splits", metavar="NAME"
    )
    group_by: str | None = option(
        None,
        "Keep files with the same match in one split.",
        "Labels and splits",
        metavar="REGEX|column:NAME",
    )
    task: str | None = option(
        None,
        "RAW is the release of this published benchmark (bridle eval --list).",
        "Labels and splits",
        metavar="NAME",
        complete="tasks",
    )
    max_missing: float = _max_missing("Labels and splits")
    check: Literal["full", "header"] = option(
        "full",
        "Decode every file to its end, or trust its header (much faster; bad clips are found in training).",
        "Media",
        choices=("full", "header"),
    )
    dedup: bool = option(False, "Leave out files with the same bytes as another.", "Media")
    sound_tracks: bool = option(False, "Use the audio tracks of video files.", "Media")
    channel: int | None = option(
        None, "Channel of multi-channel audio.", "Media", metavar="mean|N", typed="mean", parse=_channel
    )
    pixel_range: tuple[float, float] | None = option(
        None,
        "Values of black and white in images of more than 8 bits (default: measured).",
        "Media",
        metavar="LOW,HIGH",
        parse=_range,
    )
    transcode: bool = option(
        False, "Transcode to small FLAC, JPEG or H.264 instead of storing the original bytes.", "Tars"
    )
    max_size_bytes: int = option(
        256 * 10**6, "Maximum shard size.", "Tars", flag="--max-size", metavar="SIZE", typed="256MB", parse=_size
    )
    name: str | None = option(None, "Name of the set (default: the folder's name).", "Tars")
    workers: int | None = _workers()
    engine: Engine = _engine()
    seed: int = _seed()


@dataclass(frozen=True, kw_only=True)
class Verify(Heard):
    """Of `shard_verify`."""

    decode: int = option(100, "Samples to decode.", low=0)
    workers: int | None = _workers()


@dataclass(frozen=True, kw_only=True)
class Init(Heard):
    """Of `init`."""

    out: Place = option("bridle.yaml", "The file to write.", place="path")
    modality: str | None = _modality()
    preset: str | None = option(None, "A recipe, such as audio-tiny.", metavar="NAME", complete="presets")
    minutes: float | None = option(
        None, "Length of the run in minutes: some steps are timed and the schedule is scaled to fit.", above=0.0
    )
    device: str = _device()
    overwrite: bool = _overwrite()


@dataclass(frozen=True, kw_only=True)
class Pretrain(Heard):
    """Of `pretrain`.

    `recipe` says where the configuration comes from, or is one; `restarted`: another process began with the same call
    and was lost, and its run is continued if it left one.
    """

    recipe: Recipe | Config | None = None
    out: Place | None = option(None, "Folder of the run (default: runs/SET-PRESET).", place="path")
    steps: int | None = option(None, "Length of the run in steps.", low=1)
    epochs: float | None = option(None, "Length of the run in epochs.", above=0.0)
    max_minutes: float | None = option(None, "Train for N minutes; the schedule is scaled to fit.", above=0.0)
    device: str = _device()
    overwrite: bool = _overwrite()
    dry_run: bool = _dry_run()
    profile: bool = option(False, "Profile the run; traces of some steps are written to RUN/profile/.", "Execution")
    restarted: bool = option(False, "Restarted after a failure.", hidden=True)


@dataclass(frozen=True, kw_only=True)
class Tokenize(Heard):
    """Of `tokenize`."""

    checkpoint: Place | None = _trained()
    levels: int | None = option(None, "Keep only the first N levels.", low=1)
    device: str = _device()
    workers: int | None = _workers("Decoding processes (default: automatic).")
    engine: Engine = _engine()


@dataclass(frozen=True, kw_only=True)
class WriteCodes(Tokenize):
    """Of `write_codes`."""

    resume: bool = _resume()
    overwrite: bool = _overwrite()


@dataclass(frozen=True, kw_only=True)
class Embed(Heard):
    """Of `embed`."""

    checkpoint: Place | None = _trained()
    per: Literal["file", "step", "patch"] = option(
        "file", "One vector for each file, time step or patch.", choices=("file", "step", "patch")
    )
    pool: Literal["mean", "segments", "class"] = option(
        "mean",
        "Pooling per file: mean of all patches, means of segments, or the class token.",
        choices=("mean", "segments", "class"),
    )
    half: bool = option(
        False,
        "Data type of the stored vectors.",
        flag="--dtype",
        choices=("fp32", "fp16"),
        typed="fp32",
        parse=lambda typed: typed == "fp16",
    )
    device: str = _device()
    resume: bool = _resume()
    overwrite: bool = _overwrite()
    workers: int | None = _workers("Decoding processes (default: automatic).")


@dataclass(frozen=True, kw_only=True)
class Evaluate(Heard):
    """Of `evaluate`.

    `recipe` is that of an untrained model (`checkpoint="random"`); its `sets` may hold `finetune.key=value`.
    """

    task: str = option(
        "folder", "A published benchmark (--list), or folder: your own data.", metavar="NAME", complete="tasks"
    )
    protocol: str = option(
        "knn",
        "knn, linear, attentive: probes of the frozen encoder; finetune: train it too; head: a fine-tuned classifier; "
        "codes: probe the tokens; codebook: usage statistics.",
        choices=("knn", "linear", "attentive", "finetune", "head", "codes", "codebook"),
    )
    checkpoint: Place | None = option(
        None,
        "A run, checkpoint or export (default: the newest run). random: an untrained encoder, with --preset.",
        metavar="RUN|FILE|random",
        complete="checkpoints",
    )
    out: Place | None = option(
        None, "Folder for a copy of the result, and for the fine-tuned classifier.", place="path"
    )
    overwrite: bool = _overwrite()
    device: str = _device()
    labels: Place | None = option(
        None,
        "Labels of a folder of media: the folder of each file, a JSON beside it, or a table.  [default: folder]",
        "Data and splits",
        metavar="folder|sidecar|TABLE",
    )
    folds: int | None = option(
        None,
        "Number of cross-validation folds.  [default: 5 if there is no train/test split]",
        "Data and splits",
        low=2,
    )
    test_share: float | None = option(
        None, "Single split with this test fraction instead of folds.", "Data and splits", above=0.0, below=1.0
    )
    split_file: Place | None = option(
        None, "CSV with path,part: train and test (or val).", "Data and splits", place="path"
    )
    group_by: str | None = option(
        None,
        "Keep files with the same first group together, e.g. '_([a-z]+)_' for DIGIT_SPEAKER_TAKE.wav.",
        "Data and splits",
        metavar="REGEX",
    )
    max_missing: float = _max_missing("Data and splits")
    pool: str | None = option(
        None,
        "Pooling per clip: mean of all patches, means of segments, the class token, or (linear) attentive "
        "pooling.  [default: mean]",
        "Protocol",
        choices=("mean", "segments", "class", "attentive"),
    )
    views: tuple[int, int] | None = option(
        None,
        "Average test predictions over N clips in time and M crops, e.g. 5x3.  [default: the task's, else one file]",
        "Protocol",
        metavar="CLIPSxCROPS",
        parse=_views,
    )
    finetune: Place | None = option(
        None, "Recipe of --protocol finetune.  [default: the task's]", "Protocol", metavar="NAME|FILE"
    )
    seeds: int = option(1, "Number of seeds; reports the mean.", "Protocol", low=1)
    recipe: Recipe | None = None
    seed: int = _seed()
    workers: int = _workers("Decoding threads.", 0)


@dataclass(frozen=True, kw_only=True)
class Compare(Heard):
    """Of `compare`."""

    task: str | None = option(None, "Compare only results of this task.", metavar="NAME")
    protocol: str | None = option(None, "Compare only results of this protocol.", metavar="NAME")


@dataclass(frozen=True, kw_only=True)
class Report(Heard):
    """Of `report`."""

    data: Place | None = option(
        None, "A folder of media, or shards (default: what the run was trained on).", place="location"
    )
    out: Place | None = option(None, "The file to write (default: RUN/report.html).", place="path")
    clips: int = option(12, "Clips to show with code maps and nearest neighbours.", low=0)
    overwrite: bool = _overwrite()
    device: str = _device()


@dataclass(frozen=True, kw_only=True)
class Export(Heard):
    """Of `export`."""

    format: str = option(
        "safetensors",
        "safetensors for BRIDLE, huggingface for transformers, onnx for onnxruntime, torch-export for PyTorch.",
        required=True,
        choices=("safetensors", "huggingface", "onnx", "torch-export"),
    )
    out: Place = option(MISSING, "Output folder.", place="path")
    part: str = option(
        "both",
        "encoder: features, tokenizer: codes; not available for safetensors.",
        choices=("encoder", "tokenizer", "both"),
    )
    dtype: str = option(
        "fp32",
        "Type of the encoder's weights; the tokenizer stays fp32. int8: onnx only.",
        choices=("fp32", "fp16", "bf16", "int8"),
    )
    opset: int | None = option(None, "ONNX opset, 18 to 22 (default: 20).")
    data: Place | None = option(
        None, "Media or shards to check the result on (default: the run's shards, else noise).", place="location"
    )
    overwrite: bool = _overwrite()


@dataclass(frozen=True, kw_only=True)
class Search(Heard):
    """Of `search`."""

    checkpoint: Place | None = _trained()
    top: int = option(10, "Files shown for each query.", low=1)
    device: str = _device()


@dataclass(frozen=True, kw_only=True)
class Validate(Heard):
    """Of `config_validate`."""

    preset: str | None = option(None, "A recipe, such as audio-tiny.", metavar="NAME", complete="presets")
    sets: Sequence[str] = ()
    shards: Place | None = option(None, "Also check that it fits these shards.", place="location")
