"""Images -> the inputs of a BRIDLE model, by `preprocess.py`."""

import os

import numpy as np
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from .pixels import picture  # type: ignore[import-not-found]  # of `bridle.media`; beside this file in an export
from .preprocess import pixel_rules, rows


class BridleImageProcessor(BaseImageProcessor):
    """Args:
    settings: what `preprocess.py` works by.
    """

    model_input_names = ["patches", "coords", "valid"]  # noqa: RUF012 (as in all of transformers)

    def __init__(self, settings: dict, **kwargs):
        super().__init__(**kwargs)
        self.settings = settings

    def __call__(self, images, return_tensors=None, **unused):
        """`patches`, `coords` and `valid` of one image or several, of any size.

        Args:
            images: paths, images of PIL, or uint8 RGB arrays or tensors `(height, width, 3)` or `(3, height, width)`.
        """
        rules = pixel_rules(self.settings)
        media = [_pixels(image, rules) for image in (images if isinstance(images, list | tuple) else [images])]
        return BatchFeature(rows(media, self.settings), tensor_type=return_tensors)

    def preprocess(self, images, **kwargs):
        """The same as to call it."""
        return self(images, **kwargs)


def _pixels(image, rules) -> np.ndarray:
    if isinstance(image, str | os.PathLike | Image.Image):
        return picture(image, rules)
    array = np.asarray(image)
    first = array.ndim == 3 and array.shape[0] == 3 and array.shape[-1] != 3
    return np.moveaxis(array, 0, -1) if first else array
