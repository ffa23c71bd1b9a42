"""Reads batches ahead, in a thread, and brings them onto the devices while the step before is running."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

from avjax.streams import Batch
from avjax.watchdog import doing, explain


class StalledInput(Exception):
    """No batch came in time; says what the pipeline was waiting for."""


class Reader:
    """The batches of steps ``start`` + 1 and on, as (rows of this process, global batch on the devices).

    Args:
      batches: of this process.
      to_devices: from local rows to the global batch.
      start: number of steps taken.
      limit: seconds to wait for a batch; 0 waits for ever.
      give_up: asked while waiting; True ends the wait.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        to_devices: Callable[[Batch], Batch],
        *,
        start: int,
        limit: float,
        give_up: Callable[[], bool] = lambda: False,
    ):
        self._step, self._limit, self._give_up = start, limit, give_up
        self._ready: queue.Queue[tuple[Batch, Batch] | BaseException] = queue.Queue(maxsize=2)
        self._ended = threading.Event()
        arguments = (batches, to_devices, start)
        # A daemon: a read that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._read, args=arguments, name="reader", daemon=True)
        self._thread.start()

    def _read(self, batches: Iterator[Batch], to_devices: Callable[[Batch], Batch], step: int) -> None:
        try:
            while not self._ended.is_set():
                step += 1
                with doing(f"putting together the batch of step {step}"):
                    local = next(batches, None)
                if local is None:
                    return
                with doing(f"bringing the batch of step {step} onto the devices"):
                    batch = to_devices(local)
                self._put((local, batch))
        except BaseException as error:
            self._put(error)
        finally:
            if hasattr(batches, "close"):
                batches.close()

    def _put(self, item: tuple[Batch, Batch] | BaseException) -> None:
        while not self._ended.is_set():
            try:
                return self._ready.put(item, timeout=0.2)
            except queue.Full:
                continue

    def next(self) -> tuple[Batch, Batch] | None:
        """The next batch; None where waiting for it was given up.

        Raises:
          StalledInput: if there is none within the limit.
          Whatever reading it has raised.
        """
        self._step += 1
        with doing(f"waiting for the batch of step {self._step}"):
            begin = time.monotonic()
            while True:
                try:
                    item = self._ready.get(timeout=0.2)
                    break
                except queue.Empty:
                    if self._give_up():
                        return None
                    if self._limit and time.monotonic() - begin > self._limit:
                        raise StalledInput(
                            f"no batch for step {self._step} within {self._limit:.0f} s{explain(threading.get_ident())}"
                        ) from None
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Ends reading; a read that hangs is left behind."""
        self._ended.set()
        self._thread.join(timeout=1)
