"""Adversarial training: every step trains on what an attack makes of its clips."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avjax.data.augment.draws import row_keys, uniform
from avjax.data.augment.sound import mean_power
from avjax.data.frontend import FrameNormalise
from avjax.data.logmel import as_waveform
from avjax.diagnostics.stress.attacks.clips import RAW
from avjax.diagnostics.stress.attacks.gradient import PGD
from avjax.diagnostics.stress.attacks.region import BOX, Region, Values, folded
from avjax.streams import Batch, Stream
from avjax.training.rules import Logits


@dataclasses.dataclass(frozen=True)
class AdversarialTraining:
    """Trains on the worst that an attack finds near each clip (Madry et al. 2018, eq. 2.1).

        min over weights of  E [ max over |x' - x| <= radius of  L(weights, x') ]

    The attack sees the weights of the step, the augmentation that the step then trains on, and the model as in
    evaluation: nothing is dropped, and no row sees another. Radii are in the units of a diagnosis, of raw sound and
    raw frames; a modality of features is left as it is. Goodfellow et al. 2015 take one gradient, from the clean clip,
    and train on clean clips as well: ``attack=fgsm()`` and a share of 0.5. Madry et al. take seven from a random start.

    Costs ``attack.steps`` + 1 forward and backward passes a step, beside its own.

    Attributes:
      attack: how x' is looked for; its restarts are left out.
      pixels: radius of frames, of pixels on [0, 1]; 0 leaves them alone.
      snr: dB that the clip's signal stays above whatever is added to its sound; None leaves it alone.
      share: of the rows that are attacked, drawn by row.
      head: of classes, whose cross-entropy is raised; the batch's only one unless told.
    """

    attack: PGD = PGD(steps=7)
    pixels: float = 4 / 255
    snr: float | None = 30.0
    share: float = 1.0
    head: str = ""

    def __post_init__(self) -> None:
        if self.pixels < 0 or not 0 <= self.share <= 1:
            raise ValueError(
                f"AdversarialTraining: pixels {self.pixels} is a radius and share {self.share} a share, of 0 to 1"
            )

    def __call__(self, logits: Logits, batch: Batch, key: jax.Array) -> Batch:
        """The batch with attacked values, as float32.

        Raises:
          ValueError: without raw sound or frames, for a head that is none of classes, or where the front end makes
            other rows of a batch.
        """
        head = self._head(batch)
        raw, radius = {}, {}
        for name, stream in batch.streams.items():
            if (found := self._raw(name, stream)) is not None:
                raw[name], radius[name] = found
        if not raw:
            shapes = {name: stream.values.shape for name, stream in batch.streams.items()}
            raise ValueError(
                "adversarial training changes raw sound [B, S] as audio and frames [B, T, H, W, C] as video, of which"
                f" it is left something to change; the batch has {shapes}"
            )
        keys = row_keys(key, jnp.asarray(batch.index))
        (drawn,) = uniform(keys, "attacked")
        radius = {name: jnp.where(drawn < self.share, own, 0) for name, own in radius.items()}
        valid = {name: jnp.asarray(stream.valid) for name, stream in raw.items()}
        region = Region.of({name: stream.values for name, stream in raw.items()}, radius, valid, BOX)

        def with_values(values: Values) -> Batch:
            changed = {name: raw[name].replace(values=own) for name, own in values.items()}
            return batch.replace(streams={**batch.streams, **changed})

        def model(values: Values) -> Float[Array, "B K"]:
            found = logits(with_values(values))[head]
            if len(found) != len(batch.weight):
                raise ValueError(
                    f"the front end makes {len(found)} rows of {len(batch.weight)}: leave adversarial training out, or"
                    " what repeats rows, such as SoftHard"
                )
            return found

        label = jnp.asarray(batch.target[head]).argmax(axis=1).astype(jnp.int32)
        return with_values(region.project(self.attack(model, region, label, folded(keys, 1), jnp.int32(0))))

    def _head(self, batch: Batch) -> str:
        known = [name for name, target in batch.target.items() if "/" not in name and jnp.ndim(target) == 2]
        if self.head in known:
            return self.head
        if self.head or len(known) != 1:
            raise ValueError(f"adversarial training wants a head of classes, head is {self.head!r}: say one of {known}")
        return known[0]

    def _raw(self, name: str, stream: Stream) -> tuple[Stream, Float[Array, " B"]] | None:
        """Float values and the radius of each row; None where nothing is changed."""
        if RAW.get(name) != stream.values.ndim:
            return None
        if name == "video":
            rows = stream.values.shape[0]
            return (FrameNormalise().pixels(stream), jnp.full(rows, self.pixels)) if self.pixels else None
        if self.snr is None:
            return None
        sound = stream.replace(values=as_waveform(stream.values))
        return sound, jnp.sqrt(mean_power(sound)) * 10 ** (-self.snr / 20)
