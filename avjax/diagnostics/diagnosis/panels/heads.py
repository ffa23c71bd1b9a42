"""What heads of attention are worth, and how alike those of a layer are."""

from __future__ import annotations

from markupsafe import Markup

from avjax.diagnostics.diagnosis import charts
from avjax.diagnostics.diagnosis.panels.panel import Panel
from avjax.diagnostics.diagnosis.result import Diagnosis

ALIKE = {
    "faithfulness/head_redundancy": "weights, 1 - JSD",
    "faithfulness/head_cosine": "weights, cosine",
    "faithfulness/head_cka": "outputs, CKA",
}


def importance(diagnosis: Diagnosis) -> Markup | None:
    """Each head's part of all heads' importance."""
    lines = [line for line in diagnosis.find("faithfulness/head_importance") if line.value is not None]
    whole = sum(line.value for line in lines)
    if not whole:
        return None
    own = {(str(line.layer), line.head): line.value / whole for line in lines}
    layers, heads = list(dict.fromkeys(layer for layer, _ in own)), sorted({head for _, head in own})
    values = [[own.get((layer, head)) for head in heads] for layer in layers]
    return charts.heat("Importance by layer and head", layers, [str(head) for head in heads], values,
                       axis=(0.0, max(own.values())), form=charts.percent)  # fmt: skip


def alike(diagnosis: Diagnosis) -> Markup | None:
    """Likeness of a layer's heads by three measures."""
    own = {
        (str(line.layer), name): line.value
        for id, name in ALIKE.items() for line in diagnosis.find(id) if line.value is not None
    }  # fmt: skip
    if not own:
        return None
    layers, names = list(dict.fromkeys(layer for layer, _ in own)), list(ALIKE.values())
    values = [[own.get((layer, name)) for name in names] for layer in layers]
    return charts.heat("Likeness of a layer's heads", layers, names, values, axis=(0.0, 1.0),
                       form=lambda value: f"{value:.2f}")  # fmt: skip


PANELS = (
    Panel("What heads are worth", "Each head's part of the importance of all: how much the loss would change if its "
          "output were taken away, to first order. Heads that do the same work are each cheap to lose.",
          ("faithfulness/head_importance",), importance),
    Panel("How alike a layer's heads are", "By where they look, and by what they bring back. 1: all the same.",
          tuple(ALIKE), alike),
)  # fmt: skip
