"""What the experiments of event localisation share: features, targets, front end, training.

``python experiments/synthetic/ave.py data/ave`` writes a synthetic corpus in the layout of AVE's feature package;
``avjax prepare ave --data data/ave --out records/ave`` makes the records, and with ``--corpus.weak`` and ``--out
records/ave_weak`` those for weak supervision. For AVE itself set ``VISUAL = 512``, and sizes as in ``Config.paper()``.
"""

from __future__ import annotations

from avjax.data.frontend import Frontend
from avjax.data.pipeline import Data, SeriesSampling
from avjax.experiment import Experiment, Training
from avjax.nn.encoders import Precomputed
from avjax.training.optimizer import AdamW

SEGMENTS, VISUAL = 10, 32
AUDIO = Precomputed("audio", (SEGMENTS, 128))
VIDEO = Precomputed("video", (SEGMENTS, 7, 7, VISUAL))
EVENTS = 28


def events(model, objective, *, targets: tuple[str, ...], records: str = "records/ave", steps: int = 300) -> Experiment:
    """Learns which event a clip has and in which of its seconds.

    Args:
      targets: heads whose target is by segment.
    """
    return Experiment(
        model=model,
        data=Data(
            records=records,
            batch=32,
            features={encoder.modality: SeriesSampling(SEGMENTS) for encoder in model.modalities},
            targets={head: SeriesSampling(SEGMENTS) for head in targets},
        ),
        frontend=Frontend(audio=None, video=None),
        objective=objective,
        optimizer=AdamW(learning_rate=3e-3, weight_decay=0.05),
        training=Training(steps=steps, evaluate_every=100, checkpoint_every=150),
    )
