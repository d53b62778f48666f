"""Frames of uneven rate onto an even clock, so that frame number and time mean the same everywhere.

Shapes: T frames, as many on the clock as in the file.
"""

from __future__ import annotations

import numpy as np

_LONGEST_S, _FASTEST_HZ = 1e8, 1e4  # beyond these the times are damaged


def even_clock(times_T: np.ndarray, header_fps: float) -> tuple[float, np.ndarray]:
    """The rate of the clock, and the number of the frame on the screen at each of its ticks.

    Clips are tensors with one rate. Phones and screen recorders write frames when there is something to show: at the
    mean rate of the file, a tick shows the frame that was on the screen in the middle of the tick, so slow parts
    repeat frames and fast parts leave some out.

    Args:
        times_T: when each frame appears in seconds, in the order of showing; not finite or falling: not known.
        header_fps: the rate the file announces, taken as it is when the frames keep it.
    """
    ticks_T = np.arange(len(times_T))
    times_T = np.asarray(times_T, np.float64)
    if len(times_T) < 2 or not (np.abs(times_T) < _LONGEST_S).all() or (np.diff(times_T) < 0).any():
        return header_fps, ticks_T
    times_T = times_T - times_T[0]
    if np.abs(times_T * header_fps - ticks_T).max() < 0.5:
        return header_fps, ticks_T
    fps = (len(times_T) - 1) / max(times_T[-1], 1e-9)
    if fps > _FASTEST_HZ:
        return header_fps, ticks_T
    return float(fps), np.searchsorted(times_T * fps, ticks_T + 0.5, side="right") - 1
