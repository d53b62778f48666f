"""What an exported encoder costs and loses: speed beside eager PyTorch, and probes on its features.

    python benchmarks/export.py speed [--presets audio-small image-small video-small] [--clips 1 8] [--rounds 9]
    python benchmarks/export.py probe RUN [--data tests/media/audio] [--pool segments] [--group-by '_([a-z]+)_']

speed: untrained models of the presets, full clips of noise, `OMP_NUM_THREADS` threads on the CPU for all; PyTorch in
inference mode and onnxruntime take turns, figures are medians in milliseconds. probe: nearest neighbours and logistic
regression on what PyTorch and the programs make of the same clips, and how far the programs are off.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bridle import config as configs
from bridle.checkpoint import load_model
from bridle.evaluate.labels import Truth
from bridle.evaluate.probe import judge, probe_vectors
from bridle.evaluate.splits import group_names, make_splits
from bridle.export import huggingface, onnx
from bridle.export.programs import STORED, example_of, program_of
from bridle.export.subject import Subject
from bridle.infer import Failures, encode, pool_encoded
from bridle.inputs import find_sources
from bridle.model import Bridle
from bridle.patches.cut import coordinates
from bridle.schema import Modality, PatchBatch

MEDIA = Path(__file__).parent.parent / "tests" / "media"
STATISTICS = {"fbank_mean": -6.0, "fbank_std": 4.0, "pixel_mean": [0.45] * 3, "pixel_std": [0.25] * 3, "rate_hz": 12.0}
DTYPES = ("fp32", "fp16", "bf16", "int8")
Forward = Callable[[PatchBatch], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("speed")
    one.add_argument("--presets", nargs="+", default=["audio-small", "image-small", "video-small"])
    one.add_argument("--clips", type=int, nargs="+", default=[1, 8])
    one.add_argument("--rounds", type=int, default=9)
    one = parts.add_parser("probe")
    one.add_argument("run", type=Path)
    one.add_argument("--data", type=Path, help="media in class folders, or shards; default: tests/media")
    one.add_argument("--pool", default="segments", choices=["mean", "segments"])
    one.add_argument("--group-by", help="what must not be on both sides of a fold")
    one.add_argument("--folds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.part == "speed":
        speed(arguments)
    else:
        probe(arguments)


def programs(model: Bridle, folder: Path) -> dict[str, Path]:
    """The encoder as ONNX in every dtype."""
    files = {dtype: folder / f"{dtype}.onnx" for dtype in DTYPES}
    for dtype, path in files.items():
        onnx.write(program_of(model, "encoder", dtype=dtype), example_of(model), path, opset=None, dtype=dtype)
    return files


def speed(arguments: argparse.Namespace) -> None:
    print("| preset | clips x patches | PyTorch ms |" + "".join(f" onnx {dtype} ms |" for dtype in DTYPES))
    print("|---|---|---|" + "---|" * len(DTYPES))
    for preset in arguments.presets:
        model = Bridle(configs.load(preset), STATISTICS).eval().requires_grad_(False)
        with tempfile.TemporaryDirectory() as folder:
            files = programs(model, Path(folder))
            sides: dict[str, Forward] = {"torch": model.features_and_class}
            sides |= {dtype: onnx.opened(path) for dtype, path in files.items()}
            for clips in arguments.clips:
                batch = noise(model, clips)
                medians = taking_turns(sides, batch, arguments.rounds)
                own = medians.pop("torch")
                cells = [f"{own:.1f}", *(f"{found:.1f} ({own / found:.2f} x)" for found in medians.values())]
                print(f"| {preset} | {clips} x {batch.x_BNP.shape[1]} | {' | '.join(cells)} |", flush=True)


def noise(model: Bridle, clips: int) -> PatchBatch:
    coords_N3 = coordinates(model.patcher.grid)
    x_BNP = torch.randn(clips, len(coords_N3), model.patcher.values)
    valid_BN = torch.ones(x_BNP.shape[:2], dtype=torch.bool)
    coords_BN3 = coords_N3.expand(clips, -1, -1).contiguous()
    return PatchBatch(x_BNP, coords_BN3, valid_BN, [len(coords_N3)] * clips, model.patcher.grid)


@torch.inference_mode()
def taking_turns(sides: dict[str, Forward], batch: PatchBatch, rounds: int) -> dict[str, float]:
    """Median milliseconds of each side."""
    taken: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds + 1):
        for side, work in sorted(sides.items(), reverse=bool(number % 2)):
            start = time.perf_counter()
            work(batch)
            if number:  # the first one warms up
                taken[side].append(1e3 * (time.perf_counter() - start))
    return {side: statistics.median(some) for side, some in taken.items()}


def computing_in(model: Bridle, dtype: torch.dtype) -> Forward:
    """As the export for transformers computes: in the dtype that its weights are kept in."""
    from bridle.export.standalone.configuration_bridle import BridleConfig
    from bridle.export.standalone.modeling_bridle import BridleModel

    subject = Subject(model, None, {}, None)
    loaded = BridleModel(BridleConfig(**huggingface.sizes(subject, ("encoder",), "fp32"))).eval()
    loaded.load_state_dict(huggingface.weights(subject, ("encoder",), torch.float32))
    loaded.to(dtype)

    def forward(batch: PatchBatch) -> list[torch.Tensor]:
        return [loaded(batch.x_BNP, batch.coords_BN3, batch.valid_BN).last_hidden_state.float()]

    return forward


def probe(arguments: argparse.Namespace) -> None:
    model = load_model(arguments.run).eval().requires_grad_(False)
    data = arguments.data or MEDIA / model.modality
    sources = list(find_sources([data], Modality(model.modality))[0])
    truth = Truth.of([source.labels for source in sources], multi=False)
    groups = group_names([source.path for source in sources], arguments.group_by) if arguments.group_by else None
    splits = make_splits(truth.y.numpy(), groups, folds=arguments.folds)

    def vectors(forward: Callable[[PatchBatch], torch.Tensor]) -> torch.Tensor:
        found = encode(model, sources, lambda batch: (forward(batch),), failures=Failures())
        return torch.stack([pool_encoded(one, arguments.pool, model) for one in found])

    print(f"{data}: {len(sources)} clips, {len(truth.classes)} classes, pool {arguments.pool}, {len(splits)} folds\n")
    print("| encoder | file, bytes | kNN | linear | cosine with PyTorch, mean, least |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        files = programs(model, Path(folder))
        own_ND = vectors(model.features)
        sides: dict[str, Path | Forward | None] = {
            "PyTorch": None,
            **{f"onnx {name}": at for name, at in files.items()},
        }
        sides |= {f"transformers {name}": computing_in(model, dtype) for name, dtype in STORED.items()}
        for name, side in sides.items():
            path = side if isinstance(side, Path) else None
            run: Any = onnx.opened(path) if path else side
            x_ND = vectors(lambda batch: run(batch)[0]) if run else own_ND  # noqa: B023 (used at once)
            accuracies = [
                judge(truth, splits, probe_vectors(x_ND, truth, groups, protocol)) for protocol in ("knn", "linear")
            ]
            cells = [f"{100 * one.value:.1f} ({100 * one.ci95[0]:.1f}-{100 * one.ci95[1]:.1f})" for one in accuracies]
            cosine_N = torch.nn.functional.cosine_similarity(x_ND, own_ND)
            size = path.stat().st_size if path else ""
            print(
                f"| {name} | {size} | {' | '.join(cells)} | {cosine_N.mean():.6f}, {cosine_N.min():.6f} |", flush=True
            )


if __name__ == "__main__":
    main()
