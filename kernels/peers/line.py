"""How a program that is measured in a process of its own answers its benchmark: a line of JSON for a line.

A peer's Python has PyTorch and perhaps nothing of ours, so programs find this file on their path, by its name alone
(kernels/bench.py puts it there), and it imports nothing but Python's own.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


def answer(run: Callable[[], None], **more: Any) -> None:
    """Runs once and says so, then once for every line it is given, until there is none.

    Answers:
      ready: ``more``, and ``grown``: bytes that the process grows by at the peak of a run; None where the system does
        not tell.
      of a run: ``wall`` and ``cpu`` seconds, and ``peak``: bytes of the process at its peak
        since it was ready, or None.
    """
    run()
    print(json.dumps({"grown": grown(run), **more}), flush=True)
    for _ in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        run()
        seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(json.dumps({**seconds, "peak": status("VmHWM")}), flush=True)


def grown(run: Callable[[], None]) -> int | None:
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # The peak starts anew from what is used now.
    except OSError:
        return None
    before = status("VmRSS")
    run()
    peak = status("VmHWM")
    return None if before is None or peak is None else peak - before


def status(name: str) -> int | None:
    """A size in bytes from what Linux says of this process."""
    if not os.path.exists("/proc/self/status"):
        return None
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{name}:"))
