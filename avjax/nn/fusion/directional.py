"""A transformer from one modality to another.

Imported from here and not from avjax.nn.fusion: it is a stack, and stacks are made of the layers that are there.
"""

from __future__ import annotations

from flax import nnx

from avjax.nn.convolution import masked
from avjax.nn.dense import layer_norm
from avjax.nn.fusion.crossmodal import AsymmetricFusion
from avjax.nn.stack import Stack
from avjax.nn.transformer import Block, Size, stochastic_depth_rates
from avjax.streams import Stream


class CrossModalTransformer(nnx.Module):
    """MulT's transformer from a source to a target (Tsai et al. 2019, section 3.2).

    Z^0 = X_target;  Z <- Z + MHA(LN Z, LN X_source);  Z <- Z + FFN(LN Z), D times;  the result is LN Z.

    Keys and values are the source's layer-0 features at every layer, normalised by the module that normalises the
    queries. Causal, as in the release: triu(1 + |N_source - N_target|) is hidden. Ours: in a row without the source
    Z stays X_target.

    Args:
      size: its depth is D; MulT has ReLU in the feed-forward layers, of 4 widths.
      source, target: names, for what is reported of the attention (site ``source_to_target.target``).
    """

    def __init__(
        self,
        size: Size,
        *,
        source: str,
        target: str,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        causal: bool = True,
        rngs: nnx.Rngs,
    ):
        self.source, self.target = source, target

        def layer(rate: float) -> AsymmetricFusion:
            block = Block(size, dropout=dropout, stochastic_depth=rate, activation=nnx.relu, rngs=rngs)
            return AsymmetricFusion(target, {target: block}, (target, source), causal=causal)

        rates = stochastic_depth_rates(stochastic_depth, size.depth)
        self.layers = Stack(f"{source}_to_{target}", [layer(rate) for rate in rates])
        self.norm = layer_norm(size.width, rngs)

    def __call__(self, target: Stream, source: Stream) -> Stream:
        """The target [B, N, C] enriched by the source [B, M, C]; 0 where the target is not valid."""
        tokens, _ = self.layers({self.target: target, self.source: source})
        return target.replace(values=masked(self.norm(tokens[self.target].values), target.valid))
