"""Batches read ahead: in order, errors passed on, a stall told with what it waits for."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from avjax.streams import Batch
from avjax.training.reader import Reader, StalledInput
from avjax.watchdog import doing


def batch(number: int) -> Batch:
    return Batch({}, {}, np.ones(1, np.float32), np.asarray([number]))


def numbers(reader: Reader) -> tuple[int, int]:
    """Of the next batch: the record that this process has, and the one on the devices."""
    local, there = reader.next()
    return int(local.index[0]), int(there.index[0])


def negative(local: Batch) -> Batch:
    return batch(-int(local.index[0]))


class Numbers:
    """An iterator of batches with an end, and perhaps an error or a stall before it."""

    def __init__(self, *items):
        self.items, self.closed = iter(items), threading.Event()

    def __iter__(self):
        return self

    def __next__(self):
        item = next(self.items)
        return batch(item() if callable(item) else item)

    def close(self):
        self.closed.set()


def fail():
    raise OSError("record 3 is gone")


def stall():
    with doing("reading record 3 of train"):
        time.sleep(3)
    return 3


def test_batches_come_in_order_and_the_source_is_closed():
    source = Numbers(*range(10))
    reader = Reader(source, negative, start=0, limit=5.0)
    assert [numbers(reader) for _ in range(10)] == [(x, -x) for x in range(10)]
    reader.close()
    assert source.closed.wait(5)


def test_it_reads_no_further_ahead_than_it_should():
    read = []

    def note(number):
        return lambda: read.append(number) or number

    reader = Reader(Numbers(*map(note, range(100))), negative, start=0, limit=5.0)
    assert numbers(reader) == (0, 0)
    time.sleep(0.3)
    assert len(read) <= 5
    reader.close()
    assert len(read) <= 6


def test_an_error_comes_where_its_batch_would_have():
    reader = Reader(Numbers(1, 2, fail), negative, start=0, limit=5.0)
    assert [numbers(reader), numbers(reader)] == [(1, -1), (2, -2)]
    with pytest.raises(OSError, match="record 3 is gone"):
        reader.next()
    reader.close()


def test_a_stall_is_told():
    reader = Reader(Numbers(1, stall), negative, start=6, limit=1.5)
    reader.next()
    with pytest.raises(StalledInput, match=r"no batch for step 8 within 2 s \(reading record 3 of train, for [12] s"):
        reader.next()
    begin = time.monotonic()
    reader.close()
    assert time.monotonic() - begin < 1.5
