"""Memory of the host."""

from __future__ import annotations

import ctypes

from avjax.training import memory


def test_giving_back_asks_glibc_where_there_is_one(monkeypatch):
    asked = []

    class Library:
        def malloc_trim(self, keep):
            asked.append(keep)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    memory.give_back()
    assert asked == [0]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    memory.give_back()
    assert asked == [0]
