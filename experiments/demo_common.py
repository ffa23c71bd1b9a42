"""What the demo experiments share: sampling, front end, training. All of them differ in their model alone.

The demo corpus is synthetic: ``avjax prepare demo --data data/demo --out records/demo`` makes it.
"""

from __future__ import annotations

from avjax.data.frontend import FrameNormalise, Frontend
from avjax.data.logmel import LogMel
from avjax.data.pipeline import AudioSampling, Data, VideoSampling
from avjax.experiment import Experiment, Training
from avjax.nn.encoders import Patches
from avjax.nn.transformer import Size
from avjax.objectives.classification import Classification
from avjax.training.optimizer import AdamW

# 128 spectrogram frames (1.3 s) and 8 video frames over about the same time.
LOGMEL = LogMel(mels=64)
AUDIO = Patches("audio", shape=(128, LOGMEL.mels), patch=(16, 16))
VIDEO = Patches("video", shape=(8, 64, 64, 3), patch=(2, 16, 16))
CLASSES = {"emotion": 8}
# Where the corpus was made with --corpus.interaction congruence: the label says whether heard and seen level agree.
CONGRUENCE = {"congruence": 2}
SIZE = Size(width=64, depth=4, heads=2)


def demo(model, *, steps: int = 300, learning_rate: float = 2e-3) -> Experiment:
    """The demo experiment with this model."""
    names = [patches.modality for patches in model.modalities]
    return Experiment(
        model=model,
        data=Data(
            records="records/demo",
            batch=32,
            audio=AudioSampling(LOGMEL.samples(128)) if "audio" in names else None,
            video=VideoSampling(frames=8, rate=6.25) if "video" in names else None,
        ),
        frontend=Frontend(audio=LOGMEL, video=FrameNormalise()),
        objective=Classification(label_smoothing=0.1),
        optimizer=AdamW(learning_rate=learning_rate, weight_decay=0.05),
        training=Training(steps=steps, evaluate_every=100, checkpoint_every=150),
    )
