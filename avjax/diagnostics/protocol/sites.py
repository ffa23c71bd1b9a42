"""What one layer of attention gives to each modality, in lines and arrays: shares, lift and entropy (1.1)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, Num

from avjax.diagnostics.contribution import attention
from avjax.diagnostics.contribution.attention import Elsewhere, GroupShares, Valid
from avjax.diagnostics.contribution.shares import HEAD_QUANTILES, over_heads, quantile
from avjax.diagnostics.definitions import number, skipped
from avjax.diagnostics.diagnosis.arrays import ATTENTION, SHARE
from avjax.diagnostics.probe import ModelProbe
from avjax.diagnostics.protocol.study import Found, Part, Study
from avjax.nn.statistics import KEY_VALID, VALUE_MASS, Site

STATISTICS = ("mass", "output_product", VALUE_MASS, "entropy", "group_entropy", KEY_VALID)
SHARES = {
    "attention_share": attention.mass_shares,
    "value_weighted_share": attention.value_weighted_shares,
    "output_share": attention.output_shares,
}
BY_HEAD = ("output_share",)
"""Shares with a line a head; of attention mass those are the lifts."""


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """One layer of a site.

    Attributes:
      name: such as "fusion 0".
      site: of this layer alone.
      queries, keys: which tokens are valid.
      note: what the estimator's name says of how tokens are counted.
    """

    name: str
    site: Site
    queries: Valid
    keys: Valid
    note: str

    @functools.cached_property
    def shares(self) -> dict[str, GroupShares]:
        return {estimator: of(self.site, self.queries) for estimator, of in SHARES.items()}

    @functools.cached_property
    def tokens(self) -> Num[np.ndarray, "B Gq Gk"]:
        return attention.tokens_in_sight(self.site, self.keys)

    @functools.cached_property
    def entropies(self) -> tuple[np.ndarray, np.ndarray]:
        return attention.entropies(self.site, self.queries, self.keys)


@dataclasses.dataclass(frozen=True, eq=False)
class Asking:
    """One group of queries of a layer, which sees two groups of keys or more.

    Attributes:
      rows: clips of which it has a share by every estimator.
      seen: groups of keys in its sight.
    """

    layer: Layer
    group: str
    place: int
    rows: Int[np.ndarray, " R"]
    seen: Int[np.ndarray, " S"]

    @property
    def name(self) -> str:
        return f"{self.layer.name}: {self.group}"

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(self.layer.site.keys.names[column] for column in self.seen)

    def values(self, estimator: str) -> Float[np.ndarray, "R H S"]:
        return self.layer.shares[estimator].values[0, self.rows][:, :, self.place][..., self.seen]


def groups(probe: ModelProbe, sites: Mapping[str, Site]) -> Iterator[Asking]:
    """Everything that asks, in the order of sites, layers and queries."""
    elsewhere = attention.keys_of(map(attention.asked, sites.values()))
    for name, site in sites.items():
        for depth, one in enumerate(attention.layers(site)):
            layer = _layer(probe.modalities, f"{name} {depth}", one, elsewhere)
            for place, group in enumerate(one.queries.names):
                defined = [of.defined[0, :, :, place].all(axis=1) for of in layer.shares.values()]
                rows = np.flatnonzero(np.all(defined, axis=0))
                seen = np.flatnonzero(layer.tokens[rows, place].any(axis=0))
                if len(rows) and len(seen) > 1:
                    yield Asking(layer, group, place, rows, seen)


def _layer(modalities: Sequence[str], name: str, site: Site, elsewhere: Elsewhere) -> Layer:
    asking = attention.asking(site, elsewhere)
    unknown = [group for group in site.queries.names if group in modalities and group not in asking]
    return Layer(name, site, asking, attention.asked(site), laid_out(unknown))


def laid_out(unknown: Sequence[str]) -> str:
    """What an estimator's name says of groups of queries that are keys nowhere."""
    return f", queries of {' and '.join(unknown)} counted as laid out, missing ones too" if unknown else ""


def lines_of(study: Study, part: Part, one: Asking, found: Found) -> None:
    """Means over heads and tokens that ask, the spread of heads, and by head what the page shows as maps."""
    clips, where = part.clips.take(one.rows), {"layer": one.name}
    tokens = one.layer.tokens[one.rows][:, one.place, one.seen].astype(np.float64)
    even = (tokens / tokens.sum(axis=1, keepdims=True)).mean(axis=0)
    for estimator in SHARES:
        values = one.values(estimator)
        found.keep(f"{ATTENTION}{estimator}/{one.name}", values.astype(np.float32), part.rows[one.rows])
        by_head = values.mean(axis=0)
        spread = over_heads(by_head)
        for column, key in enumerate(one.keys):
            fields = {"group": key, **where}
            if estimator == "attention_share":
                fields["null_baseline"] = float(even[column])
            of_clips = values[..., column].mean(axis=1)
            found.lines.append(
                study.mean(f"contribution/{estimator}", of_clips, clips,
                           estimator=f"mean of heads{one.layer.note}", **fields)
            )  # fmt: skip
            for share in HEAD_QUANTILES:
                of_heads = spread[quantile(share)][column]
                found.lines.append(
                    number(f"contribution/{estimator}", of_heads.item, n=len(clips),
                           estimator=f"{round(100 * share)} % of heads, means of clips{one.layer.note}", **fields)
                )  # fmt: skip
            for head, of_head in enumerate(by_head[:, column] if estimator in BY_HEAD else ()):
                found.lines.append(
                    number(f"contribution/{estimator}", of_head.item, n=len(clips), head=head,
                           estimator=f"mean of clips{one.layer.note}", **fields)
                )  # fmt: skip
    _against_even(one, found)
    _entropies(study, part, one, found)


def _against_even(one: Asking, found: Found) -> None:
    """Lift by head, and how much attention a token gets: both of the mean share against the mean share of tokens."""
    mass, tokens, where = one.layer.shares["attention_share"], one.layer.tokens, {"layer": one.name}
    common = {"estimator": f"mean of clips{one.layer.note}", "n": len(one.rows), **where}

    def lift(head: int, column: int) -> float:
        _, lifted = attention.lifts(mass.head(head), tokens, one.group, one.rows)
        return float(lifted[0, 0, column])

    def efficiency(column: int) -> float:
        _, ratio = attention.efficiencies(mass, tokens, one.group, one.rows)
        return float(ratio[0, :, column].mean())

    for column, key in enumerate(one.keys):
        for head in range(mass.values.shape[2]):
            of = functools.partial(lift, head, column)
            found.lines.append(number("contribution/attention_lift", of, group=key, head=head, **common))
        of = functools.partial(efficiency, column)
        words = {**common, "estimator": f"mean of heads, {common['estimator']}"}
        found.lines.append(number("contribution/attention_efficiency", of, group=key, **words))


def _entropies(study: Study, part: Part, one: Asking, found: Found) -> None:
    whole, within = (values[0, one.rows][:, :, one.place] for values in one.layer.entropies)
    named = [(whole, one.layer.name, one.group)]
    named += [(within[..., column], one.name, key) for column, key in zip(one.seen, one.keys, strict=True)]
    for values, layer, group in named:
        rows = np.flatnonzero(np.isfinite(values).all(axis=1))
        fields = {"estimator": f"mean of heads and tokens{one.layer.note}", "layer": layer, "group": group}
        id = "contribution/attention_entropy"
        if not len(rows):
            reason = "no clip has two tokens of it in sight that get attention: the entropy has no scale"
            found.lines.append(skipped(id, reason, **fields))
            continue
        clips, chosen = part.clips.take(one.rows[rows]), values[rows]
        found.keep(f"{ATTENTION}entropy/{layer}: {group}", chosen.astype(np.float32), part.rows[one.rows[rows]])
        found.lines.append(study.mean(id, chosen.mean(axis=1), clips, **fields))


def shares_of_modalities(study: Study, part: Part, several: list[Asking], found: Found) -> None:
    """Keeps ``mean_shares``, of the clips that have them."""
    for estimator, values in mean_shares(study, several, len(part.rows)).items():
        rows = np.flatnonzero(np.isfinite(values).any(axis=1))
        if len(rows):
            found.keep(f"{SHARE}{estimator}", values[rows], part.rows[rows])


def mean_shares(study: Study, several: list[Asking], clips: int) -> dict[str, Float[np.ndarray, "N M"]]:
    """Each clip's share by modality: mean over heads, layers, and the groups that see every modality and are there.

    NaN where there is none; no estimator where no group sees all.
    """
    by_estimator: dict[str, list[np.ndarray]] = {estimator: [] for estimator in SHARES}
    for one in several:
        if not set(study.modalities) <= set(one.keys):
            continue
        columns = [one.keys.index(m) for m in study.modalities]
        for estimator, layers in by_estimator.items():
            values = np.full((clips, len(columns)), np.nan)
            values[one.rows] = one.values(estimator).mean(axis=1)[:, columns]
            layers.append(values)
    return {estimator: _mean_of_known(np.stack(layers)) for estimator, layers in by_estimator.items() if layers}


def _mean_of_known(layers: Float[np.ndarray, "L N M"]) -> Float[np.ndarray, "N M"]:
    known = np.isfinite(layers)
    total, count = np.where(known, layers, 0).sum(axis=0), known.sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
