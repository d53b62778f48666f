"""What the tokens themselves are worth: a file as a bag of codes, and as a sequence of codes.

Shapes: F files, N patches, Q levels, K codes, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bridle.evaluate.attentive import ragged
from bridle.evaluate.codebook import CodebookHealth
from bridle.evaluate.dataset import Labelled
from bridle.evaluate.features import Files, each_file, in_order
from bridle.evaluate.labels import Truth
from bridle.evaluate.probe import Trial, judge, probe_patches, probe_vectors
from bridle.evaluate.splits import Groups, Split
from bridle.infer import Failures, require_codes
from bridle.model import Bridle
from bridle.quantize import count_codes, mutual_information


@dataclass(slots=True)
class Codes:
    """Codes of every file.

    Attributes:
        rows: of each file codes `(N, Q)` and `(N, 3)` coordinates (time, row, column).
        size: K.
        health: of the codebooks, over the same files.
    """

    files: Files
    rows: list[tuple[Tensor, Tensor]]
    size: int
    health: CodebookHealth

    def bag_trial(self, truth: Truth, groups: Groups | None) -> Trial:
        """A linear layer on how often each code of each level occurs in a file."""
        return probe_vectors(self.bags_FQK.flatten(1), truth, groups, "linear")

    def report(
        self, truth: Truth, splits: Sequence[Split], groups: Groups | None, seeds: Sequence[int]
    ) -> dict[str, Any]:
        """`sequence`: the attentive probe on codes in their places. `per_level`: health of the codebook, `label_bits`
        that a code tells of its file's class (None where a file has several), and what the bag of that level alone is
        worth."""
        sequence = judge(truth, splits, probe_patches(ragged(self.rows), truth, codes=self.size), seeds)
        levels = self.health.report()
        bits = label_bits([codes_NQ for codes_NQ, _ in self.rows], truth, self.size)
        for level, bag_FK in enumerate(self.bags_FQK.unbind(1)):
            alone = judge(truth, splits, probe_vectors(bag_FK, truth, groups, "linear"), seeds[:1])
            levels[level] |= {"label_bits": bits[level], "bag": alone.value}
        return {
            "sequence": {"value": sequence.value, "ci95": list(sequence.ci95), "per_seed": sequence.per_seed},
            "patches": self.health.patches,
            "per_level": levels,
        }

    @property
    def bags_FQK(self) -> Tensor:
        """Square roots of the share that each code has of a file's codes at its level: distances are then those of
        Hellinger between distributions, which frequent codes do not rule."""
        count_FQK = torch.stack([count_codes(codes_NQ.long(), self.size) for codes_NQ, _ in self.rows])
        return (count_FQK / count_FQK.sum(-1, keepdim=True).clamp(min=1)).sqrt().float()


def extract_codes(model: Bridle, data: Labelled, *, workers: int = 0) -> Codes:
    """Codes of every labelled file.

    Raises:
        UsageError: a model without codes. DataError: without labels, or nothing could be read.
    """
    require_codes(model)
    quantizer = model.config.quantizer
    health, found, failures = CodebookHealth(quantizer.levels, quantizer.codes), [], Failures()
    for encoded in each_file(model, data, model.tokenize_detailed, failures, workers=workers):
        health.add(*encoded.outputs)
        found.append((encoded.source, (encoded.outputs[0].to(torch.int32), encoded.coords_N3.short())))
    return Codes(*in_order(found, failures), quantizer.codes, health)


def label_bits(codes_F: Sequence[Tensor], truth: Truth, codes: int) -> list[float | None]:
    """Bits that a code (of `(N, Q)` for each file) tells of its file's class, for each level; None where a file has
    several classes."""
    levels = codes_F[0].shape[-1]
    if truth.multi:
        return [None] * levels
    count_QKL = torch.zeros(levels, codes, len(truth.classes), dtype=torch.float64)
    for codes_NQ, label in zip(codes_F, truth.y.tolist(), strict=True):
        count_QKL[:, :, label] += count_codes(codes_NQ.long(), codes)
    return [float(bits) for bits in mutual_information(count_QKL)]
