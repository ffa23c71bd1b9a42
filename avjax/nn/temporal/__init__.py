"""Models of time: from a sequence of tokens to one of the same length in which every token knows its neighbours.

    recurrent.py      LSTM, GRU and simple recurrence, in one or both directions
    tcn.py            dilated convolutions, causal or not
    pyramid.py        attention within windows of several sizes
    transformer.py    learned positions and a stack of transformer layers

All are called with (x [B, N, C], valid [B, N]) and give [B, N, C'], 0 where nothing is valid.
"""

from avjax.nn.temporal.pyramid import TemporalPyramid
from avjax.nn.temporal.recurrent import Recurrent
from avjax.nn.temporal.tcn import TemporalConvolution
from avjax.nn.temporal.transformer import TemporalTransformer

__all__ = ["Recurrent", "TemporalConvolution", "TemporalPyramid", "TemporalTransformer"]
