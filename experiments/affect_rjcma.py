"""Valence and arousal over time with RJCMA, on a small SYNTHETIC corpus in the layout of Aff-Wild2.

python experiments/synthetic/affwild.py data/affwild
avjax prepare affwild --data data/affwild --out records/affwild
avjax train affect_rjcma

About 80 s on 2 CPU cores; CCC about 0.95, where one modality alone has no more than about 0.5.
"""

from __future__ import annotations

from avjax.data.frontend import FrameNormalise, Frontend
from avjax.data.logmel import LogMel
from avjax.data.pipeline import AudioSampling, Data, SeriesSampling, VideoSampling
from avjax.experiment import Experiment, Training
from avjax.models import rjcma
from avjax.nn.encoders import Conv1dEncoder, FrameConv
from avjax.objectives.regression import Regression
from avjax.training.optimizer import AdamW

# Clips of 8 s; a step of affect, a segment and a frame last 1/4 s each.
STEPS, RATE = 32, 4.0
LOGMEL = LogMel(mels=40)
AUDIO = Conv1dEncoder("audio", (798, LOGMEL.mels), channels=(32, 32), size=5, pool=5, pool_stride=5)
VIDEO = FrameConv("video", (STEPS, 32, 32, 3), channels=(8, 16, 32))
VALUES = {"affect": 2}
WIDTHS = {"audio": 32, "video": 32}


def affect(model, *, steps: int = 200) -> Experiment:
    """The experiment with this model."""
    names = [encoder.modality for encoder in model.modalities]
    return Experiment(
        model=model,
        data=Data(
            records="records/affwild",
            batch=16,
            audio=AudioSampling(LOGMEL.samples(AUDIO.shape[0])) if "audio" in names else None,
            video=VideoSampling(frames=STEPS, rate=RATE) if "video" in names else None,
            targets={"affect": SeriesSampling(STEPS)},
        ),
        frontend=Frontend(audio=LOGMEL, video=FrameNormalise()),
        objective=Regression("ccc", task="series"),
        optimizer=AdamW(learning_rate=3e-3, weight_decay=0.05),
        training=Training(steps=steps, evaluate_every=100, checkpoint_every=100),
    )


def model(*modalities: str) -> rjcma.Config:
    """RJCMA of these modalities."""
    encoders = {"audio": AUDIO, "video": VIDEO}
    widths = {name: WIDTHS[name] for name in modalities}
    chosen = tuple(encoders[name] for name in modalities)
    return rjcma.Config(chosen, VALUES, widths, segments=STEPS, dilations=(1, 2, 4))


def experiment() -> Experiment:
    return affect(model("audio", "video"))
