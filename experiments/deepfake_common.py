"""What the deepfake experiments share: sampling, front end, what is learned.

The corpora are synthetic: ``python experiments/synthetic/deepfake1m.py data/deepfake1m`` writes one, and
``avjax prepare deepfake1m --data data/deepfake1m --out records/deepfake1m`` makes its records.
"""

from __future__ import annotations

from avjax.data.frontend import FrameNormalise, Frontend
from avjax.data.logmel import LogMel
from avjax.data.pipeline import AudioSampling, Data, SeriesSampling, VideoSampling
from avjax.experiment import Experiment, Training
from avjax.nn.encoders import Encoder, FrameConv, SpectrogramConv
from avjax.objectives.sequence import SegmentEvents
from avjax.training.optimizer import AdamW

# 2.4 s in segments of a tenth of a second.
SEGMENTS = 24
LOGMEL = LogMel(mels=32, hop=0.020)
CLASSES = {"fake": 2}


def encoders(*channels: int, cells: bool) -> tuple[Encoder, Encoder]:
    """Of sound and picture, of which the second has a token a frame or a token a cell."""
    audio = SpectrogramConv("audio", shape=(120, LOGMEL.mels), channels=channels, step=5)
    return audio, FrameConv("video", shape=(SEGMENTS, 32, 32, 3), channels=channels, cells=cells)


def deepfake(model, *, steps: int, learning_rate: float, per_modality: float = 0.0) -> Experiment:
    """Learns which clips are forged, and where."""
    return Experiment(
        model=model,
        data=Data(
            records="records/deepfake1m",
            batch=32,
            audio=AudioSampling(LOGMEL.samples(120)),
            video=VideoSampling(frames=SEGMENTS, rate=10.0),
            targets={"eventness": SeriesSampling(SEGMENTS, "fake")},
        ),
        frontend=Frontend(audio=LOGMEL, video=FrameNormalise()),
        objective=SegmentEvents(head="fake", task="moments", per_modality=per_modality),
        optimizer=AdamW(learning_rate=learning_rate, weight_decay=0.05),
        training=Training(steps=steps, checkpoint_every=200),
    )
