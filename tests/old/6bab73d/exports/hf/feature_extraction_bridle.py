"""Sound -> the inputs of a BRIDLE model, by `preprocess.py`."""

import numpy as np
from transformers import BatchFeature, FeatureExtractionMixin

from .preprocess import check_rate, rows


class BridleFeatureExtractor(FeatureExtractionMixin):
    """Args:
    settings: what `preprocess.py` works by.
    windows: "first" gives each sound a row of its first window; "all" a row for each of the windows that cover it.
    """

    model_input_names = ["patches", "coords", "valid"]  # noqa: RUF012 (as in all of transformers)

    def __init__(self, settings: dict, windows: str = "first", **kwargs):
        super().__init__(**kwargs)
        self.settings, self.windows = settings, windows
        self.sampling_rate = int(settings["patches"]["rate_hz"])

    def __call__(
        self, raw_speech, sampling_rate: int | None = None, return_tensors=None, padding=True, windows=None, **unused
    ):
        """`patches`, `coords` and `valid` of one sound or several.

        Args:
            raw_speech: mono waveforms `(samples,)` in [-1, 1], or 16- or 32-bit integers.
            sampling_rate: theirs; it must be `self.sampling_rate`, resampling is yours.
            padding: "max_length" makes rows of a full window, so that those of several calls can be stacked.
        """
        check_rate(sampling_rate, self.settings)
        one = not isinstance(raw_speech, list | tuple) or (len(raw_speech) > 0 and np.ndim(raw_speech[0]) == 0)
        media = [_waveform(sound) for sound in ([raw_speech] if one else raw_speech)]
        data = rows(media, self.settings, windows or self.windows, padding == "max_length")
        return BatchFeature(data, tensor_type=return_tensors)


def _waveform(sound) -> np.ndarray:
    """float32; integers are scaled to [-1, 1]."""
    wave_S = np.asarray(sound)
    if wave_S.dtype in (np.int16, np.int32):
        return (wave_S / -float(np.iinfo(wave_S.dtype).min)).astype(np.float32)
    return wave_S.astype(np.float32) if np.issubdtype(wave_S.dtype, np.floating) else wave_S
