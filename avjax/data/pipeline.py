"""From records to batches, with Grain.

    position -> record (shuffled anew every epoch) -> crop (drawn by position) -> this process's rows -> batch

A batch is a function of (seed, step) alone: the position in the data *is* the step, and there is no iterator state
to save. A process reads the rows that lie on its devices (the p-th part of P, mostly), so that the global batch is the
same array, row for row, for any number of processes and workers.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import signal
from collections.abc import Collection, Iterator, Sequence

import grain
import numpy as np

from avjax.data.cache import Cache
from avjax.data.order import Order
from avjax.data.record import Record, label_classes
from avjax.data.records import Description, Records, Split
from avjax.streams import Batch, Stream
from avjax.watchdog import doing

# The head of numbers that ``Data.values`` names.
VALUES = "values"


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

    def empty(self, rows: int, description: Description) -> tuple[np.ndarray, np.ndarray]:
        """Room for the rows of a batch: samples int16 [B, S], not written yet, and valid bool [B, S], all False."""
        return _aligned((rows, self.samples), np.int16), np.zeros((rows, self.samples), bool)

    def read(self, record: Record, start: float, values: np.ndarray, valid: np.ndarray) -> None:
        """Writes samples [S] from ``start`` seconds on, and which of them the record has."""
        if record.audio.rate != self.rate:
            raise ValueError(
                f"{record.name}: recorded at {record.audio.rate} Hz, but the experiment samples at {self.rate} Hz;"
                " prepare the corpus anew or change AudioSampling.rate"
            )
        begin = round(start * self.rate)
        found = record.audio.read(begin, begin + self.samples)
        values[: len(found)], values[len(found) :] = found, 0
        valid[: len(found)] = True


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

    def empty(self, rows: int, description: Description) -> tuple[np.ndarray, np.ndarray]:
        """Room for the rows of a batch: frames uint8 [B, T, height, width, C], not written yet, and valid bool [B, T],
        all False."""
        if description.video is None:
            raise ValueError(f"the experiment reads video, but no clip of {description.name} has pictures")
        size = [description.video[side] for side in ("height", "width", "channels")]
        return _aligned((rows, self.frames, *size), np.uint8), np.zeros((rows, self.frames), bool)

    def read(self, record: Record, start: float, values: np.ndarray, valid: np.ndarray) -> None:
        """Writes frames [T, height, width, C] from ``start`` seconds on, and which of them the record has."""
        video = record.video
        size = (video.height, video.width, video.channels)
        if size != values.shape[1:]:
            raise ValueError(
                f"{record.name}: frames of {size}, where most clips have {values.shape[1:]}; clips of different sizes"
                " cannot share a batch: prepare the corpus with one --size"
            )
        times = start + np.arange(self.frames) / self.rate
        there = times < video.end - 1e-6
        if len(video.times) == 1:
            there[:1] = True
        # The record's end comes once: all frames before it, none after.
        count = int(there.sum())
        shown = np.searchsorted(video.times, times[:count] + 1e-6, side="right") - 1
        video.read(np.maximum(shown, 0), out=values[:count])
        values[count:] = 0
        valid[:count] = True


@dataclasses.dataclass(frozen=True)
class Data:
    """What an experiment reads.

    Attributes:
      records: a folder made by ``avjax prepare``.
      batch: rows of a global batch.
      audio, video: how each modality is sampled; None leaves it out.
      values: cues of the clips, such as arousal, that are to be predicted as numbers: the target of a head ``values``.
      test_clips: crops of a test clip, evenly spaced; their probabilities are averaged.
      workers: processes that read ahead; 0 reads in a thread of this one.
      prefetch: batches read ahead.
      cache: megabytes of records and decoded frames that each reading process keeps in memory; 0 for none.
    """

    records: str
    batch: int
    audio: AudioSampling | None = None
    video: VideoSampling | None = None
    values: tuple[str, ...] = ()
    test_clips: int = 1
    workers: int = 0
    prefetch: int = 4
    cache: int = 1024

    @property
    def sampling(self) -> dict[str, AudioSampling | VideoSampling]:
        return {name: way for name, way in (("audio", self.audio), ("video", self.video)) if way is not None}


@dataclasses.dataclass(frozen=True)
class Crop:
    """Puts a batch together, row by row in place: a record's streams from one moment on."""

    data: Data
    description: Description

    def empty(self, rows: int) -> Batch:
        """A batch to be filled row by row; every row must be, be it with nothing."""
        streams = {
            name: Stream(*way.empty(rows, self.description), np.zeros(rows, np.float32), float(way.rate))
            for name, way in self.data.sampling.items()
        }
        target = {head: np.zeros((rows, len(names)), np.float32) for head, names in self.description.classes.items()}
        if self.data.values:
            target[VALUES] = np.zeros((rows, len(self.data.values)), np.float32)
        return Batch(streams, target, np.zeros(rows, np.float32), np.full(rows, -1, np.int32))

    def fill(self, batch: Batch, row: int, record: Record, index: int, place: float) -> None:
        """Writes a row: the record's streams, for each head its classes (one-hot, multi-hot, or none), and its values.

        ``place`` in [0, 1] says where in the clip each modality's window lies: 0 at its start, 1 at its end. So windows
        of different lengths lie inside one another, and a short one reaches every moment of the clip.
        """
        duration = _duration(record, self.data.sampling)
        for name, way in self.data.sampling.items():
            stream = batch.streams[name]
            stream.start[row] = start = place * max(duration - way.seconds, 0.0)
            if getattr(record, name) is not None:
                way.read(record, start, stream.values[row], stream.valid[row])
            else:
                stream.values[row] = 0
        for head in self.description.classes:
            batch.target[head][row, list(label_classes(record.labels[head]))] = 1
        if self.data.values:
            batch.target[VALUES][row] = [self._value(record, name) for name in self.data.values]
        batch.weight[row], batch.index[row] = 1, index

    def _value(self, record: Record, name: str) -> float:
        if name not in record.cues:
            raise ValueError(
                f"{record.name}: no cue {name!r} to predict; set --data.values to some of"
                f" {', '.join(record.cues) or 'none, as the corpus has no cues'}"
            )
        return record.cues[name]

    def fill_with_nothing(self, batch: Batch, row: int) -> None:
        """Leaves a row that counts nowhere: every modality absent, weight 0."""
        for stream in batch.streams.values():
            stream.values[row] = 0


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
    order: Order
    seed: int

    def __call__(self, step: int) -> Batch:
        batch = self.crop.empty(len(self.rows.own))
        for row, position in enumerate(self.rows.positions(step)):
            place = np.random.Generator(np.random.Philox(key=[self.seed, position])).random()
            index = self.order[position]
            with doing(f"reading record {index} of train"):
                self.crop.fill(batch, row, self.records[index], index, place)
        return batch


@dataclasses.dataclass(frozen=True)
class EvaluationBatch:
    """The same for evaluation: every crop of every clip in order, then filler."""

    rows: Rows
    name: str
    split: Split
    crop: Crop
    total: int

    def __call__(self, step: int) -> Batch:
        batch, clips = self.crop.empty(len(self.rows.own)), self.crop.data.test_clips
        for row, position in enumerate(self.rows.positions(step)):
            if position < self.total:
                index, clip = divmod(position, clips)
                with doing(f"reading record {index} of {self.name}"):
                    self.crop.fill(batch, row, self.split[index], index, (clip + 0.5) / clips)
            else:
                self.crop.fill_with_nothing(batch, row)
        return batch


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
    rows = Rows.of(data.batch, process, processes, own)
    read = TrainingBatch(rows, Cache(split, data.cache * 2**20), crop, Order(len(split), seed), seed)
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


def _aligned(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array that is not written yet; it begins at a multiple of 64 bytes, where JAX on CPU uses it in place."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(size + 64, np.uint8)
    begin = -room.ctypes.data % 64
    return room[begin : begin + size].view(dtype).reshape(shape)


def _duration(record: Record, modalities: Collection[str]) -> float:
    """Seconds until the longest of the modalities ends."""
    ends = [0.0]
    if record.audio is not None and "audio" in modalities:
        ends.append(record.audio.samples / record.audio.rate)
    if record.video is not None and "video" in modalities:
        ends.append(record.video.end)
    return max(ends)
