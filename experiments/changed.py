"""Clips that were changed, as records that an experiment can be trained on: what retraining.py writes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from avjax.data.media import Frames, Waveform
from avjax.data.pipeline import Data
from avjax.data.record import encode_record
from avjax.data.records import DESCRIPTION_FILE, Audio, Record, Records, Split, Video, write_shard
from avjax.diagnostics.clips import ClipReader, Clips
from avjax.diagnostics.faithfulness.retraining import pooled
from avjax.diagnostics.players import Baseline, Players, filled
from avjax.diagnostics.probe import ModelProbe
from avjax.run import write_json
from avjax.streams import Stream

Order = Literal["explanation", "random", "reversed"]
Change = Callable[[str, Clips], Clips]
"""Split and its clips to what is trained on."""


def saliency_of(probe: ModelProbe, clips: Clips, players: Players) -> Float[np.ndarray, "B n"]:
    """|x df_c/dx| behind the front end of the class c that is predicted, summed over what each raw player holds."""
    found, predicted = [], probe.logits(clips).argmax(axis=1)
    for rows in probe.parts(len(clips)):
        masses, _ = probe.saliency(clips.take(rows), predicted[rows])
        found.append(sum(pooled(masses[m], players.where[m], len(players)) for m in players.names))
    return np.concatenate(found)


def ordered(saliency: Float[np.ndarray, "B n"], order: Order, *, seed: Sequence[int]) -> Float[np.ndarray, "B n"]:
    """What ranks players so that the highest go first; a random order is the same for every share."""
    if order == "random":
        return np.random.default_rng(seed).random(saliency.shape)
    return saliency if order == "explanation" else -saliency


def removed(clips: Clips, kept: Bool[np.ndarray, "B n"], players: Players, means: Baseline) -> Clips:
    """The clips with the mean in place of the players that are not kept."""
    return clips.replace(filled(clips.streams, kept, players, means))


def changed_records(data: Data, head: str, out: Path, change: Change) -> None:
    """The windows that ``data`` reads of every clip, changed, as a prepared folder that is there whole or not at all.

    Samples and frames are kept exactly, to the nearest of their 2^16 and 2^8 values.
    """
    if (out / DESCRIPTION_FILE).is_file():
        return
    out.mkdir(parents=True, exist_ok=True)
    whole, shards = Records(data.records), {}
    for split in whole.description.shards:
        records, reader = whole.split(split), ClipReader(data, split, head)
        clips = change(split, reader.read(reader.choose(None)))
        digest, file = hashlib.sha256(), f"{split}-00000-of-00001.arrayrecord"
        count = write_shard(out / file, _encoded(records, head, clips, digest.update))
        shards[split] = [{"file": file, "records": count, "bytes": (out / file).stat().st_size,
                          "sha256": digest.hexdigest()}]  # fmt: skip
    about = whole.description
    about = dataclasses.replace(about, shards=shards, video={**about.video, "rate": data.video.rate},
                                provenance={**about.provenance, "video_codec": "raw"})  # fmt: skip
    # Last, since it is what makes the folder a prepared one.
    write_json(out / DESCRIPTION_FILE, dataclasses.asdict(about))


def _encoded(records: Split, head: str, clips: Clips, tell: Callable[[bytes], None]) -> Iterator[bytes]:
    for row, index in enumerate(clips.index):
        content = encode_record(_record(records[int(index)], head, clips, row))
        tell(content)
        yield content


def _record(record: Record, head: str, clips: Clips, row: int) -> Record:
    """With a clip's streams and label; without cues, whose times were those of the whole."""
    sound, pictures = (_valid(clips.streams[m], row) for m in ("audio", "video"))
    samples = np.clip(np.rint(sound * 32768), -32768, 32767).astype(np.int16)
    images = np.clip(np.rint(pictures * 255), 0, 255).astype(np.uint8)
    times = np.arange(len(images)) / clips.streams["video"].rate
    return dataclasses.replace(
        record,
        labels={**record.labels, head: int(clips.label[row])},
        cues={},
        audio=Audio.encode(Waveform(samples, int(clips.streams["audio"].rate))),
        video=Video.encode(Frames(images, times), codec="raw"),
    )


def _valid(stream: Stream, row: int) -> np.ndarray:
    return np.asarray(stream.values)[row][np.asarray(stream.valid)[row]]
