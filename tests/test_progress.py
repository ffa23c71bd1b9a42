"""Progress where there is no terminal: a line now and then, and one at the end."""

from __future__ import annotations

from avjax import progress as module
from avjax.progress import progress


def test_lines_tell_how_much_is_done_and_left(capsys, monkeypatch):
    clock = iter([0.0, 5.0, 12.0, 13.0, 20.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with progress("train", 10, start=2) as advance:
        advance(3)  # 5 s: too soon for a line
        advance(6, note="loss 1.0")  # 12 s: 4 parts took 12 s, 4 are left
        advance(7)
        advance(10)
    assert capsys.readouterr().err.splitlines() == ["train: 6/10, 12 s left  loss 1.0", "train: 10/10, 0 s left"]


def test_quiet_says_nothing(capsys):
    with progress("train", 2, quiet=True) as advance:
        advance(2, note="x")
    assert capsys.readouterr() == ("", "")
