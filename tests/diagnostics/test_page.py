"""What pages share: writing, names that may break, the machine."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from avjax.diagnostics.page import breakable, environment, machine, write_page


def test_names_break_behind_their_joints_and_stay_escaped() -> None:
    assert breakable("runs/demo_mbt-2") == "runs/<wbr>demo_<wbr>mbt-<wbr>2"
    assert breakable("<b>_x") == "&lt;b&gt;_<wbr>x"


def test_a_page_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = jinja2.DictLoader({"page": "{{ word }}", "broken": "{{ nothing }}"})
    monkeypatch.setattr(environment(), "loader", loader)
    out = tmp_path / "folder" / "page.html"
    write_page("page", {"word": "<x>"}, out)
    assert out.read_text() == "&lt;x&gt;"
    with pytest.raises(jinja2.UndefinedError):
        write_page("broken", {}, out)
    assert [file.name for file in out.parent.iterdir()] == ["page.html"]


def test_the_machine_is_told() -> None:
    found = dict(machine())
    assert list(found) == ["Versions", "Processor", "Accelerators", "System"]
    assert "Python 3." in found["Versions"]
    assert all(found.values())
