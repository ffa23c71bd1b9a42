"""Log-mel filterbank energies on device, by Kaldi's definition (feature-fbank, feature-window, mel-computations)."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Num

from avjax.streams import Stream

FLOOR = float(np.finfo(np.float32).eps)  # Kaldi takes the logarithm of max(energy, epsilon of float32).

# Float32 products default to bfloat16 on TPU, which costs two digits of a log-mel cell.
PRECISION = jax.lax.Precision.HIGHEST

Taper = Literal["povey", "hamming", "hanning"]
Transform = Literal["auto", "rfft", "matrix"]


@dataclasses.dataclass(frozen=True)
class LogMel:
    """Waveform to normalised log-mel spectrogram.

    Each frame has its mean removed, is pre-emphasised, tapered, zero-padded to a power of two and transformed; the
    power spectrum (without its Nyquist bin, as in Kaldi) goes through triangular filters equally spaced in
    mel(f) = 1127 ln(1 + f / 700), then log(max(energy, 1.19e-7)), then (x - mean) / std. Only whole frames count
    (Kaldi's ``snip_edges``). At 128 bins and 16 kHz the lowest filters are narrower than the spacing of the transform
    and some hold no bin: their value is the constant log of the floor.

    Attributes:
      mels: number of filters, F.
      rate: samples per second that the waveform must have.
      window, hop: seconds.
      taper: Kaldi's "povey" (Hann to the power 0.85), "hamming" or "hanning", all symmetric.
      preemphasis: coefficient; the first sample of a frame is its own predecessor.
      low, high: edges of the filterbank in Hz.
      full_scale: what full scale, +-1, stands for before the floor. 1 is the habit of torchaudio's users (AST,
        CAV-MAE): the floor then lies near the rounding of 16-bit sound. 32768 is Kaldi's own.
      mean, std: of the normalisation. The defaults are AST's over AudioSet (arXiv:2104.01778, its released code, which
        divides by twice that std), for ``full_scale`` 1.
      per_clip: normalise by mean and standard deviation over the valid cells of each clip instead.
      transform: "rfft", "matrix" (the transform as a product with a constant matrix), or "auto": rfft on CPU, where
        it was measured to be faster (experiments/benchmarks/logmel.py), and matrix on every other platform, where
        products run on the matrix units and XLA does not split an FFT over devices. "auto" is settled when the
        program is lowered for its platform, so it holds for programs compiled ahead of time too.
      modality: name of the stream that it applies to.
    """

    mels: int = 128
    rate: int = 16_000
    window: float = 0.025
    hop: float = 0.010
    taper: Taper = "povey"
    preemphasis: float = 0.97
    low: float = 20.0
    high: float = 8_000.0
    full_scale: float = 1.0
    mean: float = -4.2677393
    std: float = 4.5689974
    per_clip: bool = False
    transform: Transform = "auto"
    modality: str = "audio"

    def __post_init__(self) -> None:
        for name, size in (("window", self.window_size), ("hop", self.hop_size), ("mels", self.mels)):
            if size < 1:
                raise ValueError(f"LogMel.{name} comes to {size}, at {self.rate} Hz; it must be at least 1")
        if not 0 <= self.low < self.high <= self.rate / 2:
            raise ValueError(
                f"LogMel wants 0 <= low < high <= rate / 2; low is {self.low}, high {self.high}, rate {self.rate}"
            )
        if self.taper not in ("povey", "hamming", "hanning"):
            raise ValueError(f"LogMel.taper is {self.taper!r}; name povey, hamming or hanning")
        if self.transform not in ("auto", "rfft", "matrix"):
            raise ValueError(f"LogMel.transform is {self.transform!r}; name auto, rfft or matrix")
        if not self.std > 0:
            raise ValueError(f"LogMel.std is {self.std}; it must be above 0")

    @property
    def window_size(self) -> int:
        """Samples of a frame."""
        return round(self.window * self.rate)

    @property
    def hop_size(self) -> int:
        """Samples from one frame to the next."""
        return round(self.hop * self.rate)

    @property
    def transform_size(self) -> int:
        """Points of the transform: the window's samples, zero-padded to a power of two."""
        return 2 ** max(1, math.ceil(math.log2(self.window_size)))

    def samples(self, frames: int) -> int:
        """Samples that hold exactly so many frames."""
        return 0 if frames <= 0 else self.window_size + self.hop_size * (frames - 1)

    def frames(self, samples: int) -> int:
        """Whole frames in so many samples."""
        return max(0, 1 + (samples - self.window_size) // self.hop_size)

    def __call__(self, audio: Stream) -> Stream:
        """Waveform [B, S], int16 or float with full scale 1, to normalised float32 [B, frames(S), F].

        A frame is valid where all its samples are; elsewhere its values are 0. Differentiable with respect to a float
        waveform (cells at the floor have gradient 0). Raises ValueError where the stream is no waveform of this rate.
        """
        if audio.values.ndim != 2 or audio.rate != self.rate:
            raise ValueError(
                f"LogMel wants a waveform [B, S] at {self.rate} Hz for stream {self.modality!r}; it was given shape "
                f"{audio.values.shape} at {audio.rate:g} Hz. Resample in `prepare`, or set LogMel.rate"
            )
        valid = _split(jnp.asarray(audio.valid), self.window_size, self.hop_size).all(-1)
        waveform = jnp.where(audio.valid, as_waveform(audio.values), 0)
        energies = self.energies(waveform)
        values = self.normalise(jnp.log(jnp.maximum(energies, FLOOR)), valid)
        return Stream(values, valid, audio.start, self.rate / self.hop_size)

    def energies(self, waveform: Float32[Array, "B S"]) -> Float32[Array, "B T F"]:
        """Energy in each filter, of a waveform with full scale 1."""
        frames = _split(waveform * self.full_scale, self.window_size, self.hop_size)
        # An offset must cancel exactly, or its rounding would stand above the floor: so the mean is removed here, not
        # in the matrix, and from the differences to the first sample, which are exact for 16-bit sound.
        frames = frames - frames[..., :1]
        frames = frames - frames.mean(-1, keepdims=True)
        previous = jnp.concatenate([frames[..., :1], frames[..., :-1]], -1)
        frames = frames - self.preemphasis * previous
        if self.transform == "auto":
            power = jax.lax.platform_dependent(frames, cpu=self._power_rfft, default=self._power_matrix)
        else:
            power = self._power_rfft(frames) if self.transform == "rfft" else self._power_matrix(frames)
        return jnp.matmul(power, jnp.asarray(self.filters(), jnp.float32), precision=PRECISION)

    def normalise(self, values: Float32[Array, "B T F"], valid: Bool[Array, "B T"]) -> Float32[Array, "B T F"]:
        """(values - mean) / std, by constants or by the clip's own, and 0 where nothing is valid."""
        here = valid[..., None]
        if self.per_clip:
            count = jnp.maximum(here.sum((1, 2), keepdims=True) * self.mels, 1).astype(jnp.float32)
            mean = jnp.where(here, values, 0).sum((1, 2), keepdims=True) / count
            square = jnp.where(here, (values - mean) ** 2, 0).sum((1, 2), keepdims=True) / count
            # A clip of one value (digital silence) has variance 0: it becomes 0, with a finite gradient.
            values = (values - mean) * jax.lax.rsqrt(square + 1e-6)
        else:
            values = (values - self.mean) / self.std
        return jnp.where(here, values, 0)

    def filters(self) -> np.ndarray:
        """The filterbank, float64 [transform_size / 2, F]: rows are transform bins 0 up to, not including, Nyquist."""
        bins = np.arange(self.transform_size // 2) * (self.rate / self.transform_size)
        edges = np.linspace(*_mel(np.array([self.low, self.high])), self.mels + 2)
        left, centre, right = edges[:-2], edges[1:-1], edges[2:]
        at = _mel(bins)[:, None]
        return np.maximum(0, np.minimum((at - left) / (centre - left), (right - at) / (right - centre)))

    def _taper(self) -> np.ndarray:
        phase = 2 * np.pi * np.arange(self.window_size) / max(1, self.window_size - 1)
        if self.taper == "hamming":
            return 0.54 - 0.46 * np.cos(phase)
        hann = 0.5 - 0.5 * np.cos(phase)
        return hann if self.taper == "hanning" else hann**0.85

    def _power_rfft(self, frames: jax.Array) -> jax.Array:
        spectrum = jnp.fft.rfft(frames * jnp.asarray(self._taper(), jnp.float32), self.transform_size)
        spectrum = spectrum[..., : self.transform_size // 2]
        return jnp.square(spectrum.real) + jnp.square(spectrum.imag)

    def _power_matrix(self, frames: jax.Array) -> jax.Array:
        # Power does not depend on where time starts. Counted from the middle of the frame the cosines are even and the
        # sines odd, so each needs half of the frame, folded: half the arithmetic of the plain matrix.
        half = (self.window_size + 1) // 2
        time = np.arange(half) - (self.window_size - 1) / 2
        angle = time[:, None] * (2 * np.pi / self.transform_size * np.arange(self.transform_size // 2))
        taper = self._taper()[:half, None].copy()
        if self.window_size % 2:
            taper[-1] /= 2  # The middle sample of an odd window would be counted twice.
        cosine = jnp.asarray(np.cos(angle) * taper, jnp.float32)
        sine = jnp.asarray(np.sin(angle) * taper, jnp.float32)
        first, last = frames[..., :half], jnp.flip(frames[..., -half:], -1)
        even = jnp.matmul(first + last, cosine, precision=PRECISION)
        odd = jnp.matmul(first - last, sine, precision=PRECISION)
        return jnp.square(even) + jnp.square(odd)


def as_waveform(values: Num[Array, "B S"] | Num[np.ndarray, "B S"]) -> Float32[Array, "B S"]:
    """int16 samples to float32 with full scale 1; float samples are taken to have full scale 1 already."""
    if values.dtype == np.int16:
        return jnp.asarray(values, jnp.float32) / 32_768
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(f"A waveform is int16 or float with full scale 1; this one is {values.dtype}")
    return jnp.asarray(values, jnp.float32)


def _mel(hertz: np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(hertz / 700.0)


def _split(values: jax.Array, window: int, hop: int) -> jax.Array:
    """[B, S] -> [B, frames, window], by strided slices of whole blocks: a gather would be many times slower."""
    count = max(0, 1 + (values.shape[1] - window) // hop)
    if not count:
        return jnp.zeros((values.shape[0], 0, window), values.dtype)
    block = math.gcd(window, hop)
    used = window + hop * (count - 1)
    blocks = values[:, :used].reshape(values.shape[0], used // block, block)
    step, span = hop // block, hop // block * (count - 1) + 1
    return jnp.concatenate([blocks[:, i : i + span : step] for i in range(window // block)], -1)
