"""What threads are busy with, and when the watchdog says so."""

from __future__ import annotations

import json
import logging
import os
import threading
import time

from avjax.watchdog import Watchdog, busy, doing, explain


def test_the_innermost_block_is_told():
    me = threading.get_ident()
    assert busy(me) == []
    with doing("a step"):
        with doing("a batch"):
            assert [what for what, _ in busy(me)] == ["a batch"]
        assert [what for what, _ in busy(me)] == ["a step"]
    assert busy(me) == []


def test_a_block_ends_by_an_error_too():
    try:
        with doing("something"):
            raise KeyError
    except KeyError:
        pass
    assert busy(threading.get_ident()) == []


def test_it_warns_once_and_names_what_is_behind(caplog):
    caplog.set_level(logging.WARNING)
    started, release = threading.Event(), threading.Event()

    def read():
        with doing("reading record 17 of train"):
            started.set()
            release.wait(30)

    thread = threading.Thread(target=read)
    thread.start()
    started.wait(10)
    time.sleep(1.1)
    with Watchdog(first_warning=0.2, every=0.02), doing("waiting for the batch of step 3"):
        time.sleep(0.35)
        assert "reading record 17 of train, for 1 s" in explain(threading.get_ident())
    release.set()
    thread.join()
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("for 0 s: waiting for the batch of step 3 (reading record 17 of train, for 1 s")


def test_quick_work_is_not_worth_a_word(caplog):
    caplog.set_level(logging.WARNING)
    with Watchdog(first_warning=0.3, every=0.01):
        for number in range(20):
            with doing(f"step {number}"):
                time.sleep(0.03)
    assert not caplog.records


def test_the_launcher_hears_of_it(monkeypatch):
    read, write = os.pipe()
    monkeypatch.setenv("AVJAX_HEARTBEAT", str(write))
    with Watchdog(every=0.02), doing("waiting for the devices, step 5"):
        time.sleep(0.2)
    os.close(write)
    with os.fdopen(read) as lines:
        heard = [json.loads(line) for line in lines]
    assert len(heard) >= 3
    assert {entry["doing"] for entry in heard} == {"waiting for the devices, step 5"}
    assert heard[-1]["seconds"] >= heard[0]["seconds"]
