"""Shares of attention that groups of queries give to groups of keys, by layer and head, of a model's own records.

From the kernels' statistics, in memory of the tokens: ``mass``, ``output_product`` and VALUE_MASS of a ``Site``. The
definitions are those of shares.py.

Means are over the valid queries of a group. Where a sample has none (a modality that is missing), or none that sees
anything, it has no share and counts in no mean. Bottlenecks of a modality count where the modality does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Num

from avjax.diagnostics.contribution.flow import BOTTLENECK, CLASS_TOKEN
from avjax.diagnostics.contribution.shares import attention_share, efficiency, lift, over_heads, share
from avjax.diagnostics.measured import Undefined
from avjax.nn.statistics import KEY_VALID, VALUE_MASS, Site
from kernels.attention import Layout

Valid = Mapping[str, Bool[np.ndarray | Array, "B _"]]
"""Group of tokens -> which are valid, [B, N]; a group that is not named is valid throughout."""
Elsewhere = Mapping[tuple[str, int], Bool[np.ndarray | Array, "B _"]]
"""(group of tokens, their number) -> which are valid, at some place that asks for them."""


@dataclasses.dataclass(frozen=True, eq=False)
class GroupShares:
    """What each group of queries gives to each group of keys at one site, sample by sample.

    Attributes:
      queries, keys: names of the groups.
      values: they add up to 1 over the groups of keys; 0 where not defined.
      defined: where there is a share.
    """

    queries: tuple[str, ...]
    keys: tuple[str, ...]
    values: Float[np.ndarray, "layer B H Gq Gk"]
    defined: Bool[np.ndarray, "layer B H Gq"]

    def head(self, number: int) -> GroupShares:
        """Of one head alone."""
        values, defined = self.values[:, :, [number]], self.defined[:, :, [number]]
        return dataclasses.replace(self, values=values, defined=defined)

    def by_head(self, queries: str, rows: Any = slice(None)) -> Float[np.ndarray, "layer H Gk"]:
        """Mean over samples; Undefined where some head has no sample with such queries."""
        group = self.queries.index(queries)
        values, defined = self.values[:, rows][..., group, :], self.defined[:, rows][..., group]
        count = defined.sum(axis=1)[..., None]
        if not count.all():
            raise Undefined(f"no sample has a valid query among {queries!r} that attends to anything")
        return values.sum(axis=1) / count

    def over_heads(self, queries: str, rows: Any = slice(None)) -> dict[str, Float[np.ndarray, "layer Gk"]]:
        """Mean over heads of the mean over samples, and the heads' quantiles 5, 50 and 95 %."""
        return over_heads(self.by_head(queries, rows))


def layers(site: Site) -> Iterator[Site]:
    """Each layer as a site of its own: which tokens are valid may differ from one to the next."""
    for layer in range(len(next(iter(site.statistics.values())))):
        found = {name: np.asarray(array)[layer : layer + 1] for name, array in site.statistics.items()}
        yield dataclasses.replace(site, statistics=found)


def keys_of(places: Iterable[Valid]) -> Elsewhere:
    """Validity of all groups that are keys somewhere, of the first place that has so many of them."""
    found: dict[tuple[str, int], Any] = {}
    for place in places:
        for name, valid in place.items():
            found.setdefault((name, valid.shape[1]), valid)
    return found


def by_group(layout: Layout, valid: Bool[np.ndarray | Array, "B N"]) -> Valid:
    """Validity of tokens that are laid out so, group by group."""
    return {name: valid[:, begin:end] for name, (begin, end) in zip(layout.names, layout.ranges, strict=True)}


def asked(site: Site) -> Valid:
    """Which keys there are in the first layer of a site. Needs ``KEY_VALID``."""
    return by_group(site.keys, np.asarray(site[KEY_VALID])[0])


def asking(site: Site, elsewhere: Elsewhere) -> Valid:
    """Which queries there are in the first layer: a mask hides keys, and lets padded tokens ask.

    Tokens that ask are known where they are keys too, here or elsewhere (``keys_of``); others are not named.
    """
    here = asked(site)
    found = {}
    for name, length in _groups(site.queries):
        own = here.get(name)
        valid = elsewhere.get((name, length)) if own is None or own.shape[1] != length else own
        if valid is not None:
            found[name] = valid
    # The keys of a bottleneck are always there; it counts where its modality does.
    return {name: valid for name, valid in found.items() if _modality(name) == name or _modality(name) not in found}


def mass_shares(site: Site, valid: Valid) -> GroupShares:
    """AMS[l, h, G -> g] = mean over i in G of m_ig (``attention_share``). Needs ``mass``."""
    return _of_layers(site, site["mass"], valid, attention_share)


def output_shares(site: Site, valid: Valid) -> GroupShares:
    """sum_i <O_ig, O_i> / sum_i ||O_i||^2 over the queries i of a group. Needs ``output_product``.

    The mean of ``output_share`` over queries by the square of their output's length: a plain mean would be that of the
    queries whose parts nearly cancel.
    """

    def shares(products: np.ndarray, counted: np.ndarray) -> np.ndarray:
        # All queries as one long output.
        products = np.where(counted[..., None], products, 0).sum(axis=-2)
        return products / products.sum(axis=-1, keepdims=True)

    products = np.asarray(site["output_product"], np.float64)
    # Where parts cancel, the square of what is left may be below 0 by rounding: there is no output to share.
    nothing = products.sum(axis=-1, keepdims=True) <= 0
    return _of_layers(site, np.where(nothing, 0, products), valid, shares)


def value_weighted_shares(site: Site, valid: Valid) -> GroupShares:
    """AMS^V[l, h, G -> g] = mean over i in G of w_ig / sum_g w_ig, w_ig = sum_{j in g} P_ij ||V_j W_O,h||_2.

    Needs ``VALUE_MASS``, which is w.
    """

    def shares(mass: np.ndarray, counted: np.ndarray) -> np.ndarray:
        some = np.where(counted[..., None], mass, 1.0)
        return attention_share(share(some), counted)

    return _of_layers(site, site[VALUE_MASS], valid, shares)


def tokens_in_sight(site: Site, valid: Valid) -> Num[np.ndarray, "B Gq Gk"]:
    """N_g of ``lift`` and ``efficiency``: valid keys of each group, 0 where the group of queries may not see them.

    Under causal order or a window, where each query sees others, there is no one number: those are counted that any
    may see.
    """
    rows = next(iter(site.statistics.values())).shape[1]
    count = np.stack([_valid(name, n, rows, valid).sum(axis=1) for name, n in _groups(site.keys)], axis=-1)
    sees = [[site.sees is None or (query, key) in site.sees for key in site.keys.names] for query in site.queries.names]
    return count[:, None] * np.array(sees)


def entropies(
    site: Site, queries: Valid, keys: Valid
) -> tuple[Float[np.ndarray, "layer B H Gq"], Float[np.ndarray, "layer B H Gq Gk"]]:
    """H_i / ln N of all keys in sight, and H_ig / ln N_g within each group of them, means over a group of queries.

    1 of uniform attention (``normalised_entropy``). Needs ``entropy`` and ``group_entropy``, in nats, and ``mass``.
    NaN where fewer than two keys are in sight, or no valid query sees any.

    Args:
      queries, keys: validity of either.
    """
    tokens = tokens_in_sight(site, keys).astype(np.float64)
    scales = [np.log(np.where(n > 1, n, np.nan)) for n in (tokens.sum(axis=-1), tokens)]
    mass = np.asarray(site["mass"], np.float64)
    # A query sees nothing of a group that gets no mass, and its entropy there is no 0 to be counted.
    seen = [mass.any(axis=-1), mass > 0]
    found = [np.full((*mass.shape[:3], *scale.shape[1:]), np.nan) for scale in scales]
    for group, ((name, length), (begin, end)) in enumerate(
        zip(_groups(site.queries), site.queries.ranges, strict=True)
    ):
        valid = _valid(name, length, mass.shape[1], queries)[:, None]
        for into, statistic, scale, sees in zip(found, ("entropy", "group_entropy"), scales, seen, strict=True):
            counted = sees[:, :, :, begin:end] & valid.reshape(*valid.shape, *[1] * (sees.ndim - 4))
            amounts = np.asarray(site[statistic], np.float64)[:, :, :, begin:end]
            number = counted.sum(axis=3)
            mean = np.where(counted, amounts, 0).sum(axis=3) / np.where(number > 0, number, np.nan)
            into[:, :, :, group] = mean / scale[:, group][:, None]
    return found[0], found[1]


def lifts(
    mass: GroupShares, tokens: Num[np.ndarray, "B Gq Gk"], queries: str, rows: Any = slice(None)
) -> tuple[tuple[str, ...], Float[np.ndarray, "layer H seen"]]:
    """LIFT (``lift``) of the mean share of each head, and the groups that it is of: those in sight of the queries.

    The tokens' share, against which it is, is the mean over the same samples. Undefined where only one group is in
    sight, or a group has all of a head's attention or none.
    """
    names, shares, fractions = _in_sight(mass, tokens, queries, rows)
    return names, lift(shares, fractions)


def efficiencies(
    mass: GroupShares, tokens: Num[np.ndarray, "B Gq Gk"], queries: str, rows: Any = slice(None)
) -> tuple[tuple[str, ...], Float[np.ndarray, "layer H seen"]]:
    """EFF (``efficiency``) of the mean share of each head, and the groups that it is of; otherwise as ``lifts``."""
    names, shares, fractions = _in_sight(mass, tokens, queries, rows)
    return names, efficiency(shares, fractions)


def _in_sight(
    mass: GroupShares, tokens: np.ndarray, queries: str, rows: Any
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Names of the groups that the queries see, their mean shares by head, and their mean share of tokens."""
    shares, group = mass.by_head(queries, rows), mass.queries.index(queries)
    count = tokens[rows][:, group].astype(np.float64)
    fractions = count / count.sum(axis=-1, keepdims=True).clip(1)
    # [layer, H, Gk]: over the samples that the share is a mean over.
    defined = mass.defined[:, rows][..., group]
    expected = np.einsum("lbh,bg->lhg", defined, fractions) / defined.sum(axis=1)[..., None]
    seen = count.any(axis=0)
    return tuple(np.array(mass.keys)[seen].tolist()), shares[..., seen], expected[..., seen]


def _of_layers(
    site: Site,
    amounts: Num[np.ndarray | Array, "layer B H Nq G"],
    valid: Valid,
    shares: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> GroupShares:
    """``shares(amounts [n, N, G], counted [n, N])`` of every layer and group of queries that is there."""
    queries, keys = site.queries, site.keys
    values, defined = [], []
    for layer in map(np.asarray, amounts):
        rows, heads = layer.shape[:2]
        found = np.zeros((rows, heads, len(queries.names), len(keys.names)))
        there = np.zeros(found.shape[:-1], bool)
        for group, ((name, length), (begin, end)) in enumerate(zip(_groups(queries), queries.ranges, strict=True)):
            part = layer[:, :, begin:end]
            # Queries that see nothing have amounts of 0.
            counted = _valid(name, length, rows, valid)[:, None] & (part != 0).any(axis=-1)
            some = counted.any(axis=-1)
            there[..., group] = some
            if some.any():
                found[some, group] = shares(part[some], counted[some])
        values.append(found)
        defined.append(there)
    return GroupShares(queries.names, keys.names, np.stack(values), np.stack(defined))


def _groups(layout: Layout) -> list[tuple[str, int]]:
    return list(zip(layout.names, layout.lengths, strict=True))


def _valid(name: str, length: int, rows: int, valid: Valid) -> Bool[np.ndarray, "B N"]:
    modality = _modality(name)
    if name in valid:
        found = np.asarray(valid[name])
    elif modality in valid:
        found = np.repeat(np.asarray(valid[modality]).any(axis=1, keepdims=True), length, axis=1)
    else:
        found = np.ones((rows, length), bool)
    if found.shape != (rows, length):
        raise ValueError(f"{name}: {length} tokens of {rows} samples, but validity {found.shape}: give the model's own")
    return found


def _modality(group: str) -> str:
    """That whose tokens, bottleneck or class token a group is."""
    return group.removeprefix(f"{BOTTLENECK}_").removeprefix(f"{CLASS_TOKEN}_")
