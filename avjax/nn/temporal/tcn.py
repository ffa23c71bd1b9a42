"""Temporal convolutional networks."""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx
from jaxtyping import Array, Bool, Float

from avjax.nn.convolution import Conv, masked
from avjax.nn.dense import EMBED, Dense, layer_norm


class TemporalBlock(nnx.Module):
    """A residual block of a TCN (Bai, Kolter, Koltun 2018, section 3.3).

        F(x) = D(relu(LN(conv_d(D(relu(LN(conv_d(x))))))))
        y    = relu(F(x) + R x)         R = 1 where the widths agree, else a linear layer

    conv_d: kernel of ``size`` taps, ``dilation`` steps apart, over the present and the past (``causal``) or as far to
    both sides. D drops whole channels. Ours: layer normalisation of every step in place of the paper's weight
    normalisation; steps that are not valid are 0 for their neighbours.
    """

    def __init__(
        self, inputs: int, width: int, *, size: int, dilation: int, causal: bool, dropout: float, rngs: nnx.Rngs
    ):
        def conv(inputs: int) -> Conv:
            padding = "CAUSAL" if causal else "SAME"
            return Conv(inputs, width, (size,), dilation=dilation, padding=padding, rngs=rngs)

        self.convs = nnx.List([conv(inputs), conv(width)])
        self.norms = nnx.List([layer_norm(width, rngs) for _ in self.convs])
        self.residual = nnx.data(None if inputs == width else Dense(inputs, width, axes=(EMBED, EMBED), rngs=rngs))
        self.dropout = nnx.Dropout(dropout, broadcast_dims=(1,), rngs=rngs)

    def __call__(self, x: Float[Array, "B N Cin"], valid: Bool[Array, "B N"]) -> Float[Array, "B N Cout"]:
        x = masked(x, valid)
        branch = x
        for conv, norm in zip(self.convs, self.norms, strict=True):
            branch = self.dropout(nnx.relu(norm(conv(masked(branch, valid)))))
        residual = x if self.residual is None else self.residual(x)
        return masked(nnx.relu(branch + residual), valid)


class TemporalConvolution(nnx.Module):
    """Temporal convolutional network (Bai, Kolter, Koltun 2018): residual blocks of growing dilation.

    A step sees 1 + 2 (size - 1) sum(dilations) steps: itself and those before it or, without ``causal``, around it.
    Gaps in time stay gaps.

    Args:
      inputs, width: of the tokens before and after.
      dilations: of the blocks, one after the other.
      size: taps of every kernel.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        *,
        dilations: Sequence[int] = (1, 2, 4, 8),
        size: int = 3,
        causal: bool = True,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        widths = [inputs] + [width] * len(dilations)
        self.blocks = nnx.List(
            [
                TemporalBlock(before, width, size=size, dilation=d, causal=causal, dropout=dropout, rngs=rngs)
                for before, d in zip(widths, dilations, strict=False)
            ]
        )

    def __call__(self, x: Float[Array, "B N Cin"], valid: Bool[Array, "B N"]) -> Float[Array, "B N Cout"]:
        for block in self.blocks:
            x = block(x, valid)
        return x
