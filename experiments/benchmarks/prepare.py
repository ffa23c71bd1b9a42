"""What `avjax prepare` costs beside bare decoding, per core.

    python experiments/benchmarks/prepare.py            # a table; under a minute
    python experiments/benchmarks/prepare.py --json

Clips of 640x360 (h264, 44.1 kHz stereo aac) are made on the spot: moving texture with grain, coded at x264's default
quality. Bare decoding is PyAV alone: demux, decode pictures and sound, convert every frame to RGB (of the same size)
with one reused VideoReformatter, keep nothing. Prepare's decoding adds checks, times, downmix, resampling to 16 kHz and
int16. Encoding to the records' codecs, hashing, and writing are apart. All figures are CPU time of one thread, medians
over interleaved rounds, since wall time on a shared machine says little. Raw records of large frames need so much
memory that taking it from the system is most of their cost, in all three columns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from avjax.data.corpora import Clip
from avjax.data.prepare_worker import Settings, Task, write

HEIGHT, WIDTH, RATE, SOUND_RATE = 360, 640, 25, 44_100


def make_clip(path: Path, seconds: float, rng: np.random.Generator) -> None:
    """Texture that drifts over a still background, with film grain; noise for sound."""
    coarse = rng.uniform(0, 255, (2, 3, HEIGHT // 20 + 8, WIDTH // 20 + 8))
    fine = np.kron(coarse, np.ones((1, 1, 20, 20))).transpose(0, 2, 3, 1)
    fine = sum(np.roll(fine, (dy, dx), (1, 2)) for dy in range(0, 20, 4) for dx in range(0, 20, 4)) / 25
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=RATE, options={"preset": "fast"})
        pictures.height, pictures.width, pictures.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        sounds = container.add_stream("aac", rate=SOUND_RATE)
        sounds.layout = "stereo"
        for number in range(round(seconds * RATE)):
            image = fine[0, :HEIGHT, :WIDTH].copy()
            image[60:300, 160:480] = fine[
                1, 60 + number % 60 : 300 + number % 60, 160 + number % 90 : 480 + number % 90
            ]
            image += rng.normal(0, 3, (HEIGHT, WIDTH, 1))
            frame = av.VideoFrame.from_ndarray(np.clip(image, 0, 255).astype(np.uint8), "rgb24")
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
        sound = rng.normal(0, 0.1, (2, round(seconds * SOUND_RATE))).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(sound, "fltp", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = SOUND_RATE, 0, Fraction(1, SOUND_RATE)
        container.mux(sounds.encode(frame))
        container.mux(sounds.encode(None))


def bare(paths: list[Path], size: tuple[int, int] | None) -> float:
    """CPU seconds of PyAV alone."""
    height, width = size or (None, None)
    begin = time.thread_time()
    for path in paths:
        with av.open(str(path)) as container:
            for stream in container.streams:
                stream.codec_context.thread_count = 1
            reformatter = VideoReformatter()
            for frame in container.decode(video=0, audio=0):
                if isinstance(frame, av.VideoFrame):
                    reformatter.reformat(frame, width, height, "rgb24", interpolation="BILINEAR", threads=1)
    return time.thread_time() - begin


def prepared(paths: list[Path], out: Path, video_codec: str, size: tuple[int, int] | None) -> dict[str, float]:
    """CPU seconds of one shard, by what they were spent on."""
    (out / "plan").mkdir(parents=True, exist_ok=True)
    settings = Settings(video_codec, "pcm16", 16_000, size, 2, 600.0)
    clips = [Clip(path.name, path, path, {}, "a", "train") for path in paths]
    task = Task("train-00000-of-00001.arrayrecord", str(out), str(paths[0].parent), clips, settings)
    done = write(task, lambda place: None)
    if done["bad"]:
        raise RuntimeError(f"a clip of the benchmark does not decode: {done['bad'][0]}")
    return done["cpu_seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each clip")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ways = {"jpeg": ("jpeg", None), "jpeg 112x200": ("jpeg", (112, 200)), "raw": ("raw", None), "h264": ("h264", None)}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.mp4" for number in range(options.clips)]
        rng = np.random.default_rng(options.seed)
        for path in paths:
            make_clip(path, options.seconds, rng)
        megabits = sum(path.stat().st_size for path in paths) * 8e-6 / (options.clips * options.seconds)
        rounds: list[dict[str, dict[str, float]]] = []
        for number in range(options.rounds + 1):
            found: dict[str, dict[str, float]] = {}
            for name, (codec, size) in ways.items():
                found[name] = {"bare": bare(paths, size)} | prepared(paths, Path(folder) / "out", codec, size)
            if number:  # the first round warms caches
                rounds.append(found)
    frames = options.clips * round(options.seconds * RATE)
    results = {
        name: {
            what: statistics.median(found[name][what] for found in rounds) / frames * 1e3 for what in rounds[0][name]
        }
        | {"decode_over_bare": statistics.median(found[name]["decode"] / found[name]["bare"] for found in rounds)}
        for name in rounds[0]
    }
    if options.json:
        print(json.dumps({"megabits_per_second": megabits, "frames": frames, "ms_per_frame": results}, indent=2))
        return
    print(f"{options.clips} clips of {options.seconds:g} s, 640x360, {megabits:.1f} Mbit/s, {options.rounds} rounds")
    print(f"{'CPU ms a frame':<16}{'bare':>8}{'decode':>8}{'ratio':>8}{'encode':>8}{'write':>8}")
    for name, row in results.items():
        cells = [row["bare"], row["decode"], row["decode_over_bare"], row["encode"], row["write"]]
        print(f"{name:<16}" + "".join(f"{cell:8.2f}" for cell in cells))


if __name__ == "__main__":
    main()
