"""Videos -> the inputs of a BRIDLE model, by `preprocess.py`."""

import os

import numpy as np
from transformers import BatchFeature
from transformers.video_processing_utils import BaseVideoProcessor

from .pixels import video as frames_of  # type: ignore[import-not-found]  # of `bridle.media`; beside this file there
from .preprocess import rows


class BridleVideoProcessor(BaseVideoProcessor):
    """Args:
    settings: what `preprocess.py` works by.
    windows: "first" gives each video a row of its first window; "all" a row for each of the windows that cover it.
    """

    model_input_names = ["patches", "coords", "valid"]  # noqa: RUF012 (as in all of transformers)

    def __init__(self, settings: dict, windows: str = "first", **kwargs):
        super().__init__(**kwargs)
        self.settings, self.windows = settings, windows

    def __call__(self, videos, return_tensors=None, padding=True, windows=None, **unused):
        """`patches`, `coords` and `valid` of one video or several.

        Args:
            videos: paths, or all frames as uint8 RGB arrays or tensors `(time, height, width, 3)` or
                `(time, 3, height, width)`: frames are chosen here.
            padding: "max_length" makes rows of a full window, so that those of several calls can be stacked.
        """
        media = [_frames(video) for video in (videos if isinstance(videos, list | tuple) else [videos])]
        data = rows(media, self.settings, windows or self.windows, padding == "max_length")
        return BatchFeature(data, tensor_type=return_tensors)

    def preprocess(self, videos, **kwargs):
        """The same as to call it."""
        return self(videos, **kwargs)


def _frames(video) -> np.ndarray:
    if isinstance(video, str | os.PathLike):
        return frames_of(video)
    array = np.asarray(video)
    first = array.ndim == 4 and array.shape[1] == 3 and array.shape[-1] != 3
    return np.moveaxis(array, 1, -1) if first else array
