"""The figures of docs/method.md, from trained runs and the sample in tests/media.

    python benchmarks/figures.py audio=RUN image=RUN video=RUN turns=RUN [--out docs/figures]

The runs are those of docs/results.md (`benchmarks/learning/run.py presets --seed 0`); `turns` is the preset for sound
with an encoder phase after the tokenizer phase, on the same shards:

    bridle pretrain --shards SHARDS --set schedule.encoder=36 --set train.probe_every=100 --steps 1500

Shapes: T H W grid of a clip, Q levels, K codes, M hidden patches, C channels.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bridle import media
from bridle.checkpoint import load_model, read_rows
from bridle.infer import Failures, encode
from bridle.inputs import find_sources
from bridle.model import Bridle, draw_mask
from bridle.report.code_maps import code_map, code_ranks, palette
from bridle.rng import Draws
from bridle.schema import Modality, PatchBatch

SAMPLE = Path(__file__).parent.parent / "tests" / "media"
CLIPS = {
    "audio": "audio/7/7_theo_0.wav",
    "image": "image/friends_by_Aitzol_Berasategi/friends_by_Aitzol_Berasategi_00.jpg",
    "video": "video/pan_left/aitzgorri_by_Aitzol_Berasategi_2.mp4",
}
MODALITIES = tuple(CLIPS)
COLOURS = ("#1b4f9c", "#2a9d8f", "#e0a100", "#c8553d")  # of the levels
HIDDEN = 0.82  # grey
STEP = 0  # of the masks that are shown


def main() -> None:
    """Draws all figures for which there is a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    arguments = parser.parse_args()
    runs = {name: Path(run) for name, _, run in (word.partition("=") for word in arguments.runs)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    models = {name: load_model(runs[name]) for name in MODALITIES}
    save(masked(models), arguments.out / "masked.png")
    save(levels(models, runs), arguments.out / "levels.png")
    save(usage(runs), arguments.out / "usage.png")
    save(turns(runs["turns"]), arguments.out / "turns.png")


def masked(models: dict[str, Bridle]) -> Figure:
    """A row a modality: what goes in, what the encoder sees, the codes of the hidden patches, its guesses."""
    titles = ("what goes in", "what the encoder sees", "codes of the hidden\npatches, level 1", "its guesses")
    figure, axes = plt.subplots(3, 4, figsize=(8.4, 5.4), dpi=100, height_ratios=(1, 1, 0.6))
    for line, (name, model) in zip(axes, models.items(), strict=True):
        model.learned = torch.tensor(False)  # what the encoder has learned to guess are the codes of the cold start
        batch, x_CTHW = first_window(model, SAMPLE / CLIPS[name])
        hidden_THW, codes_THW, guesses_THW = guessed(model, batch)
        pt, ph, pw = model.patcher.patch
        cover_THW = np.kron(hidden_THW.numpy(), np.ones((pt, ph, pw), dtype=bool))
        shown = as_picture(x_CTHW)
        seen = np.where(cover_THW[..., None], HIDDEN, shown)
        pictures = [laid_out(shown, batch.grid, pt), laid_out(seen, batch.grid, pt)]
        colours_K3 = np.concatenate([palette(code_ranks(model)[0]), np.full((1, 3), round(255 * HIDDEN), np.uint8)])
        every = 2 if batch.grid[0] > 1 and batch.grid[2] > 1 else 1
        for shown_THW in (codes_THW, guesses_THW):
            shown_THW = shown_THW.masked_fill(~hidden_THW, len(colours_K3) - 1)[::every]
            map_HW4 = code_map(shown_THW, colours_K3, spread=batch.grid[2] > 1)
            pictures.append(np.where(map_HW4[..., 3:] > 0, map_HW4[..., :3], 255))
        right = float((codes_THW == guesses_THW)[hidden_THW].float().mean())
        for axis, picture, title in zip(line, pictures, titles, strict=True):
            axis.imshow(picture, aspect="auto" if name == "audio" else "equal", interpolation="nearest")
            axis.set_title(title if name == MODALITIES[0] else "", fontsize=9)
            axis.set_xticks([])
            axis.set_yticks([])
        line[3].set_xlabel(f"{100 * right:.0f} % right; {100 / model.config.quantizer.codes:.1f} % by chance")
        line[0].set_ylabel({"audio": "a spoken seven", "image": "a photo", "video": "a moving camera"}[name])
    figure.tight_layout()
    return figure


def first_window(model: Bridle, path: Path) -> tuple[PatchBatch, np.ndarray[Any, Any]]:
    """Patches of a file's first window, and the same put together again, `(C, T, H, W)`."""
    patcher = model.patcher
    clip = media.decode(path, media.probe(path, path.name))
    batch = patcher([patcher.windows(clip)[0][0]])
    (t, h, w), (pt, ph, pw) = batch.grid, patcher.patch
    x = batch.x_BNP[0].view(t, h, w, patcher.channels, pt, ph, pw).permute(3, 0, 4, 1, 5, 2, 6)
    return batch, x.reshape(patcher.channels, t * pt, h * ph, w * pw).numpy()


@torch.no_grad()
def guessed(model: Bridle, batch: PatchBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which patches are hidden, their codes of level 1 and the likeliest codes, each `(T, H, W)`."""
    section = model.config.mask
    mask = draw_mask(batch, section.shape, section.ratio, Draws(0, STEP, [0]), full=model.patcher.grid)
    logits_MQK = model.predict(model.encode_visible(batch, mask), batch, mask)[0]
    index_M = mask.masked_BM[0]
    hidden_N = torch.zeros(batch.x_BNP.shape[1], dtype=torch.bool)
    hidden_N[index_M] = True
    guess_N = torch.full_like(hidden_N, -1, dtype=torch.int64)
    guess_N[index_M] = logits_MQK[:, 0].argmax(-1)
    return hidden_N.view(batch.grid), model.tokenize(batch)[0, :, 0].view(batch.grid), guess_N.view(batch.grid)


def as_picture(x_CTHW: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Colours between 0 and 1, `(T, H, W, 3)`."""
    low, high = np.quantile(x_CTHW, (0.005, 0.995))
    x_CTHW = np.clip((x_CTHW - low) / (high - low), 0, 1)
    return plt.get_cmap("magma")(x_CTHW[0])[..., :3] if len(x_CTHW) == 1 else np.moveaxis(x_CTHW, 0, -1)


def laid_out(x: np.ndarray[Any, Any], grid: Sequence[int], tubelet: int) -> np.ndarray[Any, Any]:
    """A spectrogram upright, a photo as it is, of a video the first frame of every second time step."""
    if grid[2] == 1:
        return x[:, ::-1, 0].swapaxes(0, 1)
    if grid[0] == 1:
        return x[0]
    gap = np.ones((x.shape[1], 2, 3))
    parts = [part for frame in x[:: 2 * tubelet] for part in (gap, frame)]
    return np.concatenate(parts[1:], 1)


def levels(models: dict[str, Bridle], runs: dict[str, Path]) -> Figure:
    """What each level leaves of z, and how hard its codes are to guess."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 2.9), dpi=100)
    for number, (name, model) in enumerate(models.items()):
        model.learned = torch.tensor(True)
        count = model.config.quantizer.levels
        norms = [1.0, *residual_norms(model, SAMPLE / name)]
        style = {"color": COLOURS[number], "marker": "o", "label": name}
        left.plot(range(count + 1), norms, **style)
        cold = [row for row in rows_of(runs[name]) if "cross_entropy" in row]
        chance = math.log(model.config.quantizer.codes)
        right.plot(range(1, count + 1), [value / chance for value in cold[-1]["cross_entropy"]], **style)
        print(name, "residual", [round(value, 3) for value in norms], "cross-entropy", cold[-1]["cross_entropy"])
    left.set(xlabel="after level", ylabel="length of the residual", ylim=(0, 1.05), xticks=range(count + 1))
    left.set_title("each level takes away less", fontsize=9)
    right.axhline(1, color="0.5", linestyle=":")
    right.text(1, 1.02, "chance", color="0.4", fontsize=8)
    right.set(xlabel="level", ylabel="cross-entropy / ln K", ylim=(0, 1.1), xticks=range(1, count + 1))
    right.set_title("and is harder to guess", fontsize=9)
    right.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    return figure


def residual_norms(model: Bridle, folder: Path) -> list[float]:
    """Mean length of what is left after each level, over all patches of the sample."""
    sources, _ = find_sources([folder], Modality(model.modality))
    found = encode(model, sources, lambda batch: (model.tokenize_detailed(batch)[1],), failures=Failures())
    norms_RQ = torch.cat([one.outputs[0].float() for one in found])
    return [float(value) for value in norms_RQ.mean(0)]


def usage(runs: dict[str, Path]) -> Figure:
    """Perplexity of each level's codes while training."""
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 2.6), dpi=100, sharey=True)
    for axis, name in zip(axes, MODALITIES, strict=True):
        rows = [row for row in rows_of(runs[name]) if "loss" in row]
        shade(axis, rows)
        for level in range(len(rows[0]["perplexity"])):
            values = [row["perplexity"][level] for row in rows]
            axis.plot(
                [row["step"] for row in rows], values, color=COLOURS[level], label=f"level {level + 1}", linewidth=1
            )
        axis.axhline(64, color="0.5", linestyle=":")
        axis.set(title=name, xlabel="step", ylim=(0, 74))
        axis.title.set_fontsize(9)
    axes[0].set_ylabel("codes in even use, of 64")
    axes[0].legend(frameon=False, loc="lower left", ncols=2)
    figure.tight_layout()
    return figure


def turns(run: Path) -> Figure:
    """Losses and the online probe over three phases."""
    rows = rows_of(run)
    logged, probed = [row for row in rows if "loss" in row], [row for row in rows if "probe" in row]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8.4, 4.4), dpi=100, sharex=True)
    for axis in (top, bottom):
        shade(axis, logged)
    for index in sorted({row["phase_index"] for row in logged}):
        mine = [row for row in logged if row["phase_index"] == index]
        steps = [row["step"] for row in mine]
        if mine[0]["phase"] == "tokenizer":
            top.plot(steps, [row["loss"] for row in mine], color="0.2", label="tokenizer's loss")
            continue
        for level in range(len(mine[0]["cross_entropy"])):
            label = f"cross-entropy, level {level + 1}" if index == 0 else None
            top.plot(steps, [row["cross_entropy"][level] for row in mine], color=COLOURS[level], label=label)
    top.axhline(math.log(64), color="0.5", linestyle=":")
    top.set(ylabel="loss", ylim=(0, 5.3))
    top.legend(frameon=False, fontsize=7, ncols=2, loc="lower left")
    bottom.plot(
        [row["step"] for row in probed],
        [100 * row["probe"]["knn"] for row in probed],
        color=COLOURS[0],
        marker="o",
        markersize=3,
    )
    bottom.set(ylabel="online probe, kNN %", xlabel="step")
    figure.tight_layout()
    print("turns", [(row["step"], row["phase"], round(100 * row["probe"]["knn"], 1)) for row in probed])
    return figure


def rows_of(run: Path) -> list[dict[str, Any]]:
    """What the run wrote while it was trained."""
    return [row for _, row in read_rows(run / "metrics.jsonl")]


def shade(axis: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """The phases behind the curves, with their names."""
    begin = 0
    for index in sorted({row["phase_index"] for row in rows}):
        mine = [row for row in rows if row["phase_index"] == index]
        if index % 2:
            axis.axvspan(begin, mine[-1]["step"], color="0.92", linewidth=0)
        place = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "top"}
        name = {"cold": "cold start"}.get(mine[0]["phase"], mine[0]["phase"])
        axis.annotate(name, ((begin + mine[-1]["step"]) / 2, 1), fontsize=7, color="0.35", **place)
        begin = mine[-1]["step"]


def save(figure: Figure, path: Path) -> None:
    """A PNG of 256 colours: a third of the size."""
    figure.savefig(path)
    plt.close(figure)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
