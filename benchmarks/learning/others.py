"""What ours is compared with, on our shards and views, judged by our probes.

    python benchmarks/learning/others.py mae --shards SET --preset audio-tiny --max-minutes 5 --seed 0 \\
        --probe knn segments --probe linear segments --folds 6 --group-by '_([a-z]+)_'

`mae` is what a user would do today: Hugging Face's `ViTMAEForPreTraining` for sound and images, and for video
`VideoMAEForPreTraining`, with the preset's encoder and predictor sizes, clips, augmentation, batch, peak rate, weight
decay and schedule; mask 0.75 (0.9 for video) and normalised targets as their papers have them. Their patches are
ours, but squares: 8 x 8 where ours of a spectrogram are 8 x 16. Short clips are repeated, as these
models have no mask for padding, and learn less from padded ones.
`raw` is no network at all: the values of the patches (log-mel, pixels) are the features.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from bridle import config as configs
from bridle.archive import Manifest, merge_extent, merge_statistics
from bridle.config.sections import Config
from bridle.evaluate import Division, Protocol, evaluate
from bridle.inputs import find_sets
from bridle.model import Bridle
from bridle.rng import Draws
from bridle.schema import PatchBatch
from bridle.stream import ClipStream
from bridle.train.phases import rate_share
from bridle.train.step import autocast_dtype


class RawPatches(Bridle):
    """The patches themselves as features."""

    @torch.no_grad()
    def features_and_class(self, batch: PatchBatch) -> tuple[Tensor, Tensor]:
        x_BNP = batch.x_BNP * batch.valid_BN[..., None]
        return x_BNP, x_BNP.mean(1, keepdim=True)


class MaskedAutoencoder(Bridle):
    """Our patcher, their network: features come from theirs, so that every probe of ours runs on it."""

    def __init__(self, config: Config, statistics: dict[str, Any], **theirs: Any) -> None:
        super().__init__(config, statistics)
        # Here: `raw` needs no extra.
        from transformers import VideoMAEConfig, VideoMAEForPreTraining, ViTMAEConfig, ViTMAEForPreTraining

        e, p = config.encoder, config.predictor
        self.square = self.patcher.patch[0 if config.patches.modality == "audio" else 2]
        common = {
            "patch_size": self.square,
            "num_channels": self.patcher.channels,
            "hidden_size": e.width,
            "num_hidden_layers": e.depth,
            "num_attention_heads": e.heads,
            "intermediate_size": round(e.width * e.mlp_ratio),
            "decoder_hidden_size": p.width,
            "decoder_num_hidden_layers": p.depth,
            "decoder_num_attention_heads": p.heads,
            "decoder_intermediate_size": round(p.width * p.mlp_ratio),
            "norm_pix_loss": True,
            "attn_implementation": "eager",  # on a CPU a fifth faster than PyTorch's fused attention in bf16
            **theirs,
        }
        self.video = config.patches.modality == "video"
        self.sides = tuple(a * b for a, b in zip(self.patcher.grid, self.patcher.patch, strict=True))
        self.mae: nn.Module
        if self.video:
            frames, side, _ = self.sides
            self.mae = VideoMAEForPreTraining(
                VideoMAEConfig(image_size=side, num_frames=frames, tubelet_size=self.patcher.patch[0], **common)
            )
        else:
            self.mae = ViTMAEForPreTraining(ViTMAEConfig(image_size=max(self.sides), mask_ratio=0.75, **common))

    def loss(self, batch: PatchBatch) -> Tensor:
        pixels = self._pixels(batch)
        if not self.video:
            return self.mae(pixels).loss
        _, h, w = (side // self.square for side in self.sides)
        hidden = torch.rand(len(pixels), h * w).argsort(1) < round(0.9 * h * w)  # tubes
        return self.mae(pixels, bool_masked_pos=hidden.repeat(1, self.patcher.grid[0])).loss

    @torch.no_grad()
    def features_and_class(self, batch: PatchBatch) -> tuple[Tensor, Tensor]:
        """Their features, averaged over what one patch of ours covers, `(B, N, D)`, and the mean of these."""
        pixels = self._pixels(batch)
        t, h, w = (side // size for side, size in zip(self.sides, self._their_patch(), strict=True))
        if self.video:
            h_BND = self.mae.videomae(pixels).last_hidden_state
        else:
            self.mae.config.mask_ratio = self.mae.vit.config.mask_ratio = 0.0
            self.mae.vit.embeddings.config.mask_ratio = 0.0
            order_BN = torch.arange(t * h * w, dtype=torch.float32).expand(len(pixels), -1)
            h_BND = self.mae.vit(pixels, noise=order_BN).last_hidden_state[:, 1:]
        h_BDTHW = h_BND.float().transpose(1, 2).unflatten(2, (t, h, w))
        h_BDTHW = F.adaptive_avg_pool3d(h_BDTHW, self.patcher.grid)[:, :, : batch.grid[0]]
        h_BND = h_BDTHW.flatten(2).transpose(1, 2) * batch.valid_BN[..., None]
        return h_BND, h_BND.mean(1, keepdim=True)

    def _their_patch(self) -> tuple[int, int, int]:
        if self.video:
            return self.patcher.patch[0], self.square, self.square
        return (1, self.square, self.square) if self.sides[0] == 1 else (self.square, self.square, 1)

    def _pixels(self, batch: PatchBatch) -> Tensor:
        """The patches put together again and padded to full length: `(B, C, H, W)`, video `(B, T, C, H, W)`."""
        c, (t, h, w), (pt, ph, pw) = self.patcher.channels, batch.grid, self.patcher.patch
        x = batch.x_BNP.view(-1, t, h, w, c, pt, ph, pw).permute(0, 4, 1, 5, 2, 6, 3, 7)
        x_BCTHW = x.reshape(-1, c, t * pt, h * ph, w * pw)
        # Again and again until the length is full, as these models have no mask for padding.
        frames_B1 = pt * batch.valid_BN.view(-1, t, h * w).any(-1).sum(1, keepdim=True)
        index_BT = torch.arange(self.sides[0]) % frames_B1
        x_BCTHW = x_BCTHW.gather(2, index_BT[:, None, :, None, None].expand(-1, c, -1, h * ph, w * pw))
        if self.video:
            return x_BCTHW.transpose(1, 2)
        return x_BCTHW.squeeze(2) if self.sides[0] == 1 else x_BCTHW.squeeze(4)


def main() -> None:
    """Trains, probes, prints one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["mae", "raw"])
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--set", action="append", default=[], help="as bridle pretrain takes it")
    parser.add_argument("--theirs", type=yaml.safe_load, default={}, help="of their configuration, as YAML: {a: 1}")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--max-minutes", type=float, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--probe", nargs=2, action="append", required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--group-by", default=None)
    arguments = parser.parse_args()
    manifests = find_sets(arguments.shards)
    config = configs.load(
        arguments.preset, extent=merge_extent(manifests), sets=[*arguments.set, f"train.seed={arguments.seed}"]
    )
    torch.manual_seed(arguments.seed)
    found: dict[str, Any] = {}
    model: Bridle = RawPatches(config, merge_statistics(manifests))
    if arguments.what == "mae":
        model = MaskedAutoencoder(config, merge_statistics(manifests), **arguments.theirs)
        found["training"] = train(model, manifests, arguments.steps, arguments.max_minutes)
    division = Division(folds=arguments.folds, group_by=arguments.group_by)
    found["results"] = [
        evaluate(
            model.eval(), arguments.shards, protocol=Protocol(protocol, pool, (arguments.seed,)), division=division
        )
        for protocol, pool in arguments.probe
    ]
    print(json.dumps(found))


def train(
    model: MaskedAutoencoder, manifests: list[Manifest], steps: int | None, minutes: float | None
) -> dict[str, Any]:
    """AdamW with our warm-up and cosine, for that many steps or minutes."""
    config, optim = model.config, model.config.optim
    stream = ClipStream(
        manifests,
        model.patcher,
        batch_size=optim.batch_size,
        seed=config.train.seed,
        cache_gb=config.data.cache_gb,
    )
    optimizer = torch.optim.AdamW(
        model.mae.parameters(), betas=(optim.beta1, optim.beta2), weight_decay=optim.weight_decay, fused=True
    )
    dtype = autocast_dtype(config.train.precision, torch.device("cpu"))
    start, step, loss = time.monotonic(), 0, torch.zeros(())
    for batch in stream.batches():
        done = step / steps if steps else (time.monotonic() - start) / (60 * (minutes or 1.0))
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = optim.lr * rate_share(max(done, 1e-4), optim.warmup)
        patches = model.patcher(batch.tensors, Draws(config.train.seed, step, batch.places))
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss = model.loss(patches)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.mae.parameters(), optim.clip_norm)
        optimizer.step()
        step += 1
    return {"steps": step, "seconds": round(time.monotonic() - start, 1), "loss": float(loss.detach())}


if __name__ == "__main__":
    main()
