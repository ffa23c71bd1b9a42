"""Cross-modal saliency drift (CMSD): how far a model's saliency moves between modalities, and within each; ours.

grid.py        saliency of any source as a distribution over fixed cells, and which cells two states share
divergence.py  CMSD of two states, exactly split into re-allocation and re-localisation; companions beside it
calibrated.py  CMSD between the drift of an imperceptible change and that of another clip
windows.py     a clip cut into windows, saliency and change of content in each
axes.py        over time, over severities of a corruption, over training

A state is a row of saliency over cells, not negative, with sum 1; its cells belong to modalities by a tuple of names,
one a cell, in the caller's order. States of different sources or layers are not to be compared. Functions of arrays
of NumPy, in float64; what has no value raises ``measured.Undefined``.
"""
