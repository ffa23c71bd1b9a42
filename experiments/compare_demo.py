"""Systems of avjax.models that can tell an emotion, side by side on the synthetic demo corpus.

avjax compare compare_demo

Every system at about the size of ``demo_mbt``: patches where the system is of transformers over patches, and for all
others the same few convolutions. All share data, front end, batch, steps and optimizer; the objective differs where a
system brings terms of its own. With them stand the baselines of one modality, of which an ideal observer reaches 0.50.

20 runs a seed, of 250 steps each, and three seeds.
"""

from __future__ import annotations

import dataclasses

from demo_common import AUDIO, CLASSES, LOGMEL, SIZE, VIDEO, demo

from avjax.experiment import Comparison
from avjax.models import (
    avt_ca,
    cnn_bilstm,
    cnn_transformer,
    com,
    early_fusion,
    ghaleb,
    halnet,
    hmatn,
    hybrid_fusion,
    jca,
    kim_won,
    late_fusion,
    mbt,
    mocanu,
    mult,
    niat,
    rjcma,
    s_cmrl,
)
from avjax.nn.encoders import Conv1dEncoder, FrameConv, SpikingPatches
from avjax.nn.transformer import Size
from avjax.objectives.terms import WithTerms

# 32 tokens of sound and 8 of pictures.
SOUND = Conv1dEncoder("audio", (128, LOGMEL.mels), channels=(64, 64), size=5, pool=2, pool_stride=2)
PICTURES = FrameConv("video", VIDEO.shape, channels=(8, 16, 32), stride=2)
# The spectrogram at every step, and frames, as spikes of the same places.
SPIKES = (
    SpikingPatches("audio", (128, LOGMEL.mels), depth=3, show=(8, 32, 32)),
    SpikingPatches("video", VIDEO.shape),
)
# Sound as a picture, a frame, and nine frames in a grid.
IMAGE = FrameConv("image", (3, 64, 64, 3), channels=(16, 32, 64), cells=True, stride=2)
IMAGES = (kim_won.Images("audio", (128, LOGMEL.mels), IMAGE), kim_won.Images("video", VIDEO.shape, IMAGE))
PATCHES, TOKENS = (AUDIO, VIDEO), (SOUND, PICTURES)
WIDTHS = {"audio": 64, "video": 64}
SMALL = Size(64, 2, 4)
# Neutral, calm, happy, sad, angry, fearful, disgust, surprised: pleasant, unpleasant or neither.
VALENCE = {"emotion": (0, 0, 1, -1, -1, -1, -1, 0)}

MODELS = {
    "audio": late_fusion.Config((AUDIO,), CLASSES, SIZE),
    "video": late_fusion.Config((VIDEO,), CLASSES, SIZE),
    "early_fusion": early_fusion.Config(TOKENS, CLASSES, width=64, segments=8, hidden=64),
    "late_fusion": late_fusion.Config(PATCHES, CLASSES, SIZE),
    "hybrid_fusion": hybrid_fusion.Config(TOKENS, CLASSES, width=64),
    "mbt": mbt.Config(PATCHES, CLASSES, SIZE, fusion_layer=2, bottlenecks=4),
    "mult": mult.Config(TOKENS, CLASSES, width=64, heads=4, depth=2, memory_depth=2),
    "cnn_bilstm": cnn_bilstm.Config(TOKENS, CLASSES, width=64, hidden=64),
    "cnn_transformer": cnn_transformer.Config(TOKENS, CLASSES, SMALL, segments=8),
    "jca": jca.Config(TOKENS, CLASSES, WIDTHS),
    "rjcma": rjcma.Config(TOKENS, CLASSES, WIDTHS, segments=8, dilations=(1, 2)),
    "hmatn": hmatn.Config(TOKENS, CLASSES, width=64, heads=4, segments=8, dilations=(1, 2), bounds=None),
    "ghaleb": ghaleb.Config(TOKENS, CLASSES, SMALL),
    "avt_ca": avt_ca.Config(TOKENS, CLASSES, 64, 4, second={"audio": (64, 64), "video": (64, 64)}),
    "halnet": halnet.Config(TOKENS, CLASSES, Size(64, 1, 4), groups=(4, 2)),
    "mocanu": mocanu.Config(
        (SOUND, dataclasses.replace(PICTURES, cells=True)), CLASSES, width=64, heads=4, valence=VALENCE
    ),
    "com": com.Config(PATCHES, CLASSES, SIZE),
    "niat": niat.Config(TOKENS, CLASSES, WIDTHS, segments=8, heads=4, depth=2),
    "kim_won": kim_won.Config(IMAGES, CLASSES, SMALL),
    "s_cmrl": s_cmrl.Config(SPIKES, CLASSES, width=64, heads=4),
}

# The terms that a system brings, with the weights that its file gives.
TERMS = {
    "mocanu": (("metric/emotion", 0.1),),
    "com": (("contrastive", 0.1), ("reconstruction", 1.0)),
    "s_cmrl": (("alignment", 1.0),),
    "niat": (("noisy", 1.0), ("imitation", 0.2), ("discrimination", 0.1)),
}


def comparison() -> Comparison:
    experiments = {name: demo(model, steps=250, learning_rate=1e-3) for name, model in MODELS.items()}
    for name, weights in TERMS.items():
        objective = WithTerms(experiments[name].objective, weights)
        experiments[name] = dataclasses.replace(experiments[name], objective=objective)
    return Comparison(experiments)
