"""From a raw batch to what a model is given, on device and inside the train step: log-mel, frames, augmentation."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from avjax.data.augment import (
    ColourJitter,
    Crop,
    Mixup,
    ModalityDropout,
    PixelNoise,
    SoftHard,
    SpecAugment,
    SpeedJitter,
    TemporalErasing,
    TimeShift,
    WaveformJitter,
    row_keys,
)
from avjax.data.logmel import LogMel, as_waveform
from avjax.data.triplets import Triplets
from avjax.streams import Batch, Stream


@dataclasses.dataclass(frozen=True)
class FrameNormalise:
    """Frames uint8 [B, T, H, W, C], or float on [0, 1], to (frames - mean) / std in float32.

    Attributes:
      mean, std: one number for all channels or one a channel, of pixels on [0, 1]. The defaults give [-1, 1].
      modality: name of the stream that it applies to.
    """

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    modality: str = "video"

    def __post_init__(self) -> None:
        if not all(std > 0 for std in self.std):
            raise ValueError(f"FrameNormalise.std is {self.std}; every entry must be above 0")

    def pixels(self, video: Stream) -> Stream:
        """The frames as float32 on [0, 1], 0 where nothing is valid."""
        if video.values.ndim != 5:
            raise ValueError(
                f"FrameNormalise wants frames [B, T, H, W, C] for stream {self.modality!r}; "
                f"it was given shape {video.values.shape}"
            )
        channels = video.values.shape[-1]
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, channels):
                raise ValueError(
                    f"FrameNormalise.{name} has {len(numbers)} entries for the {channels} channels of stream "
                    f"{self.modality!r}; give one, or one a channel"
                )
        if video.values.dtype == jnp.uint8:
            values = jnp.asarray(video.values, jnp.float32) / 255
        elif jnp.issubdtype(video.values.dtype, jnp.floating):
            values = jnp.asarray(video.values, jnp.float32)
        else:
            raise ValueError(f"Frames are uint8 or float on [0, 1]; stream {self.modality!r} is {video.values.dtype}")
        return video.replace(values=_where_valid(video, values))

    def normalise(self, video: Stream) -> Stream:
        """(pixels - mean) / std, 0 where nothing is valid."""
        values = (video.values - jnp.asarray(self.mean, jnp.float32)) / jnp.asarray(self.std, jnp.float32)
        return video.replace(values=_where_valid(video, values))

    def __call__(self, video: Stream) -> Stream:
        return self.normalise(self.pixels(video))


@dataclasses.dataclass(frozen=True)
class Augment:
    """What is drawn anew at each step; None leaves a kind out. Each has its own docstring.

    Attributes:
      speed, waveform, shift: before the log-mel, in this order. spectrogram: after it.
      crop, colour, noise: on pixels in [0, 1], in this order, before they are normalised.
      mixup: on the features of both, and on the targets.
      erasing, dropout: last, steps of time and whole modalities that a row loses.
    """

    speed: SpeedJitter | None = None
    waveform: WaveformJitter | None = None
    shift: TimeShift | None = None
    spectrogram: SpecAugment | None = None
    crop: Crop | None = None
    colour: ColourJitter | None = None
    noise: PixelNoise | None = None
    mixup: Mixup | None = None
    erasing: TemporalErasing | None = None
    dropout: ModalityDropout | SoftHard | None = None


@dataclasses.dataclass(frozen=True)
class Frontend:
    """What an experiment configures: how each raw stream becomes features, and how they are augmented in training.

    A stream that neither entry names passes through as it is, half precision made single: features of a network, say.
    A missing modality stays missing, with values 0.

    Attributes:
      audio: waveform to log-mel, or None to leave it alone.
      video: frames to floats, or None to leave them alone.
      triplets: makes every voice's two faces of the features of a batch; None leaves clips as they are.
      augment: for training, or None. It touches the streams that ``audio`` and ``video`` name, and the targets; what is
        done to whole records (mixup, erasing, dropout) also streams of features.
    """

    audio: LogMel | None = dataclasses.field(default_factory=LogMel)
    video: FrameNormalise | None = dataclasses.field(default_factory=FrameNormalise)
    augment: Augment | None = None
    triplets: Triplets | None = None

    def __post_init__(self) -> None:
        if self.audio is not None and self.video is not None and self.audio.modality == self.video.modality:
            raise ValueError(
                f"Frontend.audio and .video both name the stream {self.audio.modality!r}; give each its own"
            )

    def __call__(self, batch: Batch, key: jax.Array | None = None) -> Batch:
        """Raw batch to feature batch.

        Args:
          batch: waveforms [B, S] int16 or float with full scale 1; frames [B, T, H, W, C] uint8 or float on [0, 1].
          key: of this step (seed and step folded in); None, as in evaluation, does not augment.
        """
        augment = Augment() if self.augment is None or key is None else self.augment
        keys = None if key is None else row_keys(key, jnp.asarray(batch.index))
        streams = dict(batch.streams)
        made = []
        if self.audio is not None and self.audio.modality in streams:
            made.append(self.audio.modality)
            streams[made[-1]] = self._hear(streams[made[-1]], augment, keys)
        if self.video is not None and self.video.modality in streams:
            made.append(self.video.modality)
            streams[made[-1]] = self._see(streams[made[-1]], augment, keys)
        for name in sorted(streams.keys() - set(made)):
            if jnp.issubdtype(streams[name].values.dtype, jnp.floating):
                made.append(name)
                streams[name] = streams[name].replace(values=jnp.asarray(streams[name].values, jnp.float32))
        batch = batch.replace(streams=streams)
        for change in (augment.mixup, augment.erasing, augment.dropout):
            if change is not None:
                batch = change(batch, keys, made)
        return batch if self.triplets is None else self.triplets(batch, key)

    def _hear(self, audio: Stream, augment: Augment, keys: jax.Array | None) -> Stream:
        for change in (augment.speed, augment.waveform, augment.shift):
            if change is not None:
                audio = change(audio.replace(values=as_waveform(audio.values)), keys)
        spectrogram = self.audio(audio)
        return spectrogram if augment.spectrogram is None else augment.spectrogram(spectrogram, keys)

    def _see(self, video: Stream, augment: Augment, keys: jax.Array | None) -> Stream:
        video = self.video.pixels(video)
        for change in (augment.crop, augment.colour, augment.noise):
            if change is not None:
                video = change(video, keys)
        return self.video.normalise(video)


def _where_valid(stream: Stream, values: jax.Array) -> jax.Array:
    return jnp.where(jnp.expand_dims(stream.valid, tuple(range(2, values.ndim))), values, 0)
