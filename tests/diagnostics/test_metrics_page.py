"""docs/metrics.md is what the definitions say, and its figures show what the metrics' own functions give."""

from __future__ import annotations

import re
import runpy
from xml.etree import ElementTree

import numpy as np
import pytest

from avjax.diagnostics.definitions import DEFINITIONS, LIBRARY_ONLY

MOST_BYTES = 40_000


@pytest.fixture(scope="module")
def program(root):
    return runpy.run_path(str(root / "experiments" / "metrics.py"))


def test_the_page_is_up_to_date(root, program):
    assert (root / "docs" / "metrics.md").read_text() == program["page"](), "run python experiments/metrics.py"


def test_every_metric_has_its_heading(program):
    headings = re.findall(r"^### (\S+)$", program["page"](), re.MULTILINE)
    assert sorted(headings) == sorted(DEFINITIONS)


def test_what_no_stage_reports_is_marked(program):
    parts = re.split(r"^### (\S+)$", program["page"](), flags=re.MULTILINE)
    marked = {id for id, text in zip(parts[1::2], parts[2::2], strict=True) if "**library only**" in text}
    assert marked == LIBRARY_ONLY
    assert set(DEFINITIONS) >= LIBRARY_ONLY


def test_every_link_leads_to_a_file(root, program):
    links = set(re.findall(r"\]\(([^)]+)\)", program["page"]()))
    assert links
    assert not [link for link in links if not (root / "docs" / link).exists()]


def test_figures_are_there_and_small(root, program, tmp_path):
    shown = re.findall(r"\(figures/(\w+)\.svg\)", program["page"]())
    assert sorted(shown) == sorted(program["DRAW"])
    for name in shown:
        program["write_figure"](name, tmp_path)
        for folder in (tmp_path, root / "docs" / "figures"):
            file = folder / f"{name}.svg"
            assert file.stat().st_size < MOST_BYTES
            assert ElementTree.parse(file).getroot().tag.endswith("svg")


def test_the_state_moves_between_modalities_first_and_within_video_then(program):
    found = program["moving_state"](20)
    np.testing.assert_allclose(found.allocation + found.localisation.sum(axis=-1), found.total, atol=1e-15)
    assert (np.diff(found.allocation[:21]) > 0).all()
    np.testing.assert_allclose(found.localisation[:21], 0, atol=1e-15)
    np.testing.assert_allclose(np.diff(found.allocation[20:]), 0, atol=1e-15)
    assert (np.diff(found.localisation[20:, 1]) > 0).all()
    np.testing.assert_allclose(found.localisation[:, 0], 0, atol=1e-15)
