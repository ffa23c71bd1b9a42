"""Cross-modal consistency: what a model says when a modality is missing or damaged, and for whom.

agreement.py    the same rows under two conditions: agreement, kappa, soft and cross-modal agreement, flips
robustness.py   how much performance is left: retention, corruption errors, MultiBench's areas, subsets of modalities
calibration.py  what confidence is worth: calibration errors, proper scores, risk over coverage
groups.py       between groups of clips: worst group, gaps, parity, odds

Functions of arrays of NumPy, in float64; what has no value raises ``measured.Undefined``.
"""
