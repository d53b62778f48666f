"""A look at the encoder while it trains: how well do its features and codes know the labels of a few clips?

For comparing steps of one run. Neighbours may be of the same speaker or photo, so the accuracy says nothing about
unseen ones: that is what `bridle eval` is for.

Shapes: F clips, N patches, D width, Q levels, K codes, L labels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bridle.errors import MediaError
from bridle.model import Bridle
from bridle.patches import Patcher
from bridle.quantize import mutual_information, usage_entropy, usage_share
from bridle.stream import SampleReader

_NEIGHBOURS = 10
_TEMPERATURE = 0.07  # of the neighbours' votes (DINO, arXiv 2104.14294)
_BATCH = 64
_MOST_BYTES = 256_000_000  # of views in memory


class OnlineProbe:
    """Labelled clips kept ready, and what a model makes of them.

    Args:
        reader: the training shards.
        patcher: the model's.
        clips: how many to look at, the same ones in every run; fewer where they are large.

    Attributes:
        views, labels_F: the clips' central views and their label numbers; empty when fewer than two labels occur.
    """

    def __init__(self, reader: SampleReader, patcher: Patcher, clips: int) -> None:
        labels: list[str] = []
        self.views: list[Tensor] = []
        room = _MOST_BYTES
        for sample in torch.randperm(len(reader), generator=torch.Generator().manual_seed(0))[:clips].tolist():
            try:
                meta = reader.meta(sample)
                if room > 0 and meta.get("label") is not None:
                    self.views.append(patcher.prepare(reader.clip(sample, meta), None))
                    labels.append(meta["label"])
                    room -= self.views[-1].nbytes
            except MediaError:
                continue  # the stream counts and lists it
        names = sorted(set(labels))
        if len(names) < 2:
            self.views, labels = [], []
        self.labels_F = torch.tensor([names.index(label) for label in labels], dtype=torch.int64)

    @torch.no_grad()
    def judge(self, model: Bridle, learning: bool = False) -> dict[str, Any]:
        """`{knn, usage, perplexity, mutual_information}`; the last three by level.

        Codes are those of the tokenizer in force or, while one is `learning`, of that one.
        """
        training = [module for module in model.modules() if module.training]
        model.eval()  # no running average may see these clips
        features, codes, of_clip = [], [], []
        for start in range(0, len(self.views), _BATCH):
            batch = model.patcher(self.views[start : start + _BATCH])
            h_BND = model.features(batch)
            features.append(h_BND.sum(1) / batch.valid_BN.sum(1, keepdim=True))
            codes.append((model.tokenizer if learning else model.quantize)(batch).codes_NQ)
            labels_B = self.labels_F[start : start + _BATCH].to(h_BND.device)
            of_clip.append(labels_B.repeat_interleave(batch.valid_BN.sum(1)))
        for module in training:
            module.training = True
        count_QKL = _count(torch.cat(codes), torch.cat(of_clip), model.config.quantizer.codes)
        return {
            "knn": leave_one_out_knn(torch.cat(features), self.labels_F.to(features[0].device)),
            "usage": [round(share, 4) for share in usage_share(count_QKL.sum(-1)).tolist()],
            "perplexity": [round(bits, 2) for bits in usage_entropy(count_QKL.sum(-1)).exp2().tolist()],
            "mutual_information": [round(bits, 4) for bits in mutual_information(count_QKL).tolist()],
        }


def leave_one_out_knn(h_FD: Tensor, labels_F: Tensor, neighbours: int = _NEIGHBOURS) -> float:
    """Share of clips whose nearest others, weighted by `exp(cosine / 0.07)`, vote for the right label."""
    h_FD = F.normalize(h_FD.float() - h_FD.float().mean(0), dim=-1)
    with torch.autocast(h_FD.device.type, enabled=False):
        cosine_FF = (h_FD @ h_FD.T).fill_diagonal_(-torch.inf)
    near_FR, who_FR = cosine_FF.topk(min(neighbours, len(h_FD) - 1))
    votes_FL = torch.zeros(len(h_FD), int(labels_F.max()) + 1, device=h_FD.device)
    votes_FL.scatter_add_(1, labels_F[who_FR], (near_FR / _TEMPERATURE).exp())
    return float((votes_FL.argmax(1) == labels_F).float().mean())


def _count(codes_NQ: Tensor, labels_N: Tensor, codes: int) -> Tensor:
    """How often each code comes with each label, float64 `(Q, K, L)`."""
    labels, levels = int(labels_N.max()) + 1, codes_NQ.shape[-1]
    slot_NQ = (codes_NQ + torch.arange(levels, device=codes_NQ.device) * codes) * labels + labels_N[:, None]
    return torch.bincount(slot_NQ.flatten(), minlength=levels * codes * labels).view(levels, codes, labels).double()
