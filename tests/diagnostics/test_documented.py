"""docs/diagnose.md: its program runs as it stands, and finds what its model was made of."""

from __future__ import annotations

import re

import pytest
import yaml

from avjax.diagnostics.diagnosis import read, read_bounds


@pytest.mark.slow
def test_a_function_of_ones_own(root, tmp_path, capsys):
    text = (root / "docs" / "diagnose.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    exec(compile(program, "docs/diagnose.md", "exec"), {"out": tmp_path})
    assert float(capsys.readouterr().out) == 1
    found = read(tmp_path)
    assert found.value("stress/accuracy", corruption=None) == 1
    assert found.value("contribution/shape", group="video", fill="drop") == 0
    assert (tmp_path / "report.html").is_file()


def test_the_bounds_can_be_read(root, tmp_path):
    text = (root / "docs" / "diagnose.md").read_text(encoding="utf-8")
    (bounds,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert yaml.safe_load(bounds)
    (tmp_path / "bounds.yaml").write_text(bounds)
    assert len(read_bounds(tmp_path / "bounds.yaml")) == 2
