"""Sound from before a clip begins is nothing, however much the record has behind it."""

from __future__ import annotations

import numpy as np
import pytest

from avjax.data import media
from avjax.data.record import Audio, Record
from avjax.diagnostics.clips import LateAudio

RATE = 10


@pytest.mark.parametrize("late", [-3.0, 0.4, 4.0, 20.0])
def test_late_sound_of_a_record_longer_than_the_window(late):
    wave = np.arange(1, 121, dtype=np.int16)
    record = Record("clip", "test", "group", {}, {}, Audio.encode(media.Waveform(wave, RATE)), None)
    values, valid = np.full(100, -1, np.int16), np.zeros(100, bool)
    LateAudio(100, RATE, late).read(record, 1.0, values, valid)
    moment = np.arange(100) + 10 - round(late * RATE)
    there = (moment >= 0) & (moment < len(wave))
    np.testing.assert_array_equal(valid, there)
    np.testing.assert_array_equal(values, np.where(there, moment + 1, 0))
