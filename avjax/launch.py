"""Several processes of one command on one machine: started, listened to, and ended together.

Each process writes a line every second to a pipe of its own (watchdog.py), which says what it is doing. The job ends
when all processes have ended well; when one has not, or has been silent for too long, the others are killed, since
they would wait for it for ever, and one message says which it was. Killing is safe: a checkpoint that was not
finished counts as not there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO, Any

from avjax.watchdog import HEARTBEAT_DESCRIPTOR

# What each process is told of the job, in its environment; training/distributed.py reads it.
ADDRESS, PROCESSES, PROCESS = "AVJAX_COORDINATOR", "AVJAX_PROCESSES", "AVJAX_PROCESS"
HEARTBEAT = "AVJAX_HEARTBEAT_SECONDS"

# How long after the first bad end the others are still looked at, to tell the one that died from those that lost it.
GRACE_SECONDS = 1.0


class Job:
    """One command in several processes.

    Args:
      words: of the command, such as ["train", "experiments/demo_mbt.py"].
      processes: how many.
      devices: CPU devices of each.
      limit: seconds of silence after which a process counts as hung.
    """

    def __init__(self, words: Sequence[str], processes: int, *, devices: int = 1, limit: float = 30.0):
        self.words, self.count, self.devices, self.limit = list(words), processes, devices, limit
        self._members: list[Member] = []
        self._stopping = False

    def run(self) -> int:
        """Starts the processes and waits for their end; returns 0 where all ended well."""
        before = {number: signal.signal(number, self._pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            address = f"127.0.0.1:{_free_port()}"
            for number in range(self.count):
                # A signal may come in between.
                if not self._stopping:
                    self._members.append(Member(self, number, address))
            return self._watch()
        finally:
            for member in self._members:
                member.kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pass_on(self, number: int, frame: Any) -> None:
        """The processes save and end by themselves; a second signal ends them at once."""
        if self._stopping:
            raise KeyboardInterrupt
        self._stopping = True
        for member in self._members:
            member.process.send_signal(signal.SIGTERM)

    def _watch(self) -> int:
        while True:
            time.sleep(0.05)
            for member in self._members:
                member.listen()
            ended = [member for member in self._members if member.status is not None]
            if any(self._bad(member) for member in ended):
                return self._end(*self._culprit())
            if len(ended) == len(self._members):
                for member in self._members:
                    member.finish()
                return 0
            silent = [m for m in self._members if m.status is None and m.silence > self.limit]
            if silent:
                member = max(silent, key=lambda m: m.silence)
                return self._end(member, f"has not answered for {member.silence:.0f} s")

    def _bad(self, member: Member) -> bool:
        """Whether a process has ended as it should not; asked to end before it could listen, it has lost nothing."""
        return bool(member.status) and not (self._stopping and member.status == -signal.SIGTERM)

    def _culprit(self) -> tuple[Member, str]:
        """The process that ended badly first; one that was killed rather than one that complains of its absence."""
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline and not all(member.status is not None for member in self._members):
            time.sleep(0.05)
        bad = [member for member in self._members if self._bad(member)]
        killed = [member for member in bad if member.status == -signal.SIGKILL]
        member = min(killed or bad, key=lambda m: m.ended)
        if member.status < 0:
            return member, f"was ended by {signal.Signals(-member.status).name}"
        return member, f"ended with status {member.status}"

    def _end(self, member: Member, what: str) -> int:
        begin = time.monotonic()
        for other in self._members:
            other.kill()
        for other in self._members:
            other.finish()
        doing = f" while {member.doing}" if member.doing else ""
        print(
            f"avjax launch: process {member.number} of {self.count} (pid {member.process.pid}) {what}{doing}; the job"
            f" was ended {time.monotonic() - begin:.1f} s later. The same command goes on from the last checkpoint",
            file=sys.stderr,
        )
        return member.status if member.status and member.status > 0 else 1


class Member:
    """One process of a job."""

    def __init__(self, job: Job, number: int, address: str):
        self.number = number
        self.doing = ""
        self.ended = 0.0
        self._heard = time.monotonic()
        self._started = False
        read, write = os.pipe()
        os.set_blocking(read, False)
        self._heartbeat = os.fdopen(read, "rb")
        self._buffer = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "avjax.cli", *job.words],
            env=environment(os.environ, job, number, address, write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(write,),
            # Ctrl-C in a terminal reaches the launcher alone, which passes it on.
            start_new_session=True,
        )
        os.close(write)
        pipes = ((self.process.stdout, sys.stdout), (self.process.stderr, sys.stderr))
        self._threads = [threading.Thread(target=self._pass_lines, args=pipe, daemon=True) for pipe in pipes]
        for thread in self._threads:
            thread.start()

    def _pass_lines(self, pipe: IO[bytes], to: IO[str]) -> None:
        for line in pipe:
            # One write a line, so that lines of two processes do not mix.
            to.write(f"[{self.number}] {line.decode(errors='replace')}")
            to.flush()

    @property
    def status(self) -> int | None:
        """The exit status, below 0 for a signal; None while it runs."""
        status = self.process.poll()
        if status is not None and not self.ended:
            self.ended = time.monotonic()
        return status

    @property
    def silence(self) -> float:
        """Seconds since it was last heard of; 0 before its watchdog runs (imports and compilers are slow)."""
        return time.monotonic() - self._heard if self._started else 0.0

    def listen(self) -> None:
        """Takes in what it has said."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._heartbeat, selectors.EVENT_READ)
            if not selector.select(timeout=0):
                return
        said = self._heartbeat.read1(65536)
        if not said:
            return
        self._heard, self._started = time.monotonic(), True
        *lines, self._buffer = (self._buffer + said).split(b"\n")
        if lines:
            self.doing = json.loads(lines[-1])["doing"]

    def kill(self) -> None:
        """With the processes that it has started itself, which read data for it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def finish(self) -> None:
        """Prints what it wrote last."""
        for thread in self._threads:
            thread.join(timeout=5)
        self._heartbeat.close()
        if not any(thread.is_alive() for thread in self._threads):
            self.process.stdout.close()
            self.process.stderr.close()


def environment(inherited: Any, job: Job, number: int, address: str, heartbeat: int) -> dict[str, str]:
    """What a process of a job is told."""
    found = dict(inherited)
    # The number of host devices has two spellings, and JAX refuses both at once.
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", found.get("XLA_FLAGS", "")).strip()
    return found | {
        ADDRESS: address,
        PROCESSES: str(job.count),
        PROCESS: str(number),
        # JAX's own limit is the later one: the launcher's message says more.
        HEARTBEAT: str(max(round(2 * job.limit), 10)),
        HEARTBEAT_DESCRIPTOR: str(heartbeat),
        "XLA_FLAGS": flags,
        "JAX_NUM_CPU_DEVICES": str(job.devices),
    }


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
