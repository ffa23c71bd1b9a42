"""Kim and Won's system, the same of one modality, and late fusion, on action_kim_won's SYNTHETIC actions.

avjax compare compare_action --seeds 0
"""

from __future__ import annotations

from action_kim_won import AUDIO, CLASSES, VIDEO, action, model

from avjax.experiment import Comparison
from avjax.models import late_fusion
from avjax.nn.encoders import Patches
from avjax.nn.transformer import Size

PATCHES = Patches("audio", AUDIO, (29, 16)), Patches("video", VIDEO, (2, 12, 12))


def comparison() -> Comparison:
    return Comparison(
        {
            "audio": action(model("audio")),
            "video": action(model("video")),
            "late_fusion": action(late_fusion.Config(PATCHES, CLASSES, Size(48, 3, 4))),
            "kim_won": action(model("audio", "video")),
        }
    )
