"""The typed configuration: one class a section, defaults are the paper's base recipe (arXiv 2502.02118).

Precedence, lowest first: preset, `--config file.yaml`, `--set section.key=value`, flag (see `loading.py`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0.0)]


class Section(BaseModel):
    """Unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AudioPatches(Section):
    """Waveform -> log-mel spectrogram -> rectangles of `patch_frames` x `patch_mels`."""

    modality: Literal["audio"] = "audio"
    rate_hz: Literal[16000] = 16000  # what all sound is resampled to
    mel_bins: Positive = 128
    high_hz: Annotated[float, Field(ge=0.0)] = 0.0  # upper edge of the mel bands; 0 is half of rate_hz
    frames: Positive = 1024  # 10 ms each; longer clips are cropped, shorter ones masked, never learned
    patch_frames: Positive = 16
    patch_mels: Positive = 16
    normalise: Literal["corpus", "clip"] = "corpus"  # clip: mean 0 and variance 1 in each clip
    roll: bool = True  # augmentation: shift in time, wrapping around
    gain_db: Annotated[float, Field(ge=0.0)] = 6.0  # augmentation: uniform in +- this

    @model_validator(mode="after")
    def _divisible(self) -> AudioPatches:
        if self.frames < self.patch_frames:
            raise ValueError(f"frames {self.frames} is less than patch_frames {self.patch_frames}")
        if self.high_hz and not 20 < self.high_hz <= self.rate_hz / 2:
            raise ValueError(f"high_hz {self.high_hz} is not between 20 and {self.rate_hz / 2:.0f} (0: the latter)")
        if self.mel_bins % self.patch_mels:
            raise ValueError(f"mel_bins {self.mel_bins} is not a multiple of patch_mels {self.patch_mels}")
        return self


class ImagePatches(Section):
    """RGB -> `size` x `size` -> squares of `patch` pixels."""

    modality: Literal["image"] = "image"
    size: Positive = 224
    patch: Positive = 16
    crop_scale: Share = 0.2  # augmentation: smallest share of the area a random crop keeps; 1 = off
    flip: bool = True

    @model_validator(mode="after")
    def _divisible(self) -> ImagePatches:
        if self.size % self.patch:
            raise ValueError(f"size {self.size} is not a multiple of patch {self.patch}")
        return self


class VideoPatches(Section):
    """Every `stride`-th frame -> `size` x `size` -> tubelets of `tubelet` frames x `patch` x `patch` pixels."""

    modality: Literal["video"] = "video"
    frames: Positive = 16
    stride: Positive = 4
    size: Positive = 224
    tubelet: Positive = 2
    patch: Positive = 16
    crop_scale: Share = 0.5
    flip: bool = True
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

    width: Positive = 768
    depth: Positive = 12
    heads: Positive = 12
    mlp_ratio: Rate = 4.0

    @model_validator(mode="after")
    def _divisible(self) -> EncoderSection:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class PredictorSection(EncoderSection):
    """Visible features + mask tokens -> logits of the masked patches' codes."""

    width: Positive = 512
    depth: Positive = 8
    heads: Positive = 16


class TokenizerSection(Section):
    """The tokenizer's own encoder; `null` takes the encoder's value."""

    depth: Positive | None = None
    estimator_depth: Positive = 3
    commitment: Annotated[float, Field(ge=0.0)] = 0.25
    level_weights: Literal["uniform", "energy"] = "uniform"  # of the levels in the encoder's cross-entropy
    standardise: bool = True  # z and the estimator's targets get mean 0 and deviation 1 over the batches


class QuantizerSection(Section):
    """Residual quantizer: `levels` (Q) codebooks of `codes` (K) vectors of `width` (C)."""

    levels: Positive = 4
    codes: Annotated[int, Field(ge=2, le=65536)] = 256
    width: Positive = 256
    learn: Literal["ema", "gradient"] = "ema"  # how the learned tokenizer's codebooks move
    decay: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.99
    dead_below: Share = 0.3  # replace a code used less than this share of its expected usage 1/K
    kmeans_iterations: Positive = 10
    # cold start: leading principal components of the patches that are kept (null: all), and how far their
    # variances are levelled (0 not at all, 0.5 fully whitened)
    cold_components: Positive | None = None
    cold_whitening: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0


class MaskSection(Section):
    """Which patches the encoder does not see."""

    shape: Literal["random", "tube", "block"] = "random"
    ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.8
    per_clip: Positive = 1  # masks a clip that share one tokenizer pass
    predict: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0  # share of the hidden patches whose codes are predicted


class OptimSection(Section):
    """AdamW with warm-up and cosine to zero in each phase."""

    batch_size: Positive = 1024  # clips a step
    lr: Rate = 5e-4
    tokenizer_lr: Rate = 2e-4
    beta1: Share = 0.9
    beta2: Share = 0.95
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-4
    warmup: Share = 0.1  # share of a phase's steps
    clip_norm: Annotated[float, Field(gt=0.0)] = 3.0
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # decay of an average of the encoder that all use sees; 0: none


class ScheduleSection(Section):
    """The order and length of the phases, in epochs; `--steps`, `--epochs` and `--max-minutes` rescale the whole.

    Joint mode is one phase, as long as all of these together.
    """

    mode: Literal["interleaved", "joint"] = "interleaved"
    turns: Count = 1  # tokenizer + encoder phases after the cold start
    cold: Rate = 100.0
    tokenizer: Rate = 25.0  # each
    encoder: Annotated[float, Field(ge=0.0)] = 100.0  # each; 0 leaves it out: the tokenizer has the last word
    restart: bool = False  # an encoder phase begins with a new encoder instead of going on with the one before
    joint_every: Positive = 4  # joint mode: tokenizer loss every n-th step ...
    joint_weight: Rate = 0.2  # ... with this weight


class TrainSection(Section):
    """How the loop runs; nothing here changes what is learned, but for the seed and the precision."""

    seed: Count = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    # Clips a device computes at once; a step adds up their gradients. Null: all it has; auto: as many as fit. Only the
    # tokenizer's standardising tells parts from the whole.
    part: Positive | Literal["auto"] | None = None
    recompute: bool = False  # activations of a block are computed again for its gradient: less memory, more time
    compile: bool = False  # blocks through torch.compile
    # Each of several devices holds a part of the weights, gradients and moments (FSDP2), for encoders that do not fit.
    shard_weights: bool = False
    log_every: Positive = 10
    checkpoint_every: Positive = 500  # steps
    keep: Positive = 2  # checkpoints
    tracker: Literal["none", "tensorboard", "wandb"] = "none"  # besides metrics.jsonl; extras of the same names
    probe_every: Count = 500  # steps between two looks at labelled clips, if there are any; 0: never
    probe_clips: Positive = 500


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
