"""What the deepfake experiments share: sampling, front end, what is learned.

The corpora are synthetic: ``python experiments/synthetic/deepfake1m.py data/deepfake1m`` writes one, and
``avjax prepare deepfake1m --data data/deepfake1m --out records/deepfake1m`` makes its records.
"""

from __future__ import annotations

from avjax.data.frontend import FrameNormalise, Frontend
from avjax.data.logmel import LogMel
from avjax.data.pipeline import AudioSampling, Data, SeriesSampling, VideoSampling
from avjax.experiment import Experiment, Training
from avjax.nn.encoders import FrameConv, SpectrogramConv
from avjax.objectives.sequence import SegmentEvents
from avjax.training.optimizer import AdamW

# 2.4 s in segments of a tenth of a second.
SEGMENTS = 24
LOGMEL = LogMel(mels=32, hop=0.020)
AUDIO = SpectrogramConv("audio", shape=(120, LOGMEL.mels), channels=(4, 8, 16), step=5)
FRAMES = (SEGMENTS, 32, 32, 3)
CELLS = FrameConv("video", shape=FRAMES, channels=(4, 8, 16), cells=True)
VIDEO = FrameConv("video", shape=FRAMES, channels=(4, 8, 16))
CLASSES = {"fake": 2}


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
        training=Training(steps=steps, evaluate_every=100, checkpoint_every=200),
    )
