"""Charts of the page: lines, bars and tables of colour, as SVG and HTML in the page's own colours.

Plain SVG rather than matplotlib: one drawing follows the reader's light or dark scheme through the page's variables,
words keep their size on a phone while curves stretch, and a chart takes a kilobyte. Geometry stands in a drawing 100
units wide and high that is stretched to its box; strokes and words are not. Words are HTML, escaped by the template.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Num
from markupsafe import Markup

from avjax.diagnostics.page import environment

Values = Sequence[float | int | np.number | None] | Num[np.ndarray, " _"]
Form = Callable[[float], str]
Range = tuple[float, float]

QUIET = 8
"""The grey among the page's eight colours: what others are compared with."""


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve; None and NaN leave a gap.

    Attributes:
      low, high: edges of a band around it.
      colour: number of the page's colour.
      dash: solid, dashed or dotted.
      dots: marks its points.
    """

    name: str
    x: Values
    y: Values
    low: Values | None = None
    high: Values | None = None
    colour: int = 1
    dash: str = "solid"
    dots: bool = False


@dataclasses.dataclass(frozen=True)
class Bar:
    """A row of ``bars``.

    Attributes:
      value: None where there is none, and then ``text`` says why.
      low, high: its interval.
      second: an indented row.
      text: in place of the number.
    """

    name: str
    value: float | int | None
    low: float | int | None = None
    high: float | int | None = None
    colour: int = 1
    second: bool = False
    text: str = ""


def number(value: float) -> str:
    """In three digits and three decimals at most, as a reader takes it."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}".replace("-", "−")
    shown = f"{round(value, 3):.3g}" if abs(value) >= 0.0005 or value == 0 else f"{value:.0e}".replace("e-0", "e-")
    return shown.replace("-", "−", 1) if value < 0 else shown


def _decimals(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def percent(value: float) -> str:
    """0.5 -> "50 %"."""
    return f"{100 * value:.0f} %".replace("-", "−")


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within a range, ``most`` at most."""
    rough = (high - low) / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1, 2, 2.5, 5, 10, 20):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            break
    return [round(step * k, 12) for k in range(first, last + 1)]


def spread(values: Values) -> Range:
    """A range that holds the values with some air."""
    found = _finite(values)
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    air = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    return low - air, high + air


def lines(
    label: str,
    curves: Sequence[Line],
    *,
    x: str,
    y: str,
    y_range: Range | None = None,
    x_ticks: Sequence[tuple[float | int, str]] | None = None,
    form: Form = number,
    rule: float | None = None,
    keys: bool = True,
    tall: bool = False,
) -> Markup:
    """Curves over a common axis.

    Args:
      label: what is seen, for readers who do not see it.
      x, y: what the axes show.
      x_ticks: (place, word); round numbers unless given.
      form: of numbers along y.
      rule: a level that is marked, such as chance.
      keys: tells the curves' names below.
    """
    places = _finite([value for curve in curves for value in curve.x])
    left, right = (min(places), max(places)) if places else (0.0, 1.0)
    if left == right:
        left, right = left - 0.5, right + 0.5
    edges = [edge for curve in curves for edge in (curve.y, curve.low, curve.high) if edge is not None]
    levels = _finite([value for edge in edges for value in edge]) + ([] if rule is None else [rule])
    bottom, top = y_range or spread(levels)
    marks = [(tick, number(tick)) for tick in ticks(left, right, 6)] if x_ticks is None else x_ticks

    drawn = []
    for curve in curves:
        x_places, y_places = _placed(curve.x, left, right), _downwards(curve.y, bottom, top)
        band = ""
        if curve.low is not None and curve.high is not None:
            band = _band(x_places, _downwards(curve.low, bottom, top), _downwards(curve.high, bottom, top))
        drawn.append({
            "colour": curve.colour, "dash": curve.dash, "band": band,
            "path": _path(x_places, y_places),
            "dots": _dots(x_places, y_places) if curve.dots else "",
        })  # fmt: skip
    levels = ticks(bottom, top)
    grid = [*zip(_downwards(levels, bottom, top), map(form, levels), strict=True)]
    words = [*zip(_placed([place for place, _ in marks], left, right), [word for _, word in marks], strict=True)]
    rules = _downwards([] if rule is None else [rule], bottom, top)
    return _macro("plot")(label, drawn, grid, words, x, y, rules, _keys(curves) if keys else [], tall)


def stacked(label: str, at: Values, parts: Sequence[tuple[str, Values, int]], **axes: object) -> Markup:
    """Amounts (name, values, colour) on top of each other, at places of a common axis."""
    below = np.zeros(len(at))
    curves = []
    for name, values, colour in parts:
        above = below + np.asarray(values, np.float64)
        curves.append(Line(name, at, above, below, above, colour))
        below = above
    return lines(label, curves, **axes)


def bars(
    label: str,
    rows: Sequence[Bar],
    *,
    axis: Range | None = None,
    zero: float | None = None,
    form: Form | None = None,
    filled: bool = False,
    mark: float | None = None,
) -> Markup:
    """Values with their intervals, a row each.

    Args:
      zero: from which bars go out, where ``filled``.
      form: of the numbers; two decimals, or three where all are small, unless given.
      mark: a level that is marked in every row, such as chance.
    """
    edges = [edge for row in rows for edge in (row.value, row.low, row.high)] + [mark]
    low, high = axis or spread([*_finite(edges), *([] if zero is None else [zero])])
    if form is None:
        digits = 2 if max((abs(row.value) for row in rows if row.value is not None), default=1.0) >= 0.1 else 3
        form = functools.partial(_decimals, digits=digits)
        tick_form: Form = number
    else:
        tick_form = form

    at, lows, highs = (
        _placed([getattr(row, edge) for row in rows], low, high, clipped=True) for edge in ("value", "low", "high")
    )
    shown = [
        {
            "name": row.name, "second": row.second, "colour": row.colour, "at": at[k], "low": lows[k], "high": highs[k],
            "text": row.text or ("–" if row.value is None else form(row.value)),
        }
        for k, row in enumerate(rows)
    ]  # fmt: skip
    scale = ticks(low, high, 4)
    places = [*zip(_placed(scale, low, high), map(tick_form, scale), strict=True)]
    start, marked = _placed([zero if filled else None, mark], low, high, clipped=True)
    return _macro("bars")(label, shown, places, start, marked)


def heat(
    label: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | int | None]],
    *,
    axis: Range,
    middle: float | None = None,
    form: Form = number,
    small: Sequence[Sequence[str]] | None = None,
    corner: str = "",
) -> Markup:
    """A table whose cells are as strong as their values.

    Args:
      axis: values of no colour and of the full colour; with ``middle``, of the two full colours.
      middle: the value of no colour, where there are two.
      small: a second line of each cell.
    """
    low, high = axis

    def cell(value: float | int | None, note: str) -> dict[str, object]:
        if value is None or not math.isfinite(value):
            return {"text": note or "–", "note": "", "strength": 0.0, "below": False, "none": True}
        base = low if middle is None else middle
        reach = max((high - base) if value >= base else (base - low), 1e-12)
        strength = min(abs(value - base) / reach, 1.0) if middle is not None or value > base else 0.0
        below = middle is not None and value < base
        return {"text": form(value), "note": note, "strength": 100 * strength, "below": below, "none": False}

    notes = small or [[""] * len(columns)] * len(rows)
    cells = [[cell(*both) for both in zip(line, note, strict=True)] for line, note in zip(values, notes, strict=True)]
    longest = max((len(word) for name in columns for word in name.split()), default=0)
    return _macro("heat")(label, list(zip(rows, cells, strict=True)), list(columns), corner, max(42, 7 * longest))


def violin(
    label: str,
    groups: Sequence[tuple[str, Num[np.ndarray, " _"], int]],
    *,
    y: str,
    axis: Range,
    form: Form = number,
    rule: float | None = None,
) -> Markup:
    """How values (name, values, colour) are spread: Gaussian kernel density, with median and quartiles."""
    low, high = axis
    levels = np.linspace(low, high, 81)
    width = 100 / max(len(groups), 1)
    shapes, columns = [], []
    for place, (name, values, colour) in enumerate(groups):
        centre = (place + 0.5) * width
        columns.append((centre, name))
        found = np.asarray(values, np.float64)
        found = found[np.isfinite(found)]
        if len(found):
            bell = max(1.06 * found.std() * len(found) ** -0.2, (high - low) / 100)  # Silverman's rule
            density = np.exp(-0.5 * ((levels[:, None] - found) / bell) ** 2).sum(1)
            half = 0.42 * width * density / density.max()
            heights = 100 - 100 * (levels - low) / (high - low)
            right = [f"{x:.2f} {y:.2f}" for x, y in zip(centre + half, heights, strict=True)]
            left = [f"{x:.2f} {y:.2f}" for x, y in zip(centre - half, heights, strict=True)]
            outline = "M" + "L".join(right + left[::-1]) + "Z"
            first, median, third = _downwards(np.quantile(found, [0.25, 0.5, 0.75]), low, high)
            shapes.append({"colour": colour, "outline": outline, "box": f"M{centre:.2f} {first:.2f}V{third:.2f}",
                           "median": f"M{centre:.2f} {median:.2f}h0"})  # fmt: skip
    marks = ticks(low, high)
    grid = [*zip(_downwards(marks, low, high), map(form, marks), strict=True)]
    return _macro("violin")(label, shapes, grid, columns, y, _downwards([] if rule is None else [rule], low, high))


def _macro(name: str) -> Callable[..., Markup]:
    return getattr(environment().get_template("diagnosis/charts.html.j2").module, name)


def _finite(values: Values) -> list[float]:
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def _placed(values: Values, low: float, high: float, *, clipped: bool = False) -> list[float | None]:
    """Places along an axis of 100; None where there is no number."""
    found = np.array([math.nan if value is None else value for value in values], np.float64)
    found[~np.isfinite(found)] = math.nan
    if clipped:
        found = np.clip(found, low, high)
    places = 100 * (found - low) / (high - low)
    return [place if math.isfinite(place) else None for place in places.tolist()]


def _downwards(values: Values, low: float, high: float) -> list[float | None]:
    """Places from the top, no farther out than the axis."""
    return [None if place is None else 100 - place for place in _placed(values, low, high, clipped=True)]


def _runs(*edges: list[float | None]) -> list[list[tuple[float, ...]]]:
    """Unbroken stretches in which every edge is a number."""
    found: list[list[tuple[float, ...]]] = [[]]
    for point in zip(*edges, strict=True):
        if None not in point:
            found[-1].append(point)
        elif found[-1]:
            found.append([])
    return [run for run in found if run]


def _path(x: list[float | None], y: list[float | None]) -> str:
    return "".join("M" + "L".join(f"{a:.2f} {b:.2f}" for a, b in run) for run in _runs(x, y))


def _dots(x: list[float | None], y: list[float | None]) -> str:
    """Strokes without length, whose round ends are dots of one size however the drawing is stretched."""
    return "".join(f"M{a:.2f} {b:.2f}h0" for run in _runs(x, y) for a, b in run)


def _band(x: list[float | None], low: list[float | None], high: list[float | None]) -> str:
    found = ""
    for run in _runs(x, low, high):
        edge = [(a, above) for a, _, above in run] + [(a, below) for a, below, _ in reversed(run)]
        found += "M" + "L".join(f"{a:.2f} {b:.2f}" for a, b in edge) + "Z"
    return found


def _keys(curves: Sequence[Line]) -> list[dict[str, object]]:
    """One of each name, in their order; none where there is a single curve."""
    named = {curve.name: {"name": curve.name, "colour": curve.colour, "dash": curve.dash} for curve in curves}
    return list(named.values()) if len(named) > 1 else []
