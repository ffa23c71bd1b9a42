"""Word and character error rates of trained runs, by noise and by way of decoding, as a table.

python experiments/speech_decoding.py runs/speech_dcm runs/speech_audio

Ways are those of ``avjax.training.transcribe``: greedy, prefix beam search with CTC, and with CTC and the decoder
together. Intervals of 95 % are bootstrapped over sentences.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from avjax.data.augment import WaveformJitter
from avjax.data.frontend import Augment, Frontend
from avjax.training.metrics.estimate import estimates
from avjax.training.metrics.transcription import transcription_measures
from avjax.training.trained import Trained
from avjax.training.transcribe import WAYS, transcribe

HEAD = "transcript"


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
      runs: run directories.
      snr: of the white noise, in dB; quiet is measured in any case.
      ctc: share of CTC in joint decoding.
      split: of the records.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    snr: tuple[float, ...] = (0.0, -10.0)
    ctc: float = 0.5
    split: str = "test"


def noisy(frontend: Frontend, snr: float) -> Frontend:
    """The front end with white noise at this ratio on the sound of every clip."""
    noise = WaveformJitter(gain=(0.0, 0.0), snr=(snr, snr), noise_probability=1.0)
    return dataclasses.replace(frontend, augment=Augment(waveform=noise))


def main(options: Options) -> None:
    metrics = [f"{metric} {way}" for metric in ("WER", "CER") for way in WAYS]
    print(f"| run | noise | {' | '.join(metrics)} |")
    print("| --- " * (2 + len(metrics)) + "|")
    for path in options.runs:
        trained = Trained.load(path)
        mark = " (synthetic)" if trained.description.synthetic else ""
        for snr in (None, *options.snr):
            frontend = None if snr is None else noisy(trained.experiment.frontend, snr)
            found = transcribe(trained, HEAD, options.split, ctc=options.ctc, frontend=frontend)
            rates = {}
            for way, sentences in found.found.items():
                measures = transcription_measures(lambda sentences=sentences: sentences, found.true)
                rates |= {f"{metric.upper()} {way}": each for metric, each in estimates(measures).items()}
            cells = [f"{rates[name].value:.3f} ({rates[name].low:.3f} to {rates[name].high:.3f})" for name in metrics]
            noise = "none" if snr is None else f"{snr:g} dB"
            print(f"| {path.name}{mark} | {noise} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
