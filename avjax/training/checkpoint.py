"""Checkpoints: the training state and its position in the data, written together."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as orbax

from avjax.training.step import TrainState

# Orbax reports every phase of every save at this level; what users must know, the loop says itself.
logging.getLogger("absl").setLevel(logging.WARNING)


class Checkpoints:
    """The checkpoints of a run: step -> arrays by name, and a note of where the data stood.

    Arrays are stored by their path in the state ("params.embed.audio.embed.kernel"), whatever devices they lie on, so
    that a checkpoint can be read without the code that wrote it.

    Args:
      path: folder; made when the first checkpoint is written.
      keep: number of newest checkpoints that stay.
    """

    def __init__(self, path: Path, keep: int = 2):
        self._checkpointer = orbax.training.Checkpointer(
            path.absolute(),
            preservation_policy=orbax.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    def latest(self) -> int | None:
        """The newest step that was written whole."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(self, state: TrainState, position: dict[str, Any]) -> None:
        """Starts writing; the arrays are copied before this returns, and training may go on."""
        step = int(state.step)
        if step != self.latest():
            # force: by default Orbax leaves a checkpoint out while the one before it is still being written.
            self._checkpointer.save_checkpointables_async(
                step, {"state": named_leaves(state), "data": position}, force=True
            )

    def load(self, target: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest checkpoint, laid out as ``target`` (abstract arrays with shardings) says."""
        abstract = {"state": named_leaves(target)}
        loaded = self._checkpointer.load_checkpointables(self.latest(), abstract | {"data": None})
        leaves = loaded["state"]
        structure = jax.tree.structure(target)
        return jax.tree.unflatten(structure, [leaves[name] for name in abstract["state"]]), loaded["data"]

    def close(self) -> None:
        """Waits for the last checkpoint to be on disk."""
        self._checkpointer.close()


def named_leaves(tree: Any) -> dict[str, Any]:
    """Every array of a tree by its path, in the order of the tree's leaves."""

    def name(entry: Any) -> str:
        return str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry)))).lstrip(".")

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    # The last part of a path into an nnx.Variable is its "value", which says nothing.
    return {".".join(name(entry) for entry in path if name(entry) != "value"): leaf for path, leaf in leaves}
