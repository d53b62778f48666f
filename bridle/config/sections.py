"""The typed configuration: one class a section, defaults are the paper's base recipe (arXiv 2502.02118).

Precedence, lowest first: preset, `--config file.yaml`, `--set section.key=value`, flag (see `loading.py`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from bridle.config import MOST_SEED
from bridle.schema import AUDIO_HZ

Share = Annotated[float, Field(ge=0.0, le=1.0)]
_MOST = 2**63 - 1  # what a tensor holds
Positive = Annotated[int, Field(gt=0, le=_MOST)]
Count = Annotated[int, Field(ge=0, le=_MOST)]
Rate = Annotated[float, Field(gt=0.0)]
_MOST_SIZE = 2**20
Size = Annotated[int, Field(gt=0, le=_MOST_SIZE)]  # of a network or clip: bytes of any two multiplied are below 2**63
LEAST_HZ, MOST_HZ = 2000, 500_000  # of audio
Epochs = Annotated[float, Field(ge=0.0, le=1e12)]


class Section(BaseModel):
    """Unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AudioPatches(Section):
    """Waveform -> log-mel spectrogram -> rectangles of `patch_frames` x `patch_mels`."""

    modality: Literal["audio"] = "audio"
    rate_hz: Annotated[int, Field(ge=LEAST_HZ, le=MOST_HZ)] = AUDIO_HZ  # that all audio is resampled to
    mel_bins: Size = 128  # bands of the spectrogram, a multiple of patch_mels
    low_hz: Annotated[float, Field(ge=0.0)] = 20.0  # lower edge of the mel bands
    high_hz: Annotated[float, Field(ge=0.0)] = 0.0  # upper edge of the mel bands; 0 is half of rate_hz
    frames: Size = 1024  # 10 ms each; longer clips are cropped, shorter ones masked, never learned
    patch_frames: Size = 16  # a patch in time, in these frames
    patch_mels: Size = 16  # a patch in frequency, in bands
    normalise: Literal["corpus", "clip"] = "corpus"  # clip: mean 0 and variance 1 in each clip
    # With `normalise: clip`: energies further below the clip's largest are raised to that level, and samples may have
    # any scale. Null: as models before 2026-12, samples are clipped to [-1, 1] in 16 bits, energies to 1.2e-7.
    range_db: Annotated[float, Field(gt=0.0)] | None = None
    roll: bool = True  # augmentation: shift in time, wrapping around
    gain_db: Annotated[float, Field(ge=0.0)] = 6.0  # augmentation: uniform in +- this

    @property
    def exact(self) -> bool:
        """Samples may have any scale, in float32; else they are rounded to 16 bits in [-1, 1]."""
        return self.normalise == "clip" and self.range_db is not None

    @model_validator(mode="after")
    def _divisible(self) -> AudioPatches:
        if self.frames < self.patch_frames:
            raise ValueError(f"frames {self.frames} is less than patch_frames {self.patch_frames}")
        if not self.low_hz < (self.high_hz or self.rate_hz / 2) <= self.rate_hz / 2:
            band = f"low_hz {self.low_hz:g} and {self.rate_hz / 2:.0f}, half of rate_hz"
            raise ValueError(f"high_hz {self.high_hz:g} is not between {band} (0: the latter)")
        if self.normalise == "corpus" and self.rate_hz != AUDIO_HZ:
            raise ValueError(f"normalise: corpus needs rate_hz {AUDIO_HZ}, of the shards' statistics; choose clip")
        if self.mel_bins % self.patch_mels:
            raise ValueError(f"mel_bins {self.mel_bins} is not a multiple of patch_mels {self.patch_mels}")
        return self


class ImagePatches(Section):
    """RGB -> `size` x `size` -> squares of `patch` pixels."""

    modality: Literal["image"] = "image"
    size: Size = 224  # pixels of a side, a multiple of patch
    patch: Size = 16  # pixels of a patch's side
    crop_scale: Share = 0.2  # augmentation: smallest share of the area a random crop keeps; 1 = off
    flip: bool = True  # augmentation: mirrored left to right, one in two

    @model_validator(mode="after")
    def _divisible(self) -> ImagePatches:
        if self.size % self.patch:
            raise ValueError(f"size {self.size} is not a multiple of patch {self.patch}")
        return self


class VideoPatches(Section):
    """Every `stride`-th frame -> `size` x `size` -> tubelets of `tubelet` frames x `patch` x `patch` pixels."""

    modality: Literal["video"] = "video"
    frames: Size = 16  # of a window, a multiple of tubelet
    stride: Size = 4  # one in so many frames of the video is taken
    size: Size = 224  # pixels of a side, a multiple of patch
    tubelet: Size = 2  # a patch in time, in frames of the window
    patch: Size = 16  # pixels of a patch's side
    crop_scale: Share = 0.5  # augmentation: smallest share of the area a random crop keeps; 1 = off
    flip: bool = True  # augmentation: mirrored left to right, one in two
    # How much each frame's difference from its tubelet's mean frame is enlarged; 1 leaves the pixels as they are. What
    # changes is a small part of a video's variance: plain pixels make codes and features of what stands still.
    motion_gain: Rate = 1.0

    @model_validator(mode="after")
    def _divisible(self) -> VideoPatches:
        if self.size % self.patch:
            raise ValueError(f"size {self.size} is not a multiple of patch {self.patch}")
        if self.frames % self.tubelet:
            raise ValueError(f"frames {self.frames} is not a multiple of tubelet {self.tubelet}")
        return self


class EncoderSection(Section):
    """A pre-norm Vision Transformer; the tokenizer's own encoder has the same shape unless it says otherwise."""

    width: Size = 768  # of the features, a multiple of heads
    depth: Size = 12  # blocks
    heads: Size = 12  # of the attention in each block
    mlp_ratio: Rate = 4.0  # hidden width of a block's two linear layers, times width

    @model_validator(mode="after")
    def _divisible(self) -> EncoderSection:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if not 1 <= self.width * self.mlp_ratio <= _MOST_SIZE:
            raise ValueError(f"width {self.width} times mlp_ratio {self.mlp_ratio} is not within 1 and {_MOST_SIZE}")
        return self


class PredictorSection(EncoderSection):
    """Visible features + mask tokens -> logits of the masked patches' codes."""

    width: Size = 512
    depth: Size = 8
    heads: Size = 16


class TokenizerSection(Section):
    """The tokenizer's own encoder; `null` takes the encoder's value."""

    depth: Size | None = None  # blocks
    estimator_depth: Size = 3  # blocks of the estimator, which predicts the encoder's features from the codes
    commitment: Annotated[float, Field(ge=0.0)] = 0.25  # weight of what draws vectors towards their codes
    level_weights: Literal["uniform", "energy"] = "uniform"  # of the levels in the encoder's cross-entropy
    standardise: bool = True  # z and the estimator's targets get mean 0 and deviation 1 over the batches


class QuantizerSection(Section):
    """Residual quantizer: `levels` (Q) codebooks of `codes` (K) vectors of `width` (C)."""

    levels: Size = 4  # codes of a patch, each of what the ones before left over
    codes: Annotated[int, Field(ge=2, le=65536)] = 256  # vectors in each codebook
    width: Size = 256  # of these vectors
    learn: Literal["ema", "gradient"] = "ema"  # how the learned tokenizer's codebooks move
    decay: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.99  # of the moving averages (ema)
    dead_below: Share = 0.3  # replace a code used less than this share of its expected usage 1/K
    kmeans_iterations: Positive = 10  # with which codebooks begin
    cold_components: Positive | None = None  # cold start: leading principal components that are kept; null: all
    # Cold start: how far the variances of these are levelled; 0: not at all, 0.5: fully whitened.
    cold_whitening: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0


class MaskSection(Section):
    """Which patches the encoder does not see."""

    # random: single patches; tube: the same rows and columns at all times; block: rectangles.
    shape: Literal["random", "tube", "block"] = "random"
    ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.8  # share of a clip's patches that are hidden
    per_clip: Positive = 1  # masks a clip that share one tokenizer pass
    predict: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0  # share of the hidden patches whose codes are predicted


class OptimSection(Section):
    """AdamW with warm-up and cosine to zero in each phase."""

    batch_size: Positive = 1024  # clips a step
    lr: Rate = 5e-4  # highest rate of encoder and predictor
    tokenizer_lr: Rate = 2e-4  # highest rate of tokenizer and estimator
    beta1: Share = 0.9  # of AdamW: decay of the gradients' average
    beta2: Share = 0.95  # of AdamW: decay of their squares' average
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-4  # of matrices
    warmup: Share = 0.1  # share of a phase's steps
    clip_norm: Annotated[float, Field(gt=0.0)] = 3.0  # longer gradients are shortened to it
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # decay of an average of the encoder that all use sees; 0: none


class ScheduleSection(Section):
    """The order and length of the phases, in epochs; `--steps`, `--epochs` and `--max-minutes` rescale the whole.

    Joint mode is one phase, as long as all of these together.
    """

    mode: Literal["interleaved", "joint"] = "interleaved"  # tokenizer and encoder in turn, or both at once
    turns: Annotated[int, Field(ge=0, le=1000)] = 1  # tokenizer + encoder phases after the cold start
    cold: Annotated[Epochs, Field(gt=0.0)] = 100.0  # the encoder learns codes of the patches themselves
    tokenizer: Annotated[Epochs, Field(gt=0.0)] = 25.0  # each
    encoder: Epochs = 100.0  # each; 0 leaves it out: the tokenizer has the last word
    restart: bool = False  # an encoder phase begins with a new encoder instead of going on with the one before
    joint_every: Positive = 4  # joint mode: tokenizer loss every n-th step ...
    joint_weight: Rate = 0.2  # ... with this weight


class TrainSection(Section):
    """How the loop runs; nothing here changes what is learned, but for the seed and the precision."""

    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] = 0  # of every random choice
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where the device computes in it
    # Clips a device computes at once; a step adds up their gradients. Null: all it has; auto: as many as fit. Only the
    # tokenizer's standardising tells parts from the whole.
    part: Positive | Literal["auto"] | None = None
    recompute: bool = False  # activations of a block are computed again for its gradient: less memory, more time
    compile: bool = False  # blocks through torch.compile
    # Each of several devices holds a part of the weights, gradients and moments (FSDP2), for encoders that do not fit.
    shard_weights: bool = False
    log_every: Positive = 10  # steps
    checkpoint_every: Positive = 500  # steps
    keep: Positive = 2  # checkpoints
    tracker: Literal["none", "tensorboard", "wandb"] = "none"  # besides metrics.jsonl; extras of the same names
    probe_every: Count = 500  # steps between two looks at labelled clips, if there are any; 0: never
    probe_clips: Positive = 500  # that are looked at, at most


class DataSection(Section):
    """How clips are read."""

    workers: Count = 0  # decoding processes; 0 decodes in the training process
    cache_gb: Annotated[float, Field(ge=0.0)] = 2.0  # keep decoded clips in memory when they all fit
    # Set name -> how often it is drawn from; sets not named count 1. Empty: every clip alike, whatever its set.
    mix: dict[str, Annotated[float, Field(gt=0.0)]] = {}


class Config(Section):
    """The whole recipe of a run."""

    patches: Annotated[AudioPatches | ImagePatches | VideoPatches, Field(discriminator="modality")]
    encoder: EncoderSection = EncoderSection()
    predictor: PredictorSection = PredictorSection()
    tokenizer: TokenizerSection = TokenizerSection()
    quantizer: QuantizerSection = QuantizerSection()
    mask: MaskSection = MaskSection()
    optim: OptimSection = OptimSection()
    schedule: ScheduleSection = ScheduleSection()
    train: TrainSection = TrainSection()
    data: DataSection = DataSection()

    @model_validator(mode="after")
    def _together(self) -> Config:
        if self.train.shard_weights and self.quantizer.learn == "gradient":
            raise ValueError("train.shard_weights leaves codebooks whole: they cannot learn by gradient then")
        return self
