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
    rate_hz: Annotated[int, Field(ge=LEAST_HZ, le=MOST_HZ)] = AUDIO_HZ  # sampling rate; all audio is resampled to it
    mel_bins: Size = 128  # bands of the spectrogram, a multiple of patch_mels
    low_hz: Annotated[float, Field(ge=0.0)] = 20.0  # lower edge of the mel bands
    high_hz: Annotated[float, Field(ge=0.0)] = 0.0  # upper edge of the mel bands; 0 is half of rate_hz
    frames: Size = 1024  # 10 ms each; longer clips are cropped, shorter ones padded and masked
    patch_frames: Size = 16  # length of a patch, in these frames
    patch_mels: Size = 16  # height of a patch, in bands
    normalise: Literal["corpus", "clip"] = "corpus"  # clip: mean 0 and variance 1 in each clip
    # With `normalise: clip`: dynamic range below the clip's largest energy; samples may have any scale. Null: as in
    # models before 2026-12, samples are clipped to [-1, 1] in 16 bits, energies to 1.2e-7.
    range_db: Annotated[float, Field(gt=0.0)] | None = None
    roll: bool = True  # augmentation: shift in time, wrapping around
    gain_db: Annotated[float, Field(ge=0.0)] = 6.0  # augmentation: gain, uniform in +- this

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
    size: Size = 224  # image side in pixels, a multiple of patch
    patch: Size = 16  # patch side in pixels
    crop_scale: Share = 0.2  # augmentation: smallest fraction of the area of a random crop; 1: off
    flip: bool = True  # augmentation: mirrored left to right with probability 0.5

    @model_validator(mode="after")
    def _divisible(self) -> ImagePatches:
        if self.size % self.patch:
            raise ValueError(f"size {self.size} is not a multiple of patch {self.patch}")
        return self


class VideoPatches(Section):
    """Every `stride`-th frame -> `size` x `size` -> tubelets of `tubelet` frames x `patch` x `patch` pixels."""

    modality: Literal["video"] = "video"
    frames: Size = 16  # frames of a window, a multiple of tubelet
    stride: Size = 4  # use every n-th frame of the video
    size: Size = 224  # image side in pixels, a multiple of patch
    tubelet: Size = 2  # length of a patch, in frames of the window
    patch: Size = 16  # patch side in pixels
    crop_scale: Share = 0.5  # augmentation: smallest fraction of the area of a random crop; 1: off
    flip: bool = True  # augmentation: mirrored left to right with probability 0.5
    # Factor on each frame's difference from its tubelet's mean frame; 1: off. Changes are a small part of a video's
    # variance: with plain pixels codes and features describe what does not move.
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

    width: Size = 768  # width of the features, a multiple of heads
    depth: Size = 12  # blocks
    heads: Size = 12  # attention heads of each block
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
    commitment: Annotated[float, Field(ge=0.0)] = 0.25  # weight of the commitment loss
    level_weights: Literal["uniform", "energy"] = "uniform"  # weights of the levels in the encoder's cross-entropy
    standardise: bool = True  # normalise z and the estimator's targets to mean 0 and deviation 1 over batches


class QuantizerSection(Section):
    """Residual quantizer: `levels` (Q) codebooks of `codes` (K) vectors of `width` (C)."""

    levels: Size = 4  # codes per patch; each encodes the residual of those before
    codes: Annotated[int, Field(ge=2, le=65536)] = 256  # vectors in each codebook
    width: Size = 256  # width of these vectors
    learn: Literal["ema", "gradient"] = "ema"  # how the learned tokenizer's codebooks are updated
    decay: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.99  # decay of the moving averages (ema)
    dead_below: Share = 0.3  # replace a code used less than this fraction of its expected usage 1/K
    kmeans_iterations: Positive = 10  # k-means iterations that initialise codebooks
    cold_components: Positive | None = None  # cold start: number of leading principal components kept; null: all
    # Cold start: whitening of these components; 0: none, 0.5: full.
    cold_whitening: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0


class MaskSection(Section):
    """Which patches the encoder does not see."""

    # random: single patches; tube: the same rows and columns at all times; block: rectangles.
    shape: Literal["random", "tube", "block"] = "random"
    ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.8  # fraction of a clip's patches that are masked
    per_clip: Positive = 1  # masks per clip, sharing one tokenizer pass
    predict: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0  # fraction of the masked patches whose codes are predicted


class OptimSection(Section):
    """AdamW with warm-up and cosine to zero in each phase."""

    batch_size: Positive = 1024  # clips per step
    lr: Rate = 5e-4  # peak learning rate of encoder and predictor
    tokenizer_lr: Rate = 2e-4  # peak learning rate of tokenizer and estimator
    beta1: Share = 0.9  # AdamW: decay of the average of gradients
    beta2: Share = 0.95  # AdamW: decay of the average of squared gradients
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-4  # weight decay of matrices
    warmup: Share = 0.1  # fraction of a phase's steps
    clip_norm: Annotated[float, Field(gt=0.0)] = 3.0  # maximum norm of gradients
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # decay of a moving average of the encoder for use; 0: none


class ScheduleSection(Section):
    """The order and length of the phases, in epochs; `--steps`, `--epochs` and `--max-minutes` rescale the whole.

    Joint mode is one phase, as long as all of these together.
    """

    mode: Literal["interleaved", "joint"] = "interleaved"  # tokenizer and encoder in turn, or both at once
    turns: Annotated[int, Field(ge=0, le=1000)] = 1  # number of tokenizer + encoder phases after the cold start
    cold: Annotated[Epochs, Field(gt=0.0)] = 100.0  # the encoder predicts codes of a random projection of the patches
    tokenizer: Annotated[Epochs, Field(gt=0.0)] = 25.0  # each
    encoder: Epochs = 100.0  # each; 0: end with the tokenizer phase
    restart: bool = False  # start each encoder phase with a new encoder
    joint_every: Positive = 4  # joint mode: tokenizer loss every n-th step ...
    joint_weight: Rate = 0.2  # ... with this weight


class TrainSection(Section):
    """How the loop runs; nothing here changes what is learned, but for the seed and the precision."""

    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] = 0  # seed of every random choice
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 if supported
    # Micro-batch: clips computed at once per device, accumulating gradients. Null: all; auto: as many as fit. Results
    # are equal except for the tokenizer's standardisation.
    part: Positive | Literal["auto"] | None = None
    recompute: bool = False  # gradient checkpointing: less memory, more time
    compile: bool = False  # torch.compile for the blocks
    # Shard weights, gradients and moments over devices (FSDP2), for encoders that do not fit on one.
    shard_weights: bool = False
    log_every: Positive = 10  # steps
    checkpoint_every: Positive = 500  # steps
    keep: Positive = 2  # number of checkpoints kept
    tracker: Literal["none", "tensorboard", "wandb"] = "none"  # besides metrics.jsonl; needs the extra of that name
    probe_every: Count = 500  # steps between online probes on labelled clips, if any; 0: never
    probe_clips: Positive = 500  # maximum number of clips in a probe


class DataSection(Section):
    """How clips are read."""

    workers: Count = 0  # decoding processes; 0 decodes in the training process
    cache_gb: Annotated[float, Field(ge=0.0)] = 2.0  # keep decoded clips in memory if all fit
    # Set name -> sampling weight; sets not named have weight 1. Empty: all clips have equal weight.
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
