"""docs/systems.md is what the systems say of themselves."""

from __future__ import annotations

import runpy

import pytest

from avjax.models import systems


def _without_results(page: str) -> str:
    return "\n".join(line for line in page.splitlines() if not line.startswith("- **here"))


@pytest.mark.slow
def test_the_page_is_up_to_date(root):
    written = (root / "docs" / "systems.md").read_text()
    made = runpy.run_path(str(root / "experiments" / "systems.py"))["page"]({})
    assert _without_results(written) == _without_results(made), "run python experiments/systems.py"


def test_results_stand_beside_their_system(root, tmp_path):
    program = runpy.run_path(str(root / "experiments" / "systems.py"))
    file = tmp_path / "comparison.json"
    mbt = '{"accuracy": 0.5, "accuracy_low": 0.25, "accuracy_high": 0.75, "without_audio": 0.125}'
    file.write_text(f'{{"metric": "accuracy", "experiments": {{"mbt": {mbt}, "mult": {{"accuracy": null}}}}}}')
    results = program["reached"](file)
    assert results == {"mbt": "accuracy 0.500 (0.250 to 0.750), 0.125 without sound"}
    section = program["_section"]("mbt", systems()["mbt"], 12, results)
    assert "- **here, on the synthetic demo corpus**: accuracy 0.500 (0.250 to 0.750)" in section
