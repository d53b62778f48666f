"""Labels of clips as numbers: one class each, or any number of classes.

Shapes: N clips, L classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Rows = np.ndarray | Tensor | slice


@dataclass(frozen=True, slots=True)
class Truth:
    """What the clips are.

    Attributes:
        classes: names, in the order of the numbers.
        y: the class of each clip, int64 `(N,)`; with several classes a clip which of them, bool `(N, L)`.
    """

    classes: list[str]
    y: Tensor

    @classmethod
    def of(cls, labels: Sequence[Sequence[str]], classes: Sequence[str] | None = None, *, multi: bool) -> Truth:
        """Numbers for names; the classes are all that occur, sorted, unless a list of them is given."""
        names = list(classes) if classes else sorted({name for several in labels for name in several})
        number = {name: at for at, name in enumerate(names)}
        if not multi:
            return cls(names, torch.tensor([number[only] for (only,) in labels], dtype=torch.int64))
        y_NL = torch.zeros(len(labels), len(names), dtype=torch.bool)
        for row, several in enumerate(labels):
            y_NL[row, [number[name] for name in several]] = True
        return cls(names, y_NL)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: Rows) -> Truth:
        return replace(self, y=self.y[torch.as_tensor(rows) if isinstance(rows, np.ndarray) else rows])

    @property
    def multi(self) -> bool:
        """Whether a clip may have several classes, or none."""
        return self.y.ndim == 2

    def shares(self, rows: Rows) -> Tensor:
        """What a classifier should say of some clips, float32, classes last."""
        rows = torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows
        return self.y[rows].float() if self.multi else F.one_hot(self.y[rows], len(self.classes)).float()

    def loss(self, scores_NL: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy; with several classes a clip the mean binary one of every class."""
        y = self.y.to(scores_NL.device)
        if self.multi:
            return F.binary_cross_entropy_with_logits(scores_NL, y.float())
        return F.cross_entropy(scores_NL, y, label_smoothing=smoothing)
