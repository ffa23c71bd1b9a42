"""Signals are noted and handlers put back; policies for what is no number."""

from __future__ import annotations

import logging
import os
import signal
import threading

import pytest

from avjax.training.interruption import PATIENCE, NonFinite, NonFiniteLoss, Stop
from avjax.training.sharding import MeshShape


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted(number, caplog):
    caplog.set_level(logging.WARNING)
    before, stop = signal.getsignal(number), Stop(MeshShape().build())
    with stop.listening():
        assert not stop.asked(stop.vote())
        os.kill(os.getpid(), number)
        assert stop.asked(stop.vote())
        assert stop.name == number.name
    assert signal.getsignal(number) is before
    assert f"{number.name}: ending after this step" in caplog.text


def test_a_second_interrupt_does_not_wait():
    stop = Stop(MeshShape().build())
    with stop.listening():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_do_not_listen():
    """Python takes signals in the main thread alone; training elsewhere works all the same."""
    before, seen = signal.getsignal(signal.SIGTERM), []

    def listen():
        with Stop(MeshShape().build()).listening() as stop:
            seen.append(stop.asked(stop.vote()))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [False]
    assert signal.getsignal(signal.SIGTERM) is before


def test_stopping_names_the_records():
    with pytest.raises(
        NonFiniteLoss, match=r"step 3: loss nan, gradient norm 1.0; the batch held the records \[4, 7\]"
    ):
        NonFinite("stop").judge(3, float("nan"), 1.0, [4, 7])


@pytest.mark.parametrize("policy", ["skip", "rewind"])
def test_patience_ends(policy, caplog):
    caplog.set_level(logging.WARNING)
    judge = NonFinite(policy)
    for _ in range(3):
        for step in range(PATIENCE):
            assert judge.judge(step, float("inf"), 1.0, [step]) == policy
        judge.good()
    assert len(caplog.records) == 3 * PATIENCE
    for step in range(PATIENCE):
        judge.judge(step, 1.0, float("nan"), [step])
    with pytest.raises(NonFiniteLoss, match="It was left out 10 times before"):
        judge.judge(PATIENCE, 1.0, float("nan"), [1])
