"""What the sentiment experiments share: features of text, sound and picture, loss, training.

The corpus is synthetic, in the layout of MMSA's CMU-MOSEI: ``python experiments/synthetic/mosei.py data/mosei`` writes
it and ``avjax prepare mosei --data data/mosei --out records/mosei`` reads it. For real files the numbers in FEATURES
are theirs: of MMSA's unaligned MOSEI (50, 768), (500, 74), (375, 35), and aligned 50 steps of each.
"""

from __future__ import annotations

from avjax.data.frontend import Frontend
from avjax.data.pipeline import Data, SeriesSampling
from avjax.experiment import Experiment, Training
from avjax.nn.encoders import Precomputed
from avjax.objectives.regression import Regression
from avjax.training.optimizer import AdamW

# Modality -> steps and numbers a step.
FEATURES = {"text": (12, 24), "audio": (30, 10), "video": (24, 14)}
TEXT, AUDIO, VIDEO = (Precomputed(modality, shape) for modality, shape in FEATURES.items())
HEADS = {"values": 1}


def sentiment(model, *, steps: int = 900, learning_rate: float = 2e-3) -> Experiment:
    """The sentiment experiment with this model."""
    shapes = {encoder.modality: encoder.shape for encoder in model.modalities}
    return Experiment(
        model=model,
        data=Data(
            records="records/mosei",
            batch=32,
            features={modality: SeriesSampling(length) for modality, (length, _) in shapes.items()},
            values=("sentiment",),
        ),
        frontend=Frontend(audio=None, video=None),
        objective=Regression("l1", task="sentiment"),
        optimizer=AdamW(learning_rate=learning_rate, weight_decay=0.05),
        training=Training(steps=steps, evaluate_every=150, checkpoint_every=300),
    )
