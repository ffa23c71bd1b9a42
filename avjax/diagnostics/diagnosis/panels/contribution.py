"""What each modality contributes: ablations, SHAPE, MM-SHAP, attention by layer and head, and whether they agree."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from avjax.diagnostics.diagnosis import charts
from avjax.diagnostics.diagnosis.arrays import AGAINST, SHARE, STRESSED
from avjax.diagnostics.diagnosis.charts import Bar
from avjax.diagnostics.diagnosis.panels import heads
from avjax.diagnostics.diagnosis.panels.panel import JOINT, Panel, Section, colour, distinct, section
from avjax.diagnostics.diagnosis.result import Diagnosis

LIFT_SHOWN = 3.0


def ablations(diagnosis: Diagnosis) -> Markup | None:
    """Accuracy by the modalities that are there, and by what stands in for the others."""
    lines = [line for line in diagnosis.find("contribution/ablation_accuracy") if line.value is not None]
    if not lines:
        return None
    groups = [group for (group,) in distinct(lines, "group")]
    fills = [fill for (fill,) in distinct(lines, "fill") if fill] or [None]

    def value(id: str, group: str, fill: str | None) -> float | None:
        found = diagnosis.one(f"contribution/ablation_{id}", group=group, fill=fill)
        return None if found is None else found.value

    def any_fill(id: str, group: str, fill: str | None) -> float | None:
        """Of all modalities nothing is filled in."""
        found = value(id, group, fill)
        return value(id, group, None) if found is None else found

    def second(group: str, fill: str | None) -> str:
        nll, ece = any_fill("nll", group, fill), any_fill("ece", group, fill)
        words = [] if nll is None else [f"{nll:.2f}"]
        return " · ".join(words + ([] if ece is None else [f"{ece:.2f}"]))

    values = [[any_fill("accuracy", group, fill) for fill in fills] for group in groups]
    notes = [[second(group, fill) for fill in fills] for group in groups]
    heads = [fill or "as it is" for fill in fills]
    return charts.heat("Accuracy by modalities that are there and by fill", groups, heads, values, axis=(0.0, 1.0),
                       form=charts.percent, small=notes, corner="there")  # fmt: skip


def shape(diagnosis: Diagnosis) -> Markup | None:
    """SHAPE's contributions and cooperation."""
    rows = [
        Bar(f"{line.group}{f', {line.fill}' if line.fill else ''}", line.value, line.ci_lo, line.ci_hi,
            colour(diagnosis, line.group))
        for line in diagnosis.find("contribution/shape") if line.value is not None
    ]  # fmt: skip
    rows += [
        Bar(f"cooperation{f', {line.fill}' if line.fill else ''}", line.value, line.ci_lo, line.ci_hi, JOINT)
        for line in diagnosis.find("contribution/cooperation") if line.value is not None
    ]  # fmt: skip
    return charts.bars("SHAPE contributions", rows, zero=0.0, filled=True) if rows else None


def shares(diagnosis: Diagnosis) -> Markup | None:
    """How MM-SHAP's shares are spread over clips."""
    found = diagnosis.arrays.get(f"{SHARE}mm_shap")
    if found is None or not len(found):
        return None
    groups = [(name, found[:, k], colour(diagnosis, name)) for k, name in enumerate(diagnosis.modalities)]
    even = 1 / len(groups)
    return charts.violin("MM-SHAP share of each modality over clips", groups, y="share of a clip", axis=(0.0, 1.0),
                         form=charts.percent, rule=even)  # fmt: skip


def net(diagnosis: Diagnosis) -> Markup | None:
    """The signed effect of each modality's players, beside the share of their sizes and its standard error."""
    rows = []
    for line in diagnosis.find("contribution/mm_shap_net", target="predicted"):
        if line.value is not None:
            same = {"group": line.group, "fill": line.fill, "target": line.target}
            share, error = (diagnosis.value(f"contribution/{id}", **same) for id in ("mm_shap", "mm_shap_error"))
            beside = "" if share is None else f": share {100 * share:.1f} %"
            beside += "" if share is None or error is None else f" ± {100 * error:.1f}"
            rows.append(Bar(f"{line.group}{f', {line.fill}' if line.fill else ''}{beside}", line.value, line.ci_lo,
                            line.ci_hi, colour(diagnosis, line.group)))  # fmt: skip
    return charts.bars("Net Shapley value of each modality, in logits", rows, zero=0.0, filled=True) if rows else None


def estimates(diagnosis: Diagnosis) -> Markup | None:
    """Every estimator's share of each modality, side by side."""
    rows = []
    for id, name in SHARES.items():
        lines = [line for line in diagnosis.find(id, layer=None, head=None, corruption=None) if line.value is not None]
        lines = [line for line in lines if line.group in diagnosis.modalities and STRESSED not in line.estimator]
        several = len({(line.estimator, line.fill) for line in lines}) > 1
        for line in lines:
            title = f"{name} ({line.fill or line.estimator}): {line.group}" if several else f"{name}: {line.group}"
            title += ", of the label" if line.target == "label" else ""
            rows.append(Bar(title, line.value, line.ci_lo, line.ci_hi, colour(diagnosis, line.group)))
        # Of attention there are lines by layer; the arrays hold the mean over layers.
        means = diagnosis.arrays.get(SHARE + id.split("/")[1])
        if not lines and means is not None and len(means):
            rows += [
                Bar(
                    f"{name}, mean of layers: {modality}",
                    float(np.mean(means[:, k])),
                    colour=colour(diagnosis, modality),
                )
                for k, modality in enumerate(diagnosis.modalities)
            ]
    axis = charts.spread([0.0, 1.0, *(row.value for row in rows)]) if rows else (0.0, 1.0)
    even = 1 / max(len(diagnosis.modalities), 1)
    return charts.bars("Share of each modality by every estimator", rows, axis=axis, form=charts.percent, mark=even) \
        if rows else None  # fmt: skip


SHARES = {
    "contribution/mm_shap": "MM-SHAP",
    "contribution/integrated_gradients": "integrated gradients",
    "contribution/gradient_x_input": "gradient × input",
    "contribution/chefer_share": "relevancy",
    "contribution/rollout_share": "rollout",
    "contribution/output_share": "output share",
    "contribution/value_weighted_share": "value-weighted attention",
    "contribution/attention_share": "attention",
}


def lift(diagnosis: Diagnosis) -> Markup | None:
    """Lift by layer and head."""
    return _by_head(diagnosis, "contribution/attention_lift", (-LIFT_SHOWN, LIFT_SHOWN), 0.0)


def output_share(diagnosis: Diagnosis) -> Markup | None:
    """Output share by layer, or by head where there are lines of heads, and over all layers."""
    title, axis = "Output share", {"axis": (-0.25, 1.25), "middle": 0.5, "form": lambda value: f"{value:.2f}"}
    means = diagnosis.arrays.get(f"{SHARE}output_share")
    known = means is not None and len(means) > 0
    whole = {name: float(np.mean(means[:, k])) for k, name in enumerate(diagnosis.modalities)} if known else {}
    heads = _by_head(diagnosis, "contribution/output_share", (-0.25, 1.25), 0.5)
    if heads:
        over = charts.heat(f"{title}, mean of layers", ["all layers"], list(whole), [list(whole.values())], **axis)
        return heads + over if whole else heads
    lines = [line for line in diagnosis.find("contribution/output_share") if line.layer is not None]
    lines = [line for line in lines if "% of heads" not in line.estimator]
    own = {(line.layer, line.group): line.value for line in lines}
    if not any(value is not None for value in own.values()):
        return None
    layers, groups = (list(dict.fromkeys(key[k] for key in own)) for k in range(2))
    values = [[own.get((layer, group)) for group in groups] for layer in layers]
    if whole:
        values.append([whole.get(group) for group in groups])
    rows = [*map(str, layers), *(["all layers"] if whole else [])]
    return charts.heat(f"{title} by layer", rows, [str(group) for group in groups], values, **axis)


def _by_head(diagnosis: Diagnosis, id: str, axis: tuple[float, float], middle: float) -> Markup | None:
    lines = [line for line in diagnosis.find(id) if line.layer is not None and line.head is not None]
    if not any(line.value is not None for line in lines):
        return None
    drawn = []
    for (group,) in distinct(lines, "group"):
        own = {(line.layer, line.head): line.value for line in lines if line.group == group}
        layers, heads = list(dict.fromkeys(layer for layer, _ in own)), sorted({head for _, head in own})
        values = [[own.get((layer, head)) for head in heads] for layer in layers]
        drawn.append(charts.heat(f"{id} of {group} by layer and head", [str(layer) for layer in layers],
                                 [str(head) for head in heads], values, axis=axis, middle=middle,
                                 form=lambda value: f"{value:+.1f}" if middle == 0 else f"{value:.2f}",
                                 corner=str(group)))  # fmt: skip
    return Markup("").join(drawn)


def agreement(diagnosis: Diagnosis) -> Markup | None:
    """Rank agreement of estimators over clips."""
    pairs = {}
    for line in diagnosis.find("contribution/estimator_agreement"):
        one, against, other = line.estimator.partition(AGAINST)
        if against and line.value is not None:
            pairs[one, other] = pairs[other, one] = line.value
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    if not names:
        return None
    values = [[1.0 if one == other else pairs.get((one, other)) for other in names] for one in names]
    titles = [name.replace("_", " ") for name in names]
    label = "Spearman correlation of estimators' shares over clips"
    return charts.heat(label, titles, titles, values, axis=(-1.0, 1.0), middle=0.0, form=lambda value: f"{value:.2f}")


def information(diagnosis: Diagnosis) -> Markup | None:
    """Interaction: what only both together say."""
    rows = []
    for id, name in (("contribution/intershap", "InterSHAP"), ("contribution/intershap_local", "InterSHAP, of clips"),
                     ("contribution/emap_gap", "EMAP gap")):  # fmt: skip
        found = [line for line in diagnosis.find(id) if line.value is not None]
        several = len(distinct(found, "estimator")) > 1
        for line in found:
            words = [name, line.fill, line.estimator.partition(",")[0] if several else None]
            rows.append(Bar(", ".join(filter(None, words)), line.value, line.ci_lo, line.ci_hi, JOINT))
    for id in ("perceptual_score", "necessity", "sufficiency"):
        found = [line for line in diagnosis.find(f"contribution/{id}", corruption=None) if line.value is not None]
        found = [line for line in found if STRESSED not in line.estimator]
        rows += [
            Bar(f"{id.replace('_', ' ')}: {line.group}{f', {line.fill}' if line.fill else ''}", line.value, line.ci_lo,
                line.ci_hi, colour(diagnosis, line.group))
            for line in found
        ]  # fmt: skip
    values = np.array([row.value for row in rows] + [0.0, 0.5])
    axis = charts.spread(values.tolist())
    return charts.bars("Interaction, necessity and sufficiency", rows, axis=axis, zero=0.0, filled=True) \
        if rows else None  # fmt: skip


def decomposition(diagnosis: Diagnosis) -> Markup | None:
    """What either modality says, and what only both: bits above those of permuted labels."""
    rows = []
    for line in diagnosis.find("contribution/pid_above_null"):
        if line.value is not None:
            of, by = TARGETS.get(line.target, line.target), line.estimator.partition(",")[0].partition(" ")[0]
            name = f"only {line.group}" if line.group in diagnosis.modalities else line.group
            rows.append(Bar(f"{name}, of the {of} by {by}", line.value, line.ci_lo, line.ci_hi,
                            colour(diagnosis, line.group)))  # fmt: skip
    return charts.bars("Information above its null, in bits", rows, zero=0.0, filled=True) if rows else None


TARGETS = {"label": "label", "predicted": "prediction"}

PANELS = (
    Panel("Ablations", "Accuracy with the modalities of the row, the others filled in as the column says; below it "
          "negative log-likelihood and calibration error.",
          ("contribution/ablation_accuracy",), ablations),
    Panel("SHAPE", "What each modality adds to accuracy over guessing the commonest class (Shapley value over "
          "datasets). Cooperation above 0 is synergy, below 0 redundancy.", ("contribution/shape",), shape),
    Panel("MM-SHAP over clips", "How the share is spread: outline of the density, quartiles, median. Dashed: even "
          "shares.", ("contribution/mm_shap",), shares),
    Panel("MM-SHAP, net", "What the players of a modality add to the logit, with their signs: 0 where they cancel, "
          "though the share of their sizes, beside the name with the standard error of sampled permutations, is large.",
          ("contribution/mm_shap_net",), net),
    Panel("Interaction, necessity, sufficiency", "InterSHAP and EMAP tell what lies in both together; the others what "
          "is lost without a modality, or reached by it alone.",
          ("contribution/intershap", "contribution/emap_gap", "contribution/perceptual_score"), information),
    Panel("Information", "Bits of the label, or of the model's prediction, that either modality says (redundancy), "
          "that only one says, and that only both together say (synergy), less what permuted labels give: by the "
          "prediction from each modality alone, and by its tokens in clusters.",
          ("contribution/pid_above_null", "contribution/pid_synergy"), decomposition),
    Panel("Every estimator's share", "One quantity, estimated in several ways: where they part, no single one may be "
          "read. Dashed: even shares.", tuple(SHARES), estimates, wide=True),
    Panel("Lift by layer and head", "Rows are layers, columns heads. Above 0 a modality gets more attention than its "
          "tokens' share.", ("contribution/attention_lift",), lift),
    Panel("Output share by layer and in all", "The part of the attention's output that comes through a modality; below "
          "0 it opposes the update.", ("contribution/output_share",), output_share),
    *heads.PANELS,
    Panel("Do the estimators agree?", "Spearman correlation over clips. Attention against MM-SHAP says whether "
          "attention may be read in this model at all.", ("contribution/estimator_agreement",), agreement),
)  # fmt: skip


def contribution(diagnosis: Diagnosis) -> Section:
    lead = "How much each modality does for the prediction. Each number is of one estimator and one fill."
    return section(diagnosis, "contribution", "Contribution of modalities", lead, PANELS)
