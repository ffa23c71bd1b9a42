"""Pages in a headless browser: whether they fit a width, what they log, and how they look."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_PROBE = """
<script>
addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, wide = frame.clientWidth;
    const all = [...page.querySelectorAll("body *")];
    // What lies within a box that scrolls or clips may be wider; the box itself may not.
    const clipped = e => e.parentElement.closest(".scroll, svg, .strip, .spectrogram");
    const out = all.filter(e => !clipped(e) && e.getBoundingClientRect().right > wide + 1);
    found[wide] = {width: page.documentElement.scrollWidth, height: page.documentElement.scrollHeight,
                   out: out.map(e => e.outerHTML.slice(0, 90)), tables: page.querySelectorAll("table").length};
  }
  document.body.textContent = JSON.stringify(found);
});
</script>
"""


def browser() -> str:
    """The program; a test without one is skipped."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("skipped: no chromium")
    return found


def layout(page: Path, widths: tuple[int, ...] = (360, 390, 768, 1440)) -> dict[int, dict[str, Any]]:
    """The page at several widths: its width and height, what sticks out, and how many tables it has."""
    text = html.escape(page.read_text(encoding="utf-8"))
    frames = "".join(f'<iframe style="border:0;width:{w}px;height:900px" srcdoc="{text}"></iframe>' for w in widths)
    probe = page.parent / "probe.html"
    probe.write_text(f"<!doctype html><body>{frames}{_PROBE}", encoding="utf-8")
    dump = _run(page.parent, "--window-size=1600,1200", "--dump-dom", probe.as_uri()).stdout
    found = json.loads(html.unescape(re.search(r"<body>(.*?)</body>", dump, re.DOTALL).group(1)))
    return {int(width): seen for width, seen in found.items()}


def screenshot(page: Path, out: Path, width: int, height: int, *, dark: bool) -> list[str]:
    """Takes a picture; returns what the page logged.

    A window is 500 wide at least, so that a phone's page is framed in a wider one.
    """
    framed = page
    if width < 500:
        framed = page.parent / f"framed-{width}.html"
        text = html.escape(page.read_text(encoding="utf-8"))
        framed.write_text(
            "<!doctype html><meta name=color-scheme content='light dark'><body style='margin:0'>"
            f'<iframe style="border:0;width:{width}px;height:{height}px" srcdoc="{text}"></iframe>',
            encoding="utf-8",
        )
    words = [f"--window-size={max(width, 500)},{height}", f"--screenshot={out}", "--enable-logging=stderr"]
    words += ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
    logged = _run(page.parent, *words, framed.as_uri()).stderr
    return [line for line in logged.splitlines() if "CONSOLE" in line]


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    common = [
        browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
    ]  # fmt: skip
    return subprocess.run([*common, *words], capture_output=True, text=True, timeout=120, check=True)
