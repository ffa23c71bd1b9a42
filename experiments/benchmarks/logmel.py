"""Time of the log-mel front end: rfft against matrix product, and against kaldi-native-fbank where it is installed.

    python experiments/benchmarks/logmel.py [--json] [--seconds 10] [--clips 1 16] [--rounds 30]

80 bins, int16 sound at 16 kHz to log-mel on this process's default device. All contestants take turns in every round,
on wall and on CPU time, because machines are shared: compare ratios within one run only. Takes a few seconds.
kaldi-native-fbank runs on one thread and takes Python lists, whose making is not timed; its clips run one by one.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from avjax.data.logmel import LogMel
from avjax.streams import Stream

MELS = 80


def contestants(samples: np.ndarray) -> dict[str, Callable[[], object]]:
    """Name -> a call that turns int16 [B, S] into log-mels and waits for them."""
    audio = jax.device_put(Stream(samples, np.ones(samples.shape, bool), np.zeros(len(samples), np.float32), 16_000.0))

    def ours(run: Callable[[Stream], Stream]) -> object:
        return jax.block_until_ready(run(audio))

    calls: dict[str, Callable[[], object]] = {
        transform: functools.partial(ours, jax.jit(LogMel(mels=MELS, transform=transform)))
        for transform in ("rfft", "matrix")
    }
    if importlib.util.find_spec("kaldi_native_fbank"):
        import kaldi_native_fbank

        options = kaldi_native_fbank.FbankOptions()
        options.frame_opts.dither = 0
        options.mel_opts.num_bins = MELS
        clips = [clip.astype(np.float32).tolist() for clip in samples]

        def kaldi() -> object:
            features = []
            for clip in clips:
                fbank = kaldi_native_fbank.OnlineFbank(options)
                fbank.accept_waveform(16_000, clip)
                fbank.input_finished()
                features.append([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])
            return features

        calls["kaldi-native-fbank"] = kaldi
    return calls


def measure(clips: int, seconds: float, rounds: int) -> dict[str, dict[str, float]]:
    """Name -> median wall and CPU milliseconds, and each as a ratio to rfft's."""
    samples = np.random.default_rng(0).integers(-8_000, 8_000, (clips, round(seconds * 16_000))).astype(np.int16)
    calls = contestants(samples)
    wall, cpu = ({name: [] for name in calls} for _ in range(2))
    for turn in range(rounds + 2):
        for name, call in calls.items():
            wall_begin, cpu_begin = time.perf_counter(), time.process_time()
            call()
            if turn >= 2:  # The first turns compile and warm the caches.
                wall[name].append(time.perf_counter() - wall_begin)
                cpu[name].append(time.process_time() - cpu_begin)
    result = {}
    for name in calls:
        result[name] = {"wall_ms": 1e3 * statistics.median(wall[name]), "cpu_ms": 1e3 * statistics.median(cpu[name])}
        for clock in ("wall", "cpu"):
            result[name][f"{clock}_ratio"] = result[name][f"{clock}_ms"] / result["rfft"][f"{clock}_ms"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[1, 16], help="batch sizes")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a clip")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    arguments = parser.parse_args()
    results = {clips: measure(clips, arguments.seconds, arguments.rounds) for clips in arguments.clips}
    if arguments.json:
        facts = {"backend": jax.default_backend(), "jax": jax.__version__, "seconds": arguments.seconds}
        json.dump({**facts, "clips": results}, sys.stdout, indent=2)
        return
    title = f"Log-mel of clips of {arguments.seconds:g} s on {jax.default_backend()}, medians of {arguments.rounds}"
    table = Table("clips", "", "wall ms", "CPU ms", "wall / rfft", "CPU / rfft", title=title)
    for clips, result in results.items():
        for name, row in result.items():
            numbers = [f"{row[key]:.2f}" for key in ("wall_ms", "cpu_ms", "wall_ratio", "cpu_ratio")]
            table.add_row(str(clips), name, *numbers)
    Console().print(table)


if __name__ == "__main__":
    main()
