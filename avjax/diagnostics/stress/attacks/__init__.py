"""Attacks on raw sound and frames, each modality within its own Linf radius, of any model that JAX can differentiate.

region.py      what may change: radii, box, valid positions; radius of a signal-to-noise ratio
losses.py      cross-entropy, margin, DLR
gradient.py    FGSM, PGD, MI-FGSM
apgd.py, fab.py, square.py    the attacks of AutoAttack
noise.py       random noise, which every attack must beat
adversary.py   runs attacks in order on the rows that are still right
universal.py   one perturbation, or one patch, for all clips
frontier.py    accuracy over both radii, synergy, and whether the numbers can be believed
clips.py       of clips and a probe of the diagnosis
training.py    a rule by which training sees attacked clips

An attack shows that a row can be made wrong; that it fails shows nothing. Accuracies are upper bounds of the robust
ones, and belong to their attack, its steps and its radii.
"""
