"""Augmentation on device: speed, gain, noise, time shift, SpecAugment, crop, flip, colour, mixup, absence.

Every draw of a row is keyed by the step's key, the row's global index and the name of the draw. A row therefore comes
out the same in any batch, in any order and on any number of processes, and adding one augmentation leaves the draws of
the others as they were.
"""

from avjax.data.augment.absence import ModalityDropout, SoftHard, TemporalErasing
from avjax.data.augment.draws import row_keys
from avjax.data.augment.mixup import Mixup
from avjax.data.augment.picture import ColourJitter, Crop, PixelNoise
from avjax.data.augment.sound import SpecAugment, SpeedJitter, TimeShift, WaveformJitter

__all__ = [
    "ColourJitter",
    "Crop",
    "Mixup",
    "ModalityDropout",
    "PixelNoise",
    "SoftHard",
    "SpecAugment",
    "SpeedJitter",
    "TemporalErasing",
    "TimeShift",
    "WaveformJitter",
    "row_keys",
]
