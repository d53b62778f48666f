"""Makes the raw sample in this folder from the project's data folder: `python tests/media/make_sample.py DATA`.

The same input gives the same files. Sources, authors and licences: LICENSES.md.
"""

from __future__ import annotations

import shutil
import sys
from itertools import product
from pathlib import Path

import av
import numpy as np
from PIL import Image

HERE = Path(__file__).parent
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
TAKES = 5
IMAGES_PER_PHOTO = 20
IMAGE_SIDE = 80
CLIPS_PER_MOTION = 36
VIDEO_SIDE = 64
FRAMES, FPS = 24, 12
MOTIONS = {  # (right, down) in shares of the view, and zoom, over the whole clip
    "pan_left": (-0.6, 0.0, 1.0),
    "pan_right": (0.6, 0.0, 1.0),
    "zoom_in": (0.0, 0.0, 0.5),
    "zoom_out": (0.0, 0.0, 2.0),
}


def copy_digits(source: Path, out: Path) -> None:
    """A few takes of each digit by each of the six speakers."""
    for digit, speaker, take in product(range(10), SPEAKERS, range(TAKES)):
        target = out / str(digit) / f"{digit}_{speaker}_{take}.wav"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / str(digit) / target.name, target)
        target.chmod(0o644)


def cut_images(photos: list[Path], out: Path, rng: np.random.Generator) -> None:
    """Random squares, a sixth to a half of the photo's short side, in a folder a photo."""
    for path in photos:
        photo = Image.open(path).convert("RGB")
        (out / path.stem).mkdir(parents=True)
        for number in range(IMAGES_PER_PHOTO):
            side = rng.uniform(1 / 6, 1 / 2) * min(photo.size)
            left, top = rng.uniform(0, photo.width - side), rng.uniform(0, photo.height - side)
            crop = _view(photo, left + side / 2, top + side / 2, side, IMAGE_SIDE)
            crop.save(out / path.stem / f"{path.stem}_{number:02d}.jpg", quality=80)


def film_photos(photos: list[Path], out: Path, rng: np.random.Generator) -> None:
    """A virtual camera over the photos, in a folder a motion."""
    for motion, (right, down, zoom) in MOTIONS.items():
        (out / motion).mkdir(parents=True)
        for number in range(CLIPS_PER_MOTION):
            path = photos[number % len(photos)]
            photo = Image.open(path).convert("RGB")
            start = rng.uniform(0.25, 0.4) * min(photo.size) / max(zoom, 1.0)
            reach = start * max(zoom, 1.0) / 2 + abs(right) * start / 2
            x, y = (rng.uniform(reach, size - reach) for size in photo.size)
            frames = []
            for time in np.linspace(0.0, 1.0, FRAMES):
                centre = x + right * start * (time - 0.5), y + down * start * (time - 0.5)
                frames.append(_view(photo, *centre, start * zoom**time, VIDEO_SIDE))
            _write_video(out / motion / f"{path.stem}_{number // len(photos)}.mp4", frames)


def _view(photo: Image.Image, x: float, y: float, side: float, pixels: int) -> Image.Image:
    box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
    return photo.resize((pixels, pixels), Image.Resampling.LANCZOS, box=box)


def _write_video(path: Path, frames: list[Image.Image]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "22", "threads": "1", "preset": "slow"})
        stream.width = stream.height = VIDEO_SIDE
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def main(data: Path) -> None:
    """Replace the sample."""
    for modality in ("audio", "image", "video"):
        shutil.rmtree(HERE / modality, ignore_errors=True)
    photos = sorted((data / "photos").glob("*.jpg"))
    copy_digits(data / "audio_digits", HERE / "audio")
    cut_images(photos, HERE / "image", np.random.default_rng(0))
    film_photos(photos, HERE / "video", np.random.default_rng(1))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/media/make_sample.py DATA")
    main(Path(sys.argv[1]))
