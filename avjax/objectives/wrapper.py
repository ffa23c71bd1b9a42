"""A model with terms of the loss beside it, and with variables that training alone moves: what such models share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from flax import nnx

from avjax.nn.fusion import Tokens
from avjax.nn.missing import MissingTokenModel
from avjax.nn.model import AudioVisualModel, Keep
from avjax.streams import Batch, Mean, Output, Stream


class ModelWrapper(nnx.Module):
    """Encodes and fuses as the model does; a subclass says in ``__call__`` what terms there are.

    Attributes:
      use_running_average: whether the variables stay as they are, as in evaluation.
    """

    def __init__(self, model: AudioVisualModel | MissingTokenModel):
        self.model = model
        self.modalities = model.modalities
        self.use_running_average = False

    def encode(self, batch: Batch, keep: Keep = None) -> dict[str, Stream]:
        """The model's."""
        return self.model.encode(batch, keep)

    def fuse(self, tokens: Tokens, keep: Keep = None) -> Output:
        """The model's."""
        return self.model.fuse(tokens, keep)

    def set_view(self, use_running_average: bool | None = None) -> None:
        """Called by ``nnx.view``.

        Args:
          use_running_average: if True, the variables stay as they are.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average


def with_terms(output: Output, terms: Mapping[str, Mean]) -> Output:
    """The output with more terms in ``aux["losses"]``."""
    losses = {**output.aux.get("losses", {}), **terms}
    return dataclasses.replace(output, aux={**output.aux, "losses": losses})
