"""Kim and Won's system, and the same of sound or pictures alone, on action_kim_won's SYNTHETIC actions.

avjax compare compare_action --seeds 0
"""

from __future__ import annotations

from action_kim_won import action, model

from avjax.experiment import Comparison


def comparison() -> Comparison:
    return Comparison(
        {
            "audio": action(model("audio")),
            "video": action(model("video")),
            "kim_won": action(model("audio", "video")),
        }
    )
