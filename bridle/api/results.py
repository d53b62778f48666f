"""What the functions of `bridle.api` return, and `--json` prints: the keys are stable."""

from typing import Any, Literal, NotRequired, TypedDict


class Skipped(TypedDict):
    file: str
    reason: str


class Difference(TypedDict):
    key: str
    a: NotRequired[Any]
    b: NotRequired[Any]


class _SetResult(TypedDict):
    modality: str
    samples: int
    shards: int
    bytes: int
    rejected: int
    candidates: int
    ignored: int
    labels: list[str]
    unlabelled: int
    unmatched: int  # rows of the table without a file
    notes: list[str]
    ungrouped: int
    absent: int  # samples whose file is not there any more
    rejects: list[Skipped]
    duplicates: int
    dropped: int
    added: int
    notices: list[str]


class ShardResult(_SetResult):
    """`shard`."""

    name: str
    seconds: float
    out: str
    dry_run: bool
    splits: NotRequired[dict[str, _SetResult]]  # with `split` or `task`


class Verified(TypedDict):
    """`shard_verify`, one for each set."""

    name: str
    folder: str
    samples: int
    shards: int
    bytes: int
    decoded: int


class InitResult(TypedDict):
    """`init`."""

    config: str
    modality: str
    preset: str
    samples: int
    steps: int | None
    memory_mb: int
    step_ms: dict[str, float]


class Validated(TypedDict):
    """One file of `config_validate`; the last four with shards."""

    file: str
    preset: str
    modality: str
    parameters: int
    samples: NotRequired[int]
    batch_size: NotRequired[int]
    steps: NotRequired[int | None]
    memory_mb: NotRequired[int]


class _Phase(TypedDict):
    name: str
    steps: int | None
    seconds: float | None


class _Plan(TypedDict, total=False):
    """With `dry_run`."""

    samples: int
    clips_in_memory: bool
    grid: list[int]  # of patches
    patch: list[int]
    patches: int  # of a full clip
    visible: int  # of them to the encoder
    parameters: dict[str, int]
    memory_mb: int
    gflops_per_step: dict[str, float]
    devices: int
    batch_size: int
    masks_per_clip: int
    lr: float
    tokenizer_lr: float
    device: str
    precision: str
    phases: list[_Phase]


class RunResult(_Plan):
    """`pretrain` and `resume`."""

    run: str
    modality: str
    preset: str
    steps: int | None
    seconds: NotRequired[float]
    clips: NotRequired[int]
    loss: NotRequired[float | None]
    cross_entropy: NotRequired[list[float] | None]  # per level, as the next two
    usage: NotRequired[list[float] | None]
    perplexity: NotRequired[list[float] | None]
    skipped_steps: NotRequired[int]
    failed_clips: NotRequired[dict[str, str]]
    checkpoint: NotRequired[str]


class RunListed(TypedDict):
    """One run of `runs`."""

    run: str
    status: str
    preset: str | None
    modality: str | None
    step: int
    loss: float | None
    best_probe: float | None
    best_step: int | None
    bytes: int
    modified: float


class FileCodes(TypedDict):
    """One file of `tokenize`."""

    file: str
    levels: int
    grid: list[int]  # time, rows, columns
    codes: list[Any]  # nested: level, time, row, column
    times: list[float] | None


class _Written(TypedDict):
    out: str
    files: int
    bytes: int
    skipped: int
    seconds: float
    failures: list[Skipped]


class CodesWritten(_Written):
    """`write_codes`; empty from processes but the first."""

    levels: int
    patches: int


class VectorsWritten(_Written):
    """`embed`; empty from processes but the first."""

    vectors: int
    width: int


class Hit(TypedDict):
    """A file like the query; `path` is None for what is not a file of its own on this disk."""

    file: str
    similarity: float
    start_s: float | None
    path: str | None


class Found(TypedDict):
    """One query of `search`, the nearest first."""

    query: str
    hits: list[Hit]


class EvalResult(TypedDict):
    """`evaluate`; what is not required depends on the protocol (see `bridle.evaluate.evaluate`)."""

    task: str
    protocol: str
    checkpoint: str
    metric: str
    value: float
    ci95: list[float]
    n_train: int
    n_test: int
    seed: int
    data: str
    labels: str | None
    skipped: list[Skipped]
    metrics: NotRequired[dict[str, float]]
    pool: NotRequired[str | None]
    recipe: NotRequired[dict[str, Any] | None]
    views: NotRequired[list[int] | None]
    folds: NotRequired[int]
    group_by: NotRequired[str | None]
    test_share: NotRequired[float | None]
    split_file: NotRequired[str | None]
    seeds: NotRequired[int]
    chance: NotRequired[float]
    classes: NotRequired[list[str]]
    per_fold: NotRequired[list[dict[str, Any]]]
    per_seed: NotRequired[list[float]]
    missing: NotRequired[dict[str, int]]
    missing_files: NotRequired[dict[str, list[str]]]
    confusion: NotRequired[list[list[int]]]
    sequence: NotRequired[dict[str, Any]]
    per_level: NotRequired[list[dict[str, Any]]]
    patches: NotRequired[int]
    clips: NotRequired[str]  # file with the scores of each tested clip, once it is kept


class TaskInfo(TypedDict):
    """One published benchmark of `tasks`; see `bridle.tasks.Task`."""

    name: str
    title: str
    modality: str
    metric: Literal["accuracy", "map"]
    classes: int
    multi_label: bool
    train: list[str]
    test: list[str]
    folds: bool
    clips: dict[str, int]
    published: str
    layout: str
    get: str
    views: list[int]


class Answer(TypedDict):
    """A row of a question: one run; the last five are None where there is nothing to say."""

    run: str
    checkpoint: str | None
    value: float
    ci95: list[float]
    n_train: int | None
    seed: int | None
    data: str | None
    clips: int | None
    difference: float | None
    difference_ci: list[float] | None
    mark: Literal["+", "-", "="] | None
    note: str | None


class Question(TypedDict):
    """One question of `compare`."""

    task: str
    protocol: str
    pool: str | None
    metric: str
    labels: str | None
    group_by: str | None
    folds: int | None
    test_share: float | None
    split_file: str | None
    views: list[int] | None
    data: str
    clips: int | None
    confidence: float
    rows: list[Answer]


class ExportResult(TypedDict):
    """`export`; `parity` is how far what was written is from the model."""

    format: str
    out: str
    files: list[str]
    parity: Any


class ReportResult(TypedDict):
    """`report`."""

    run: str
    out: str
    bytes: int
    sections: list[str]
    clips: int
    skipped: int


class Finding(TypedDict):
    """One finding of `doctor`."""

    check: str
    status: Literal["ok", "note", "warning", "fault"]
    found: str
    remedy: str
