"""Attacks compile quickly: their loops are tiny, and take far longer to compile than to run."""

from __future__ import annotations

import jax
import pytest

from tests.models import tiny


@pytest.fixture(autouse=True)
def quick_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "jit", tiny.jit)
