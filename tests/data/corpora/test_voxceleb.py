"""VoxCeleb's reader, on hand-made folders; and the synthetic corpus in its layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from avjax.data.corpora import SPLITS
from avjax.data.corpora.voxceleb import Corpus
from experiments.synthetic import voxceleb as writer


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_both_layouts(tmp_path: Path) -> None:
    touch(tmp_path, "wav/id10001/aaa/00001.wav", "mp4/id10001/aaa/00001.mp4")
    touch(tmp_path, "dev/aac/id00012/bbb/00016.m4a", "dev/mp4/id00012/bbb/00016.mp4", "dev/mp4/id00012/bbb/00017.mp4")
    corpus = Corpus()
    clips = {clip.name: clip for clip in corpus.clips(tmp_path)}
    assert corpus.classes == {"identity": ("id00012", "id10001")}
    assert list(clips) == ["id00012/bbb/00016", "id10001/aaa/00001", "id00012/bbb/00017"]
    first = clips["id10001/aaa/00001"]
    assert (first.audio, first.video) == (
        tmp_path / "wav/id10001/aaa/00001.wav",
        tmp_path / "mp4/id10001/aaa/00001.mp4",
    )
    assert (first.labels, first.group) == ({"identity": 1}, "id10001")
    # A video without a sound file of its own has its sound with it.
    assert clips["id00012/bbb/00017"].audio == clips["id00012/bbb/00017"].video


def test_a_voice_comes_with_the_face_of_another_video(tmp_path: Path) -> None:
    for video in ("a", "b", "c"):
        touch(tmp_path, *(f"{kind}/id1/{video}/{n}.{kind}" for kind in ("wav", "mp4") for n in range(2)))
    for across in (True, False):
        for clip in Corpus(across=across).clips(tmp_path):
            seen = Path(clip.video).relative_to(tmp_path / "mp4" / "id1").with_suffix("")
            _, video, number = clip.name.split("/")
            wanted = {"a": "b", "b": "c", "c": "a"}[video] if across else video
            assert str(seen) == f"{wanted}/{number}"


def test_nobody_is_in_two_splits(tmp_path: Path) -> None:
    touch(tmp_path, *(f"wav/id{n:05d}/{video}/1.wav" for n in range(200) for video in "ab"))
    clips = Corpus(test=0.3, validation=0.2).clips(tmp_path)
    splits: dict[str, str] = {}
    assert all(splits.setdefault(clip.group, clip.split) == clip.split for clip in clips)
    share = {split: sum(one == split for one in splits.values()) / 200 for split in SPLITS}
    np.testing.assert_allclose([share["test"], share["validation"]], [0.3, 0.7 * 0.2], atol=0.1)
    # The first of everybody come first: neighbours are different people.
    assert [clip.group for clip in clips[:200]] == [f"id{n:05d}" for n in range(200)]


def test_the_list_says_who_is_tested(tmp_path: Path) -> None:
    touch(tmp_path, *(f"wav/id1000{n}/a/1.wav" for n in range(4)))
    lines = ["VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet"]
    lines += [f"id1000{n}\tsomebody\tf\tIndia\t{'test' if n == 2 else 'dev'}" for n in range(4)]
    (tmp_path / "vox1_meta.csv").write_text("\n".join(lines))
    clips = Corpus(validation=0.0).clips(tmp_path)
    assert [clip.split for clip in clips] == ["train", "train", "test", "train"]


def test_what_is_said_of_files(tmp_path: Path) -> None:
    touch(tmp_path, "wav/id1/a/1.wav", "again/id1/a/1.wav", "wav/someone/a/1.wav", "song.wav", "notes.txt")
    reasons = sorted(reason for _, reason in Corpus().strangers(tmp_path))
    assert len(reasons) == 3
    assert sum("idNNNNN/VIDEO/NUMBER" in reason for reason in reasons) == 2
    assert sum(reason.startswith("the same as") for reason in reasons) == 1


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Corpus().clips(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="unpack VoxCeleb's archives"):
        Corpus().clips(tmp_path)
    touch(tmp_path, "song.wav")
    with pytest.raises(FileNotFoundError, match="none of its 1 media files"):
        Corpus().clips(tmp_path)
    with pytest.raises(ValueError, match="shares"):
        Corpus(test=2.0)


def test_factors_are_shared() -> None:
    people = writer.people(writer.Options(Path("nowhere"), people=3000, bond=0.8))
    heard, seen = (np.array([getattr(person, name) for person in people]) for name in ("heard", "seen"))
    for factor in range(2):
        # Bounded at two deviations, which takes a little of the correlation away.
        assert np.corrcoef(heard[:, factor], seen[:, factor])[0, 1] == pytest.approx(0.8, abs=0.04)
    assert abs(np.corrcoef(heard[:, 0], seen[:, 1])[0, 1]) < 0.06
    assert np.mean([person.female for person in people]) == pytest.approx(0.5, abs=0.04)
    formants = np.array([writer.voice_of(person).formants[0] for person in people if not person.female])
    sizes = np.array([person.heard[0] for person in people if not person.female])
    assert np.corrcoef(formants, sizes)[0, 1] < -0.99
    heads = np.array([writer.look_of(person, 0).head[0] for person in people[:200]])
    assert np.corrcoef(heads, [person.seen[0] for person in people[:200]])[0, 1] > 0.99


def test_ceilings() -> None:
    """By sex alone: right where the other is of the other sex, and half of the time where not."""
    found = writer.ceilings(0.9, (2, 10))
    assert found["sex"][2] == pytest.approx(0.75, abs=0.01)
    assert found["all"] == {2: pytest.approx(0.955, abs=0.005), 10: pytest.approx(0.718, abs=0.01)}
    assert writer.ceilings(0.0)["all"][2] == pytest.approx(0.75, abs=0.02)


def test_the_written_corpus_is_read(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    made = writer.write(writer.Options(tmp_path, people=4, workers=1))
    corpus = Corpus()
    clips = corpus.clips(tmp_path)
    assert made == len(clips) == 16
    assert corpus.strangers(tmp_path) == []
    assert {clip.group for clip in clips if clip.split == "test"} == {"id10004"}
    assert all(clip.name.split("/")[1] not in str(clip.video) for clip in clips)
    sound = writer.media.decode(clips[0].audio).audio
    assert sound.seconds == pytest.approx(writer.SECONDS, abs=0.01)
    assert writer.media.decode(clips[0].video).video.images.shape == (writer.FRAMES, 32, 32, 3)
