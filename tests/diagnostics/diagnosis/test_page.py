"""The page: nine sections, what is missing, hostile names, nothing loaded, and how it stands in a browser."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from avjax.diagnostics.definitions import DEFINITIONS
from avjax.diagnostics.diagnosis import Diagnosis, compare, verdicts, write
from avjax.diagnostics.diagnosis.page import anchor
from avjax.diagnostics.diagnosis.result import ShownClip
from tests.diagnostics.browser import layout, screenshot
from tests.diagnostics.diagnosis.example import example, reduced
from tests.diagnostics.test_report import Page
from tests.levels import in_part

SECTIONS = ("verdicts", "contribution", "drift", "consistency", "stress", "faithfulness", "clips", "made", "versus")
HOSTILE = '<img src=x onerror="go()">{{ 7 * 7 }}</script>&amp;'


def show(diagnosis: Diagnosis, out: Path, **options: object) -> Page:
    write(diagnosis, out, **options)
    return Page((out / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    one = example(5)
    return show(one, tmp_path_factory.mktemp("page"), versus=compare(one, example(6, name="other"), samples=20))


def test_all_nine_sections_are_full(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert [name for name in ids if name in SECTIONS] == list(SECTIONS)
    assert len(ids) == len(set(ids))
    figures = [tag for tag, _ in page.tags if tag == "figure"]
    assert len(figures) >= 25
    # Only the training stage was skipped, and it says so.
    assert len(page.having("absences")) == 1
    assert "the run kept its last checkpoint alone" in page.text


def test_every_link_within_the_page_has_its_place(page: Page) -> None:
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert len(links) >= 20
    assert all(link.startswith("#") and link[1:] in ids for link in links)


def test_numbers_stand_in_the_page(page: Page) -> None:
    for verdict in verdicts(example(5)):
        assert verdict.rule.title in page.text
        if verdict.light != "unknown":
            assert verdict.rule.text(verdict.value) in page.text
            assert verdict.rule.thresholds in page.text
    for word in ("86.0 %", "Interaction", "white_noise", "fusion.2", "PGD-20", "actor 5", "drawn-000", "5f2c91d07ab8"):
        assert word in page.text


def test_synthetic_data_is_labelled_wherever_results_stand(page: Page, tmp_path: Path) -> None:
    assert page.title.startswith("SYNTHETIC DATA")
    captions = [attributes for tag, attributes in page.tags if tag == "figcaption"]
    # In the head, at nine sections, and below every figure but those of wall time and of definitions.
    assert len(page.having("badge")) == 1 + len(SECTIONS) + len(captions)
    real = example(5)
    real = dataclasses.replace(real, about={**real.about, "data": {**real.about["data"], "synthetic": False}})
    shown = show(real, tmp_path)
    assert not shown.having("badge")
    assert "SYNTHETIC" not in shown.title


@pytest.mark.parametrize("section", ["contribution", "drift", "consistency", "stress", "faithfulness"])
def test_a_section_without_numbers_says_why(section: str, tmp_path: Path) -> None:
    less = reduced(example(7), section)
    stages = [{"name": section, "seconds": None, "reason": "there was no time for it"}]
    about = {**less.about, "protocol": {**less.about["protocol"], "stages": stages}}
    shown = show(dataclasses.replace(less, about=about), tmp_path)
    assert shown.text.count("there was no time for it") >= 3
    assert {name for name in SECTIONS if f'id="{name}"' in (tmp_path / "report.html").read_text()} == set(SECTIONS)


def test_an_empty_diagnosis_is_a_page(tmp_path: Path) -> None:
    bare = dataclasses.replace(example(8), measured=(), arrays={}, clips=())
    shown = show(bare, tmp_path)
    assert "not measured by the tier standard" in shown.text
    assert not re.search(r"\b(nan|inf|None)\b", shown.text)


def test_what_was_skipped_gives_its_reason(page: Page) -> None:
    assert "the same at every severity" not in page.text
    assert "none" in page.text
    assert "hidden" in page.text


def test_no_number_is_nan(page: Page, tmp_path: Path) -> None:
    drawn = example(9)
    spoiled = {name: array.copy() for name, array in drawn.arrays.items()}
    for name in ("share/mm_shap", "curve/joint/deletion", "training/allocation", "drift/score/audio/white_noise"):
        spoiled[name].ravel()[::7] = np.nan
    shown = show(dataclasses.replace(drawn, arrays=spoiled), tmp_path)
    for text in (page.text, shown.text):
        assert not re.search(r"\bnan\b|\binf\b", text, re.IGNORECASE)
    paths = [a["d"] for _, a in shown.tags if "d" in a] + [a.get("style", "") for _, a in shown.tags]
    assert not [path for path in paths if "nan" in path]


def test_names_are_escaped(tmp_path: Path) -> None:
    drawn = example(10, name=HOSTILE)
    rename = lambda line: dataclasses.replace(  # noqa: E731
        line,
        group=line.group and HOSTILE + line.group,
        estimator=HOSTILE + line.estimator,
        condition=line.condition and dataclasses.replace(line.condition, corruption=HOSTILE),
    )
    clips = (ShownClip(HOSTILE, HOSTILE, HOSTILE + "2", 0.5, 1.0), *drawn.clips)
    about = {**drawn.about, "data": {**drawn.about["data"], "name": HOSTILE}, "env": {HOSTILE: HOSTILE}}
    hostile = Diagnosis(tuple(map(rename, drawn.measured)), about, drawn.arrays, clips)
    shown = show(hostile, tmp_path, versus=compare(hostile, hostile, samples=5))
    assert all(a["src"].startswith("data:") for tag, a in shown.tags if tag == "img")
    assert not any(name.startswith("on") for _, attributes in shown.tags for name in attributes)
    assert "script" not in {tag for tag, _ in shown.tags}
    assert shown.text.count(HOSTILE) > 20


def test_the_page_loads_nothing(page: Page, tmp_path: Path) -> None:
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base", "video", "audio"}
    loads = [a[key] for _, a in page.tags for key in ("src", "href", "srcset", "data") if key in a]
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in loads)
    inline = " ".join(attributes.get("style", "") for _, attributes in page.tags)
    assert "@import" not in page.style
    assert not re.findall(r"url\(|https?:", page.style + inline)
    policies = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    write(example(5), tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 1e6


def test_pictures_have_words(page: Page) -> None:
    assert all("alt" in attributes for tag, attributes in page.tags if tag == "img")
    pictured = [attributes for _, attributes in page.tags if attributes.get("role") in ("img", "region")]
    assert len(pictured) > 30
    assert all(attributes.get("aria-label") for attributes in pictured)


def test_every_metric_shown_is_defined(page: Page) -> None:
    ids = {line.id for line in example(5).measured}
    for id in ids:
        assert DEFINITIONS[id].equation in page.text
        assert anchor(id) in {attributes.get("id") for _, attributes in page.tags}


# ------------------------------------------------------------------------------------------------- in a browser


@pytest.mark.slow
@pytest.mark.parametrize("long", [False, True])
def test_no_width_scrolls_sideways(long: bool, tmp_path: Path) -> None:
    one = example(11, name="T" * 90 if long else "drawn")
    if long:
        stretched = [
            dataclasses.replace(line, group=line.group and line.group + "g" * 60, estimator=line.estimator + "e" * 40)
            for line in one.measured
        ]
        one = dataclasses.replace(one, measured=tuple(stretched))
    write(one, tmp_path, versus=compare(one, one, samples=5))
    found = layout(tmp_path / "report.html")
    assert list(found) == [360, 390, 768, 1440]
    for width, seen in found.items():
        assert seen["height"] > 6000
        assert not seen["out"], f"wider than {width} px: {seen['out'][:5]}"
        assert seen["width"] <= width


@pytest.mark.slow
@pytest.mark.parametrize(("dark", "width"), in_part((False, True), (390, 1280), one_of=2))
def test_it_is_drawn_without_a_word_in_the_console(width: int, dark: bool, tmp_path: Path) -> None:
    from matplotlib.image import imread

    write(example(12), tmp_path)
    out = tmp_path / "page.png"
    assert screenshot(tmp_path / "report.html", out, width, 1600, dark=dark) == []
    pixels = imread(out)[:, :width, :3]
    # The page's own ground fills it, and there is something on it.
    assert (np.median(pixels) < 0.3) == dark
    assert pixels.std() > 0.05
