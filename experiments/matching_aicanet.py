"""AICANet on a synthetic corpus in VoxCeleb's layout: which face does a voice belong to, of people never seen?

avjax train matching_aicanet
"""

from __future__ import annotations

from avjax.data.frontend import FrameNormalise, Frontend
from avjax.data.logmel import LogMel
from avjax.data.pipeline import AudioSampling, Data, VideoSampling
from avjax.data.triplets import Triplets
from avjax.experiment import Experiment, Training
from avjax.models import aicanet
from avjax.nn.encoders import FrameConv, SpectrogramConv
from avjax.objectives.matching import Matching
from avjax.objectives.terms import WithTerms
from avjax.training.optimizer import AdamW

LOGMEL = LogMel(mels=32, hop=0.020)
VOICE = SpectrogramConv("voice", shape=(56, LOGMEL.mels), channels=(8, 16, 32), cells=True)
FACES = tuple(FrameConv(name, shape=(1, 32, 32, 3), channels=(8, 16, 32), cells=True) for name in aicanet.FACES)


def experiment() -> Experiment:
    # Choosing and the pseudo-labels' distance teach here. With the distance stretching at the release's weight, whose
    # nearest of some thirty strangers share sex and about the size, nothing was learned in 600 steps.
    terms = (("coefficient", 0.5),)
    sizes = {"width": 32, "projection": 16, "bilinear": 256, "hidden": 64, "embedding": 32}
    return Experiment(
        model=aicanet.Config((VOICE, *FACES), {"match": 2}, **sizes),
        data=Data(
            records="records/voxceleb",
            batch=32,
            audio=AudioSampling(LOGMEL.samples(56)),
            video=VideoSampling(frames=1, rate=25.0),
        ),
        frontend=Frontend(audio=LOGMEL, video=FrameNormalise(), triplets=Triplets()),
        objective=WithTerms(Matching("choice"), terms),
        optimizer=AdamW(learning_rate=2e-3, weight_decay=0.05),
        training=Training(steps=1200, checkpoint_every=300),
    )
