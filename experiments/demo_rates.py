"""MBT on the synthetic demo corpus, where sound may learn faster or slower than all else.

avjax train demo_rates --optimizer.rate 0.1

Made by experiments/encoder_rates.py at several rates. 80 s on one CPU core.
"""

from __future__ import annotations

import dataclasses

import demo_mbt

from avjax.experiment import Experiment
from avjax.training.optimizer import ModalityRate


def experiment() -> Experiment:
    demo = demo_mbt.experiment()
    return dataclasses.replace(demo, optimizer=ModalityRate(demo.optimizer, "audio"))
