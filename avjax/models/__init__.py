"""Systems: one file each, named after it, composed of the blocks of ``avjax.nn``.

A file defines, beside the model itself,

* ``SYSTEM``, a ``System``: what it is in the words of the survey, and what is known of it,
* ``Config``, a frozen dataclass with ``modalities`` (encoders), ``classes`` (head -> outputs) and ``build(rngs)``;
  ``Config.paper()`` is the published setting, ``Config.tiny()`` one that compiles in seconds.

That is the whole contract: tests and docs/systems.md find the files by themselves.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from types import ModuleType
from typing import Literal


@dataclasses.dataclass(frozen=True)
class System:
    """A published system, or a baseline, as docs/systems.md shows it.

    Attributes:
      name: as the field writes it.
      source: authors and year; with the survey's number in brackets where it cites the system.
      mechanism: of attention, in the survey's words: self, cross, co, hierarchical, correction, bottleneck, none.
      fusion: early, late or hybrid.
      architecture: the survey's row: CNN, RNN, BiLSTM, Transformer, CNN-BiLSTM-fusion, CNN-Transformer, spiking.
      task: what the paper solves.
      corpora, metrics: of the paper.
      use: when to take it, and ``avoid``: when not to.
      ours: which parts the source leaves open and we chose; empty where nothing is.
      reported: the source's own result, as it stands in the paper or its release; empty where it is not known for sure.
      kernels: whether it attends through ``kernels.attention``, which can then report of itself.
      parameters: of ``Config.paper()`` as the source has them; None where it gives none.
    """

    name: str
    source: str
    mechanism: str
    fusion: Literal["early", "late", "hybrid"]
    architecture: str
    task: str
    corpora: tuple[str, ...]
    metrics: tuple[str, ...]
    use: str
    avoid: str
    ours: str = ""
    reported: str = ""
    kernels: bool = True
    parameters: int | None = None


def systems() -> dict[str, ModuleType]:
    """Name of the file -> its module, for every system, in alphabetical order."""
    found = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}") for name in found}
