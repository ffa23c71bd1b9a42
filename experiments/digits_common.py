"""What the digits experiments share: sampling, front end, training.

``avjax prepare digits --data FOLDER --out records/digits`` makes the records; FOLDER holds the Free Spoken Digit
recordings.
"""

from __future__ import annotations

from avjax.data.augment import SpecAugment, SpeedJitter, TimeShift, WaveformJitter
from avjax.data.frontend import Augment, FrameNormalise, Frontend
from avjax.data.logmel import LogMel
from avjax.data.pipeline import AudioSampling, Data, VideoSampling
from avjax.experiment import Experiment, Training
from avjax.nn.encoders import Patches
from avjax.nn.transformer import Size
from avjax.objectives.classification import Classification
from avjax.training.optimizer import AdamW

# The recordings end at 4 kHz: above it there is noise alone.
LOGMEL = LogMel(mels=40, high=4000.0, per_clip=True)
# 0.98 s, as long as nearly all of them.
FRAMES = 96
# Tokens are slices of 40 ms over all bins: patches in frequency too fit three voices, and not a fourth.
AUDIO = Patches("audio", shape=(FRAMES, LOGMEL.mels), patch=(4, LOGMEL.mels))
AUGMENT = Augment(
    # Three speakers are few: speed stands in for others, and a shift for those who begin late (lucas does).
    speed=SpeedJitter((0.87, 1.15)),
    waveform=WaveformJitter(snr=(3.0, 20.0)),
    shift=TimeShift(0.4, fill=(0.0, 6.0)),
    spectrogram=SpecAugment(frequency_masks=1, frequency_width=8, time_masks=1, time_width=8),
)
VIDEO = Patches("video", shape=(1, 8, 8, 1), patch=(1, 4, 4))
CLASSES = {"digit": 10}
SIZE = Size(width=64, depth=4, heads=2)


def digits(model, *, steps: int = 1500) -> Experiment:
    """The digits experiment with this model."""
    names = [patches.modality for patches in model.modalities]
    return Experiment(
        model=model,
        data=Data(
            records="records/digits",
            batch=64,
            audio=AudioSampling(LOGMEL.samples(FRAMES)) if "audio" in names else None,
            video=VideoSampling(frames=1, rate=1.0) if "video" in names else None,
        ),
        frontend=Frontend(audio=LOGMEL, video=FrameNormalise(), augment=AUGMENT),
        objective=Classification(label_smoothing=0.1),
        optimizer=AdamW(learning_rate=2e-3, weight_decay=0.05),
        training=Training(steps=steps, evaluate_every=500, checkpoint_every=500),
    )
