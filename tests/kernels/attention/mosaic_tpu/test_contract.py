"""The TPU kernels under the shared contract, interpreted: in blocks of 128, so that every case has what it may have."""

from __future__ import annotations

import pytest

from kernels.attention.mosaic_tpu import target
from tests.kernels.attention import cases
from tests.kernels.attention.contract import AttentionContract


class TestMosaicTPU(AttentionContract):
    implementation = "mosaic_tpu"

    @pytest.fixture(autouse=True)
    def _interpreted(self):
        cases.compiled.cache_clear()
        with target.interpreted():
            yield
        cases.compiled.cache_clear()
