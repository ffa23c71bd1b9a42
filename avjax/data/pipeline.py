"""From records to batches, with Grain.

    position -> record (shuffled anew every epoch) -> crop (drawn by position) -> this process's rows -> batch

A batch is a function of (seed, step) alone: the position in the data *is* the step, and there is no iterator state
to save. A process reads the rows that lie on its devices (the p-th part of P, mostly), so that the global batch is the
same array, row for row, for any number of processes and workers.
"""

from __future__ import annotations

import dataclasses
import functools
import signal
from collections.abc import Collection, Iterator, Sequence

import grain
import jax
import numpy as np

from avjax.data.cache import Cache
from avjax.data.record import Record, label_classes
from avjax.data.records import Description, Records, Split
from avjax.streams import Batch, Stream
from avjax.watchdog import doing


@dataclasses.dataclass(frozen=True)
class AudioSampling:
    """Takes ``samples`` consecutive samples of the waveform.

    Attributes:
      samples: length of the crop; ``LogMel.samples(frames)`` gives it for a number of spectrogram frames.
      rate: samples a second; the records' own.
    """

    samples: int
    rate: int = 16_000

    @property
    def seconds(self) -> float:
        return self.samples / self.rate

    def read(self, record: Record, start: float) -> tuple[np.ndarray, np.ndarray]:
        """Samples [S] int16 from ``start`` seconds on, and which of them the record has."""
        if record.audio.rate != self.rate:
            raise ValueError(
                f"{record.name}: recorded at {record.audio.rate} Hz, but the experiment samples at {self.rate} Hz;"
                " prepare the corpus anew or change AudioSampling.rate"
            )
        begin = round(start * self.rate)
        found = record.audio.read(begin, begin + self.samples)
        values, valid = self.absent(None)
        values[: len(found)], valid[: len(found)] = found, True
        return values, valid

    def absent(self, description: Description | None) -> tuple[np.ndarray, np.ndarray]:
        """What ``read`` gives, for a clip without sound."""
        return np.zeros(self.samples, np.int16), np.zeros(self.samples, bool)


@dataclasses.dataclass(frozen=True)
class VideoSampling:
    """Takes ``frames`` frames, ``rate`` a second: at each time the frame that is on the screen.

    Attributes:
      frames: number of frames.
      rate: frames a second, independent of the file's.
    """

    frames: int
    rate: float

    @property
    def seconds(self) -> float:
        return self.frames / self.rate

    def read(self, record: Record, start: float) -> tuple[np.ndarray, np.ndarray]:
        """Frames [T, height, width, C] uint8 from ``start`` seconds on, and which of them the record has."""
        video = record.video
        times = start + np.arange(self.frames) / self.rate
        valid = times < video.end - 1e-6
        if len(video.times) == 1:
            valid[:1] = True
        shown = np.clip(np.searchsorted(video.times, times + 1e-6, side="right") - 1, 0, None)
        if valid.all():
            return video.read(shown), valid
        values = np.zeros((self.frames, video.height, video.width, video.channels), np.uint8)
        values[valid] = video.read(shown[valid])
        return values, valid

    def absent(self, description: Description) -> tuple[np.ndarray, np.ndarray]:
        """What ``read`` gives, for a clip without pictures."""
        size = description.video
        values = np.zeros((self.frames, size["height"], size["width"], size["channels"]), np.uint8)
        return values, np.zeros(self.frames, bool)


@dataclasses.dataclass(frozen=True)
class Data:
    """What an experiment reads.

    Attributes:
      records: a folder made by ``avjax prepare``.
      batch: rows of a global batch.
      audio, video: how each modality is sampled; None leaves it out.
      test_clips: crops of a test clip, evenly spaced; their probabilities are averaged.
      workers: processes that read ahead; 0 reads in a thread of this one.
      prefetch: batches read ahead.
      cache: megabytes of records and decoded frames that each reading process keeps in memory; 0 for none.
    """

    records: str
    batch: int
    audio: AudioSampling | None = None
    video: VideoSampling | None = None
    test_clips: int = 1
    workers: int = 0
    prefetch: int = 4
    cache: int = 1024

    @property
    def sampling(self) -> dict[str, AudioSampling | VideoSampling]:
        return {name: way for name, way in (("audio", self.audio), ("video", self.video)) if way is not None}


@dataclasses.dataclass(frozen=True)
class Crop:
    """Reads one row of a batch: the record's streams from one moment on."""

    data: Data
    description: Description

    def row(self, record: Record, index: int, place: float) -> Batch:
        """``place`` in [0, 1] says where in the clip each modality's window lies: 0 at its start, 1 at its end.

        So windows of different lengths lie inside one another, and a short one reaches every moment of the clip.
        """
        duration = _duration(record, self.data.sampling)
        streams = {}
        for name, way in self.data.sampling.items():
            there = getattr(record, name) is not None
            start = place * max(duration - way.seconds, 0.0)
            values, valid = way.read(record, start) if there else way.absent(self.description)
            streams[name] = Stream(values, valid, np.float32(start), float(way.rate))
        return Batch(streams, self._target(record), np.float32(1), np.int32(index))

    def filler(self) -> Batch:
        """A row that counts nowhere: every modality absent, weight 0."""
        streams = {
            name: Stream(*way.absent(self.description), np.float32(0), float(way.rate))
            for name, way in self.data.sampling.items()
        }
        target = {head: np.zeros(len(names), np.float32) for head, names in self.description.classes.items()}
        return Batch(streams, target, np.float32(0), np.int32(-1))

    def _target(self, record: Record) -> dict[str, np.ndarray]:
        """One-hot, or multi-hot where a clip has several classes of a head, or none."""
        target = {head: np.zeros(len(names), np.float32) for head, names in self.description.classes.items()}
        for head, values in target.items():
            values[list(label_classes(record.labels[head]))] = 1
        return target


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which rows of each global batch a process reads.

    Attributes:
      batch: rows of the global batch.
      own: places in it of those that this process reads, ascending.
    """

    batch: int
    own: tuple[int, ...]

    @classmethod
    def of(cls, batch: int, process: int, processes: int, own: Sequence[int] | None) -> Rows:
        """The rows named, or where none are an equal part: the p-th of P."""
        if own is not None:
            return cls(batch, tuple(own))
        if batch % processes:
            raise ValueError(f"a batch of {batch} rows cannot be divided among {processes} processes")
        count = batch // processes
        return cls(batch, tuple(range(process * count, (process + 1) * count)))

    def positions(self, step: int) -> list[int]:
        """Positions, among the samples of all processes, of the rows that this process reads of a step's batch."""
        return [int(step) * self.batch + row for row in self.own]


@dataclasses.dataclass(frozen=True)
class TrainingBatch:
    """Number of a step to this process's rows; an object rather than a closure, so that workers can be sent it.

    A whole batch at once, in one thread: threads that make a row each would spend more time waiting for one another
    than reading.
    """

    rows: Rows
    records: Cache
    crop: Crop
    order: grain.MapDataset
    seed: int

    def __call__(self, step: int) -> Batch:
        return stack([self.row(position) for position in self.rows.positions(step)])

    def row(self, position: int) -> Batch:
        place = np.random.Generator(np.random.Philox(key=[self.seed, position])).random()
        index = int(self.order[position])
        with doing(f"reading record {index} of train"):
            return self.crop.row(self.records[index], index, place)


@dataclasses.dataclass(frozen=True)
class EvaluationBatch:
    """The same for evaluation: every crop of every clip in order, then filler."""

    rows: Rows
    name: str
    split: Split
    crop: Crop
    total: int

    def __call__(self, step: int) -> Batch:
        return stack([self.row(position) for position in self.rows.positions(step)])

    def row(self, position: int) -> Batch:
        if position >= self.total:
            return self.crop.filler()
        clips = self.crop.data.test_clips
        index, clip = divmod(position, clips)
        with doing(f"reading record {index} of {self.name}"):
            return self.crop.row(self.split[index], index, (clip + 0.5) / clips)


def training_batches(
    data: Data,
    *,
    seed: int,
    start: int,
    steps: int,
    process: int = 0,
    processes: int = 1,
    own: Sequence[int] | None = None,
) -> grain.DatasetIterator:
    """This process's part of the global batches ``start`` to ``steps`` - 1.

    Args:
      own: places in the global batch of the rows to read, where they are not the ``process``-th part of ``processes``.

    Raises:
      ValueError: if the batch cannot be divided among the processes, or the split has no clip.
    """
    records = Records(data.records)
    split, crop = records.split("train"), Crop(data, records.description)
    if not len(split):
        raise ValueError(f"{data.records}: the split 'train' has no clip; see report.txt beside the records")
    # Reshuffled every epoch; position of a sample in training -> number of its record.
    order = grain.MapDataset.range(len(split)).seed(seed).shuffle().repeat(None)
    rows = Rows.of(data.batch, process, processes, own)
    read = TrainingBatch(rows, Cache(split, data.cache * 2**20), crop, order, seed)
    return iter(_read_ahead(grain.MapDataset.range(start, steps).map(read), data))


def evaluation_batches(
    data: Data, split: str, *, process: int = 0, processes: int = 1, own: Sequence[int] | None = None
) -> tuple[int, Iterator[Batch]]:
    """Number of global batches, and this process's part of them (see ``training_batches``): every clip in order.

    Each clip gives ``data.test_clips`` rows. Rows of weight 0 fill the last batch.
    """
    records = Records(data.records)
    source, crop = records.split(split), Crop(data, records.description)
    total = len(source) * data.test_clips
    count = -(-total // data.batch)
    rows = Rows.of(data.batch, process, processes, own)
    read = EvaluationBatch(rows, split, source, crop, total)
    return count, iter(_read_ahead(grain.MapDataset.range(count).map(read), data))


def stack(rows: list[Batch]) -> Batch:
    """Rows to a batch."""
    try:
        return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    except ValueError as error:
        shapes = {name: {row.streams[name].values.shape for row in rows} for name in rows[0].streams}
        raise ValueError(
            f"clips of different sizes cannot share a batch: {shapes}; prepare the corpus with one --size"
        ) from error


def _read_ahead(dataset: grain.MapDataset, data: Data) -> grain.IterDataset:
    if not data.workers:
        return dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=data.prefetch))
    _initialise_flags()
    # Without threads of its own each worker process reads one batch after the other.
    options = grain.MultiprocessingOptions(num_workers=data.workers, per_worker_buffer_size=data.prefetch)
    alone = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    return alone.mp_prefetch(options, worker_init_fn=_leave_signals)


def _leave_signals(worker: int, workers: int) -> None:
    """A signal to the whole group is for the process that trains; it ends its workers when it has saved."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@functools.cache
def _initialise_flags() -> None:
    """Grain's worker processes read absl flags, which nothing has parsed where no absl app runs."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["avjax"], known_only=True)


def _duration(record: Record, modalities: Collection[str]) -> float:
    """Seconds until the longest of the modalities ends."""
    ends = [0.0]
    if record.audio is not None and "audio" in modalities:
        ends.append(record.audio.samples / record.audio.rate)
    if record.video is not None and "video" in modalities:
        ends.append(record.video.end)
    return max(ends)
