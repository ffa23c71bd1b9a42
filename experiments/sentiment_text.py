"""Sentiment of text alone, the baseline of sentiment_mult, on the synthetic corpus in CMU-MOSEI's layout.

avjax train sentiment_text

About 12 s on 2 CPU cores; MAE about 1.19, where an ideal observer of the text reaches 1.13 (SYNTHETIC).
"""

from __future__ import annotations

from sentiment_common import HEADS, TEXT, sentiment

from avjax.experiment import Experiment
from avjax.models import late_fusion
from avjax.nn.transformer import Size


def experiment() -> Experiment:
    return sentiment(late_fusion.Config((TEXT,), HEADS, Size(width=24, depth=3, heads=4)))
