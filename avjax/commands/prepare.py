"""avjax prepare: media files to records."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from typing import Generic, Literal, TypeVar

import tyro
from tyro.conf import AvoidSubcommands

from avjax.commands import UsageError, Words, first_word, nearest

C = TypeVar("C")


@dataclasses.dataclass(frozen=True)
class PrepareOptions(Generic[C]):
    """Decodes a folder of media files once, into records that training reads.

    Attributes:
      data: folder of the corpus, in its original layout (the demo corpus is generated into it).
      out: folder for the records; an unfinished one is gone on with.
      corpus: the corpus's own settings.
      video_codec: jpeg: each frame by itself; h264: the file's own stream, not encoded again; raw: exact pixels. The
        corpus has a default, mostly jpeg.
      audio_codec: pcm16, or flac (smaller, slower).
      size: height and width that frames are resized to; needed where clips differ in size.
      workers: processes that decode; one a core unless told.
      overwrite: starts over where ``out`` holds records of other settings.
      json: prints the report as JSON.
    """

    data: Path
    out: Path
    corpus: C
    video_codec: Literal["jpeg", "h264", "raw"] | None = None
    audio_codec: Literal["pcm16", "flac"] = "pcm16"
    size: tuple[int, int] | None = None
    workers: int | None = None
    overwrite: bool = False
    json: bool = False


def prepare(words: Words) -> int:
    """CORPUS --data FOLDER --out FOLDER    media files to records"""
    from avjax.data.prepare import prepare as prepare_corpus

    name, rest = first_word(words, "prepare", "CORPUS", _corpora(), prepare.__doc__)
    corpus = _corpus(name)
    options = tyro.cli(AvoidSubcommands[PrepareOptions[corpus]], prog=f"avjax prepare {name}", args=rest)
    if options.corpus.synthetic:
        options.data.mkdir(parents=True, exist_ok=True)
    report = prepare_corpus(
        options.corpus,
        options.data,
        options.out,
        video_codec=options.video_codec or getattr(options.corpus, "video_codec", "jpeg"),
        audio_codec=options.audio_codec,
        size=options.size,
        workers=options.workers,
        overwrite=options.overwrite,
    )
    print(json.dumps(report.to_json(), indent=1) if options.json else report.text())
    return 0


def _corpora() -> list[str]:
    folder = Path(__file__).parents[1] / "data" / "corpora"
    return sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))


def _corpus(name: str) -> type:
    """The class ``Corpus`` of a corpus file, by name or path."""
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise UsageError(f"there is no corpus file {name}")
        spec = importlib.util.spec_from_file_location(Path(name).stem, name)
        module = importlib.util.module_from_spec(spec)
        # Worker processes and dataclasses look the module up by its name.
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    elif name in _corpora():
        module = importlib.import_module(f"avjax.data.corpora.{name}")
    else:
        near = nearest(name, _corpora())
        raise UsageError(f"there is no corpus {name!r}{near}; a path to a corpus file will do too")
    if not hasattr(module, "Corpus"):
        raise UsageError(f"{name} defines no dataclass Corpus; avjax/data/corpora/__init__.py says what it needs")
    return module.Corpus
