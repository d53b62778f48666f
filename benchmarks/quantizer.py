"""Speed and memory of the residual quantizer, beside `vector-quantize-pytorch`'s `ResidualVQ`.

    python benchmarks/quantizer.py [--rounds 15] [--threads 1] [--device cpu]

Both are in training mode with k-means start, moving averages, dead-code replacement and a straight-through gradient
(theirs would otherwise rotate it, which takes them up to twice as long), at the same sizes, in one run, in turn; times
are medians. "bare" is the limit: the distance products and their minima alone, nothing learned.
Peak memory is what a process that does three steps takes at most, less what it took before the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bridle.quantize import ResidualQuantizer

try:
    from vector_quantize_pytorch import ResidualVQ
except ImportError:
    sys.exit("vector-quantize-pytorch is missing: pip install -c constraints.txt -e '.[bench]'")

SIZES = {  # vectors, width, levels, codes
    "tiny presets": (4096, 16, 4, 64),
    "paper, 16 clips of 512 patches": (8192, 256, 4, 256),
    "narrow codes": (16384, 32, 4, 256),
    "one codebook": (8192, 256, 1, 1024),
}
Step = Callable[[], None]


def main() -> None:
    """Prints one row a size; with `--json` the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", nargs=2, metavar=("SIDE", "SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        side, size = arguments.peak
        print(peak_mb(steps(SIZES[size], arguments.device)[side], arguments.device))
        return
    rows = [measure(name, arguments) for name in SIZES]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print("| size (N x C, Q x K) | bare ms | ours ms | theirs ms | theirs / ours | ours / bare | ours MB | theirs MB |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        ours, theirs, bare = row["ms"]["ours"], row["ms"]["theirs"], row["ms"]["bare"]
        print(
            f"| {row['name']} ({row['vectors']} x {row['width']}, {row['levels']} x {row['codes']}) | {bare:.1f} "
            f"| {ours:.1f} | {theirs:.1f} | {theirs / ours:.1f} | {ours / bare:.1f} "
            f"| {row['peak_mb']['ours']:.0f} | {row['peak_mb']['theirs']:.0f} |"
        )


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians of interleaved rounds, and each side's peak memory in a process of its own."""
    sides = steps(SIZES[name], arguments.device)
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(arguments.rounds + 2):
        for side, step in sides.items():
            synchronise(arguments.device)
            start = time.perf_counter()
            step()
            synchronise(arguments.device)
            if number >= 2:  # k-means and warm-up
                seconds[side].append(time.perf_counter() - start)
    peak = {}
    for side in ("ours", "theirs"):
        command = [sys.executable, __file__, "--peak", side, name, "--device", arguments.device]
        peak[side] = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    milliseconds = {side: 1e3 * statistics.median(values) for side, values in seconds.items()}
    n, c, q, k = SIZES[name]
    return {"name": name, "vectors": n, "width": c, "levels": q, "codes": k, "ms": milliseconds, "peak_mb": peak}


def steps(size: tuple[int, int, int, int], device: str) -> dict[str, Step]:
    """One training step of each side: forward, update of the codebooks, gradient to z."""
    n, c, q, k = size
    z_NC = F.normalize(torch.randn(n, c, generator=torch.Generator().manual_seed(0)), dim=-1).to(device)
    ours = ResidualQuantizer(q, k, c, decay=0.99).train().to(device)
    theirs = ResidualVQ(
        dim=c, num_quantizers=q, codebook_size=k, decay=0.99, kmeans_init=True, threshold_ema_dead_code=2,
        rotation_trick=False,
    ).to(device)  # fmt: skip

    def bare() -> None:
        for codebook_KC in ours.codebook_QKC:
            torch.addmm(codebook_KC.square().sum(-1) / 2, z_NC, codebook_KC.T, alpha=-1.0).min(-1)

    def step_ours() -> None:
        out = ours(leaf := z_NC.clone().requires_grad_())
        _backward(out.z_q_NC, out.commitment, leaf)
        ours.update()

    def step_theirs() -> None:
        z_q_BNC, _, commitment_BQ = theirs((leaf := z_NC.clone().requires_grad_())[None])
        _backward(z_q_BNC, commitment_BQ.mean(), leaf)

    return {"bare": bare, "ours": step_ours, "theirs": step_theirs}


def _backward(z_q: Tensor, commitment: Tensor, leaf: Tensor) -> None:
    (z_q.square().mean() + commitment).backward()
    assert leaf.grad is not None


def peak_mb(step: Step, device: str) -> float:
    """Most memory that three steps take, in MB."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        for _ in range(3):
            step()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts anew
    before = memory_kb("VmRSS")
    for _ in range(3):
        step()
    return (memory_kb("VmHWM") - before) / 1e3


def memory_kb(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
