"""What may come between a run and its end: a signal, and a loss that is no number."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

log = logging.getLogger(__name__)

# A step that is no number, so many times without a good step (skipping) or a checkpoint (rewinding) between them, is
# no accident.
PATIENCE = 10

Verdict = Literal["fine", "skip", "rewind"]


class Interrupted(Exception):
    """A signal has ended training; everything is saved, and the same command goes on."""

    def __init__(self, name: str, step: int):
        super().__init__(f"stopped by {name} after step {step}; the same command goes on from there")
        self.step = step


class NonFiniteLoss(Exception):
    """The loss is not a number any more; training stopped, and the last checkpoint is from before it."""


class Stop:
    """Whether training was asked to end, in which case all processes end after the same step.

    A signal reaches each process when it does, or one of them alone. So every step carries a vote: the largest of all
    processes' flags, computed on the devices like the step's metrics, and read with them.

    Args:
      mesh: of the run.
    """

    def __init__(self, mesh: jax.sharding.Mesh):
        self.name = "another process's signal"
        self._received = False
        self._alone = jax.process_count() == 1
        self._flags = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
        self._count = len(mesh.local_devices)
        whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        self._largest = jax.jit(jnp.max, out_shardings=whole)

    @contextlib.contextmanager
    def listening(self) -> Iterator[Stop]:
        """Takes SIGTERM and SIGINT while the block runs; a second SIGINT interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _receive(self, number: int, frame: Any) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received, self.name = True, signal.Signals(number).name
        log.warning("%s: ending after this step", self.name)

    def vote(self) -> jax.Array | None:
        """This process's flag among the others', dispatched; None where there are no others."""
        if self._alone:
            return None
        local = np.full(self._count, int(self._received), np.int32)
        return self._largest(jax.make_array_from_process_local_data(self._flags, local))

    def asked_alone(self) -> bool:
        """Whether this process was asked to stop and there are no others: then it need not finish a step first."""
        return self._alone and self._received

    def asked(self, vote: jax.Array | None) -> bool:
        """Whether any process had been asked to stop when ``vote`` was cast."""
        return self._received if vote is None else bool(vote)


class NonFinite:
    """What to do about a step whose loss or gradient is no number.

    Args:
      policy: stop, with an error; skip: the step changes nothing (the step itself sees to it); rewind: the state goes
        back to the last checkpoint, and training on behind the bad step, so that the clips between are not seen again.
    """

    def __init__(self, policy: Literal["stop", "skip", "rewind"]):
        self.policy = policy
        self._in_a_row = 0

    def judge(self, step: int, loss: float, gradient_norm: float, records: list[int]) -> Verdict:
        """Warns and tells what to do.

        Args:
          records: numbers of the records of the whole batch.

        Raises:
          NonFiniteLoss: if the policy is to stop, or it has come too often.
        """
        self._in_a_row += 1
        what = f"step {step}: loss {loss}, gradient norm {gradient_norm}; the batch held the records {records}"
        if self.policy == "stop":
            raise NonFiniteLoss(
                f"{what}. Lower --optimizer.learning-rate, look at these clips, or set --training.non-finite to skip"
                " or rewind"
            )
        if self._in_a_row > PATIENCE:
            raise NonFiniteLoss(f"{what}. It was left out {PATIENCE} times before: lower --optimizer.learning-rate")
        log.warning("%s; %s", what, "skipped" if self.policy == "skip" else "back to the last checkpoint")
        return self.policy

    def good(self) -> None:
        """What was bad lies behind: a step was fine (skipping), or a checkpoint was saved (rewinding)."""
        self._in_a_row = 0
