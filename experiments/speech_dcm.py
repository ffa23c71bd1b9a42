"""Audio-visual speech recognition by DCM, on a small corpus in GRID's layout (synthetic).

python experiments/synthetic/grid.py data/grid
avjax prepare grid --data data/grid --out records/grid --corpus.protocol overlapped --size 16 20
avjax train speech_dcm

Sentences of six words, one token a word; CTC and the decoder learn together. Training hears them in white noise, -10 to
20 dB, so that lips have something to say; ``experiments/speech_decoding.py`` measures by noise and by way of decoding.
About 150 s on two CPU cores; word error rate 0.10, and 0.24 from sound alone (``speech_audio``).
"""

from __future__ import annotations

from collections.abc import Sequence

from avjax.data.augment import SpecAugment, WaveformJitter
from avjax.data.frontend import Augment, FrameNormalise, Frontend
from avjax.data.logmel import LogMel
from avjax.data.pipeline import AudioSampling, Data, VideoSampling
from avjax.experiment import Experiment, Training
from avjax.models import dcm
from avjax.nn.encoders import Conv1dEncoder, Encoder, Patches
from avjax.nn.transformer import Size
from avjax.objectives.sequence import Transcription
from avjax.training.optimizer import AdamW

LOGMEL = LogMel(mels=40)
# 2.96 s of sound, eight spectrogram frames a token; 3 s of pictures, three frames a token.
AUDIO = Conv1dEncoder("audio", shape=(296, LOGMEL.mels), channels=(48, 64, 64), size=5, pool=2, pool_stride=2)
VIDEO = Patches("video", shape=(75, 16, 20, 3), patch=(3, 16, 20))
# The grammar's words, and CTC's blank.
HEAD, WORDS, LENGTH = "transcript", 51, 6
AUGMENT = Augment(
    waveform=WaveformJitter(snr=(-10.0, 20.0), noise_probability=0.8),
    spectrogram=SpecAugment(frequency_masks=1, frequency_width=8, time_masks=2, time_width=20),
)


def speech(modalities: Sequence[Encoder], *, steps: int = 1000) -> Experiment:
    """The experiment with these modalities."""
    names = [encoder.modality for encoder in modalities]
    return Experiment(
        model=dcm.Config(
            modalities=tuple(modalities),
            classes={HEAD: WORDS + 1},
            size=Size(width=64, depth=2, heads=4),
            decoder_depth=1,
            frames=25,
            length=LENGTH,
        ),
        data=Data(
            records="records/grid",
            batch=32,
            audio=AudioSampling(LOGMEL.samples(296)) if "audio" in names else None,
            video=VideoSampling(frames=75, rate=25.0) if "video" in names else None,
            sequences={HEAD: LENGTH},
        ),
        frontend=Frontend(audio=LOGMEL, video=FrameNormalise(), augment=AUGMENT),
        objective=Transcription(ctc=0.5),
        optimizer=AdamW(learning_rate=2e-3, weight_decay=0.05),
        training=Training(steps=steps, checkpoint_every=500),
    )


def experiment() -> Experiment:
    return speech((AUDIO, VIDEO))
