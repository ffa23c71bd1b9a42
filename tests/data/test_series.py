"""Series and sequences: exact in records, read at the right time, from arrays and files, into streams and targets."""

from __future__ import annotations

import dataclasses
import json
import pickle
import runpy
import sys
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from avjax.cli import main
from avjax.data.corpora import Clip
from avjax.data.media import Frames, Waveform
from avjax.data.pipeline import AudioSampling, Crop, Data, SeriesSampling, VideoSampling, training_batches
from avjax.data.prepare import PrepareError, prepare
from avjax.data.record import Audio, Record, RecordError, Video, decode_record, encode_record
from avjax.data.records import SCHEMA, Description, Records, verify
from avjax.data.series import DTYPES, H5Row, NpyFile, Series, Source

FINITE = {"allow_nan": False, "allow_infinity": False}
RECORD = Record("clip", "test", "", {}, {}, None, None)


def numbers(**kinds) -> st.SearchStrategy[np.ndarray]:
    def of(dtype: str) -> st.SearchStrategy[np.ndarray]:
        elements = FINITE if dtype.startswith("float") else None
        return hnp.arrays(dtype, hnp.array_shapes(max_dims=3, max_side=5, **kinds), elements=elements)

    return st.sampled_from(DTYPES).flatmap(of)


def description(series, **changes) -> Description:
    facts = {"classes": {}, "counts": {}, "audio": None, "video": None, "synthetic": True, "licence": "", "corpus": {}}
    return Description("toy", SCHEMA, **{**facts, **changes}, provenance={}, shards={}, series=series)


def one_row(data: Data, record: Record, about: Description, place: float = 0.0):
    crop = Crop(data, about)
    batch = crop.empty(1)
    for stream in batch.streams.values():
        stream.values[...] = 77
    crop.fill(batch, 0, record, 0, place)
    return batch


@given(
    numbers(), st.floats(0.01, 1e5), st.floats(-1e3, 1e3), st.data(),
    st.dictionaries(st.text(max_size=4), st.lists(st.integers(1, 2**31 - 1), max_size=5).map(tuple), max_size=3),
)  # fmt: skip
def test_records_keep_them_exactly(values, rate, start, data, sequences):
    valid = data.draw(st.none() | hnp.arrays(bool, len(values)))
    record = dataclasses.replace(RECORD, series={"x": Series(values, rate, start, valid)}, sequences=sequences)
    found = decode_record(encode_record(record))
    assert found.sequences == sequences
    series = found.series["x"]
    assert (series.values.dtype, series.rate, series.start) == (values.dtype, rate, start)
    np.testing.assert_array_equal(series.values, values)
    np.testing.assert_array_equal(series.valid, valid)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "object"}, "dtype 'object'"),
        ({"dtype": "float64"}, "dtype 'float64'"),
        ({"shape": (3, 0)}, "shape"),
        ({"shape": (-3, -2)}, "shape"),
        ({"shape": (2**62, 4)}, "24 bytes for 18446744073709551616 numbers"),
        ({"data": b"abc"}, "3 bytes for 6 numbers"),
        ({"data": np.full(6, np.nan, "<f4").tobytes()}, "not finite"),
        ({"valid": b"123"}, "3 bytes say which of 3 elements"),
        ({"rate": 0.0}, "a rate above 0"),
        ({"rate": None}, "TypeError"),
    ],
)
def test_damage_is_named(change, message):
    record = dataclasses.replace(RECORD, series={"x": Series(np.ones((3, 2), np.float32), 1.0)})
    fields = msgpack.unpackb(encode_record(record), use_list=False)
    fields["series"]["x"] = fields["series"]["x"] | change
    with pytest.raises(RecordError, match=rf"record 'clip': its series 'x' is damaged: .*{message}"):
        decode_record(msgpack.packb(fields))


def test_records_of_the_first_schema_are_refused():
    fields = msgpack.unpackb(encode_record(RECORD))
    with pytest.raises(RecordError, match=r"has schema 1, this version of avjax reads schema 2: run `avjax prepare`"):
        decode_record(msgpack.packb(fields | {"schema": 1}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones(3), "not float64"),
        (np.ones((), np.float32), "along its first axis"),
        (np.ones((0, 3), np.float32), "not empty"),
        (np.array([1, np.inf], np.float32), "not finite"),
    ],
)
def test_what_is_no_series(values, message):
    with pytest.raises(ValueError, match=message):
        Series(values, 1.0)


@given(numbers())
def test_other_types_are_narrowed_without_loss(values):
    wide, kept = ("float64", "float32") if values.dtype.kind == "f" else ("int64", "int32")
    found = Series.of(values.astype(wide), 2.0, 1.0)
    np.testing.assert_array_equal(found.values, values)
    assert found.values.dtype == kept


def test_what_is_not_finite_becomes_zero_and_is_counted():
    found = Series.of(np.array([[1.0, -np.inf], [np.nan, 4.0]]), 1.0)
    np.testing.assert_array_equal(found.values, [[1, 0], [0, 4]])
    assert found.replaced == 2
    for wrong, message in ((np.array(["a"]), "no series of numbers"), (np.array([2**40]), "beyond int32")):
        with pytest.raises(ValueError, match=message):
            Series.of(wrong, 1.0)


@given(
    st.integers(1, 30), st.sampled_from([0.5, 1.0, 7.0, 25.0, 29.97, 100.0]), st.floats(-3, 3),
    st.sampled_from([0.5, 1.0, 10.0, 25.0, 30.0]), st.floats(0, 5), st.integers(1, 40), st.booleans(), st.data(),
)  # fmt: skip
def test_an_element_is_current_until_the_next(count, rate, start, asked, begin, length, holes, data):
    """Against the definition, one moment at a time."""
    valid = data.draw(hnp.arrays(bool, count)) if holes else None
    series = Series(np.arange(1, count + 1, dtype=np.int32), rate, start, valid)
    values, there = np.full(length, -1), np.zeros(length, bool)
    series.write(begin, asked, values, there)
    for step in range(length):
        position = (begin + step / asked - start) * rate
        if abs(position - round(position)) < 1e-3:
            continue  # On the border of two; either will do.
        number = int(np.floor(position))
        known = 0 <= number < count and (valid is None or bool(valid[number]))
        assert (values[step], there[step]) == (number + 1 if known else 0, known)


@given(st.floats(0, 1), st.integers(1, 40), st.integers(5, 60), st.sampled_from([10.0, 25.0, 30.0]))
def test_the_window_is_that_of_sound_and_pictures(place, length, count, rate):
    """Pictures, sound and labels that number the same moments show the same numbers, in any crop."""
    hop = round(16_000 / rate)
    rate = 16_000 / hop
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 2, 2, 1))
    record = dataclasses.replace(
        RECORD,
        audio=Audio.encode(Waveform(np.repeat(np.arange(count, dtype=np.int16), hop), 16_000)),
        video=Video.encode(Frames(np.ascontiguousarray(images), np.arange(count) / rate), "raw"),
        series={"x": Series(np.arange(count, dtype=np.float32)[:, None], rate)},
    )
    about = description(
        {"x": {"shape": [1], "rate": rate}}, audio={"rate": 16_000}, video={"height": 2, "width": 2, "channels": 1}
    )
    batch = one_row(
        Data(
            "", 1, AudioSampling(length * hop), VideoSampling(length, rate), {"x": SeriesSampling(length)},
            targets={"head": SeriesSampling(length, "x")},
        ),
        record, about, place,
    )  # fmt: skip
    audio, video, x = (batch.streams[name] for name in ("audio", "video", "x"))
    np.testing.assert_allclose(x.start, video.start, atol=1e-5)
    np.testing.assert_allclose(x.start, audio.start, atol=1e-5)
    np.testing.assert_array_equal(x.valid, video.valid)
    np.testing.assert_array_equal(x.values[0, :, 0], video.values[0, :, 0, 0, 0])
    # Sound is cut at the nearest sample.
    heard = audio.values[0].reshape(length, hop)
    assert all(x.values[0, k, 0] in heard[k, [0, 1]] for k in range(length) if x.valid[0, k])
    np.testing.assert_array_equal(batch.target["head"][0], x.values[0])
    np.testing.assert_array_equal(batch.target["head/valid"], x.valid)


def test_streams_targets_and_tokens():
    labels = Series(np.arange(12, dtype=np.float32).reshape(6, 2), 2.0, valid=np.arange(6) != 1)
    record = dataclasses.replace(
        RECORD,
        series={"words": Series(np.ones((4, 3), np.float16), 1.0), "va": labels},
        sequences={"letters": (3, 1, 2)},
        labels={"va": 0, "kind": 1},
    )
    about = description(
        {
            "words": {"shape": [3], "rate": 1.0, "dtype": "float16"},
            "face": {"shape": [2, 2], "rate": 5.0},
            "va": {"shape": [2], "rate": 2.0},
        },
        classes={"va": ["a"], "kind": ["b", "c"]},
    )
    data = Data(
        "", 1, features={"text": SeriesSampling(6, "words"), "face": SeriesSampling(5)},
        targets={"va": SeriesSampling(8)}, sequences={"letters": 5},
    )  # fmt: skip
    batch = one_row(data, record, about)
    text, face = batch.streams["text"], batch.streams["face"]
    assert (text.values.dtype, text.values.shape, text.rate, face.values.shape, face.rate) == (
        np.float16, (1, 6, 3), 1.0, (1, 5, 2, 2), 5.0,
    )  # fmt: skip
    assert text.valid.tolist() == [[True] * 4 + [False] * 2]
    assert text.values[0].sum() == 12
    assert not face.valid.any()
    assert not face.values.any()
    expected = np.where(np.arange(6)[:, None] != 1, labels.values, 0)
    np.testing.assert_array_equal(batch.target["va"], [[*expected, [0, 0], [0, 0]]])
    np.testing.assert_array_equal(batch.target["va/valid"], [[1, 0, 1, 1, 1, 1, 0, 0]])
    np.testing.assert_array_equal(batch.target["letters"], [[3, 1, 2, 0, 0]])
    np.testing.assert_array_equal(batch.target["kind"], [[0, 1]])
    assert {name: target.dtype.name for name, target in batch.target.items()} == {
        "va": "float32", "va/valid": "float32", "letters": "int32", "kind": "float32",
    }  # fmt: skip
    for lacking, message in (
        (
            {"series": {"words": record.series["words"]}},
            r"no series 'va' to predict as 'va' \(data.targets\); it has wo",
        ),
        ({"sequences": {}}, r"no sequence 'letters' to predict \(data.sequences\); it has none"),
        ({"sequences": {"letters": (1,) * 6}}, r"clip: .* 6 tokens, and room for 5; set --data.sequences.letters 6"),
        ({"series": {**record.series, "words": labels}}, r"clip: an element of the series 'words' has shape \(2,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            one_row(data, dataclasses.replace(record, **lacking), about)


def test_what_data_cannot_be():
    with pytest.raises(ValueError, match="both make the stream 'audio'"):
        Data("", 1, audio=AudioSampling(10), features={"audio": SeriesSampling(3)})
    with pytest.raises(ValueError, match="both make the target of x"):
        Data("", 1, targets={"x": SeriesSampling(3)}, sequences={"x": 3})
    with pytest.raises(ValueError, match=r"cannot be averaged over data\.test_clips = 2"):
        Data("", 1, sequences={"x": 3}, test_clips=2)
    for way, message in ((SeriesSampling(3), "'y', which no clip of toy has; its series are x"),
                         (SeriesSampling(0, "x"), "a length of 0")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Crop(Data("", 1, features={"y": way}), description({"x": {"shape": [], "rate": 1.0}})).empty(1)


def test_sources_are_read_where_they_are_sent(tmp_path, rng):
    h5py = pytest.importorskip("h5py")
    values = rng.normal(size=(4, 6, 3))
    np.save(tmp_path / "a.npy", values[0])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/features"] = values.astype(np.float16)
    h5 = H5Row(tmp_path / "a.h5", "group/features", 2, 1.0)
    for source, expected in (
        (NpyFile(tmp_path / "a.npy", 4.0, 0.5), values[0].astype(np.float32)),
        (h5, values[2].astype(np.float16)),
        (dataclasses.replace(h5, row=None), values.astype(np.float16)),
        (Series(np.ones(3, np.uint8), 1.0), np.ones(3, np.uint8)),
    ):
        assert isinstance(source, Source)
        found = pickle.loads(pickle.dumps(source)).read()  # noqa: S301
        np.testing.assert_array_equal(found.values, expected)
        assert found.values.dtype == expected.dtype
        assert (found.rate, found.start) == (source.rate, source.start)
    for wrong, message in ((dataclasses.replace(h5, row=4), "has 4 rows, and no row 4"),
                           (dataclasses.replace(h5, key="other"), "no data set 'other'; it has group"),
                           (dataclasses.replace(h5, key="group"), "no data set 'group'")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            wrong.read()
    np.savez(tmp_path / "b.npz", a=values)
    np.save(tmp_path / "objects.npy", np.array([{}, None], object))
    for name, message in (("b.npz", "holds several arrays"), ("objects.npy", "allow_pickle=False")):
        with pytest.raises(ValueError, match=message):
            NpyFile(tmp_path / name, 1.0).read()


def test_without_h5py_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'avjax\[corpora\]'"):
        H5Row(tmp_path / "never_opened.h5", "x", 0, 1.0).read()


CORPUS = '''"""Features without sound and pictures, with labels over time and a transcript."""
import dataclasses
from typing import ClassVar

import numpy as np

from avjax.data.corpora import Clip
from avjax.data.series import NpyFile, Series


@dataclasses.dataclass(frozen=True)
class Corpus:
    clips_named: int = 6
    last_token: int = 3
    end: str = ""
    given: tuple = ()
    name: ClassVar[str] = "own"
    synthetic: ClassVar[bool] = False
    licence: ClassVar[str] = "CC0"

    @property
    def classes(self):
        return {}

    @property
    def vocabulary(self):
        return {"letters": [self.end, "a", "b", "c"]}

    def clips(self, root):
        return list(self.given) or [
            Clip(
                f"clip{n}", None, None, {}, f"g{n}", "train", {"sentiment": n / 4},
                {
                    "text": NpyFile(root / f"{n}.npy", 1.0),
                    "va": Series(np.full((7, 2), n, np.float32), 2.0, valid=np.arange(7) != n),
                },
                {"letters": tuple(range(1, self.last_token + 1))},
            )
            for n in range(self.clips_named)
        ]
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A corpus file, and beside it its folder ``data`` with a file that is damaged and one that is not finite."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(CORPUS)
    (folder / "data").mkdir()
    for number in range(6):
        np.save(folder / "data" / f"{number}.npy", np.full((5 - number // 3, 3), float(number)))
    (folder / "data" / "4.npy").write_bytes(b"no array")
    np.save(folder / "data" / "2.npy", np.array([[1, np.inf, -np.inf]]))
    (folder / "data" / "SYNTHETIC").write_text("written by a test, seed 3\n")
    return folder


def corpus(own: Path, **settings):
    return runpy.run_path(str(own / "own.py"))["Corpus"](**settings)


def test_a_corpus_file_of_series_is_prepared_and_read(own, capsys):
    words = ["prepare", str(own / "own.py"), "--data", str(own / "data"), "--workers", "1"]
    assert main([*words, "--out", str(own / "one")]) == 0
    report = capsys.readouterr().out
    for line in (
        "own (SYNTHETIC",
        "Series text: 3 numbers (float32) at 1 a second, in 5 clips, 5 elements at most.",
        "Series va: 2 numbers (float32) at 2 a second, in 5 clips, 7 elements at most.",
        "Sequence letters: in 5 clips, 3 tokens at most.",
        "4.npy (clip4): series 'text': ",
        "clip2: series 'text': 2 numbers were not finite and are 0",
    ):
        assert line in report, report
    assert "sound" not in report
    records = Records(own / "one")
    found = records.description
    assert found.synthetic
    assert found.provenance["synthetic"] == "written by a test, seed 3"
    assert found.vocabulary == {"letters": ["", "a", "b", "c"]}
    assert found.series["text"] == {"shape": [3], "rate": 1.0, "dtype": "float32", "longest": 5}
    assert verify(own / "one") == []
    record = records.split("train")[1]
    assert record.provenance["series/text"]["source"] == "1.npy"
    np.testing.assert_array_equal(record.series["text"].values, np.ones((5, 3)))
    assert record.sequences == {"letters": (1, 2, 3)}
    data = Data(
        str(own / "one"), 5, features={"text": SeriesSampling(3)}, values=("sentiment",),
        targets={"va": SeriesSampling(4)}, sequences={"letters": 4},
    )  # fmt: skip
    batch = next(training_batches(data, seed=0, start=0, steps=1))
    for row, index in enumerate(batch.index):
        number = int(records.split("train")[int(index)].name[4:])
        shown = batch.target["va/valid"][row] > 0
        np.testing.assert_array_equal(batch.target["va"][row], np.where(shown, number, 0)[:, None].repeat(2, 1))
        assert batch.target["values"][row] == number / 4


def test_bytes_depend_on_the_corpus_alone(own):
    folders = []
    for workers in (1, 2):
        folders.append(own / f"by{workers}")
        prepare(corpus(own), own / "data", folders[-1], workers=workers, clips_per_shard=2, progress=False)
    names = sorted(path.name for path in folders[0].glob("*.arrayrecord"))
    assert len(names) == 3
    for name in [*names, "dataset.json"]:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_other_series_sequences_or_vocabulary_need_overwrite(own, tmp_path):
    one = Clip("a", None, None, {}, "g", "train", {}, {"x": Series(np.ones(3, np.float32), 1.0)}, {"letters": (1, 2)})

    def run(clip: Clip = one, **settings):
        return prepare(corpus(own, given=(clip,), **settings), own, tmp_path, workers=1, progress=False)

    run()
    assert run().shards_written == 0
    for changed in (
        {"series": {"x": Series(np.ones((3, 1), np.float32), 1.0)}},
        {"series": {"x": Series(np.ones(3, np.float32), 2.0)}},
        {"series": {"x": Series(np.ones(3, np.float32), 1.0, valid=np.arange(3) > 0)}},
        {"series": {"y": Series(np.ones(3, np.float32), 1.0)}},
        {"sequences": {"letters": (1, 1)}},
    ):
        with pytest.raises(ValueError, match=r"different: .*clips"):
            run(dataclasses.replace(one, **changed))
    plan = json.loads((tmp_path / "plan" / "plan.json").read_text())
    plan["corpus"]["vocabulary"]["letters"].pop()
    (tmp_path / "plan" / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ValueError, match="different: corpus"):
        run()


class Undescribed:
    """A source whose fields cannot be listed, to tell one from another."""

    def read(self) -> Series:
        raise AssertionError


def test_clips_of_another_shape_are_counted(own, tmp_path):
    series = [
        Series(np.ones((4, width), dtype), 1.0) for width, dtype in ((3, np.int16), (3, np.float16), (2, np.uint8))
    ]
    given = tuple(Clip(f"c{n}", None, None, {}, "g", "train", {}, {"x": one}) for n, one in enumerate(series))
    report = prepare(corpus(own, given=given), own, tmp_path, workers=1, progress=False)
    assert report.series["x"] == {
        "shape": [3], "rate": 1.0, "dtype": "float32", "clips": 3, "odd": 1, "longest": 4,
    }  # fmt: skip
    assert "1 clips have elements of another shape" in report.text()


def test_what_a_corpus_cannot_say(own, tmp_path):
    one = Clip("a", None, None, {}, "g", "train", {}, {"x": Series(np.ones(3, np.float32), 1.0)})
    for settings, message in (
        ({"last_token": 4}, r"clip 'clip0': sequence 'letters' holds 4; .* vocabulary ends at 3"),
        ({"end": "?"}, r"the vocabulary of 'letters' must begin with \"\", number 0"),
        ({"given": (dataclasses.replace(one, sequences={"other": (0,)}),)}, "'other' holds 0; tokens count from 1"),
        ({"given": (dataclasses.replace(one, series={"x": Undescribed()}),)}, "series 'x' is a Undescribed; it must"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(corpus(own, **settings), own, tmp_path, workers=1, progress=False)
    nothing = corpus(own, given=(dataclasses.replace(one, series={}),))
    with pytest.raises(PrepareError, match="has neither sound nor pictures nor a series"):
        prepare(nothing, own, tmp_path, workers=1, progress=False)
