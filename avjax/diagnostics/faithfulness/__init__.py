"""Faithfulness of saliency to the model, its agreement with where things are, and its form.

curves.py        what the model says as cells go or come in the order of their saliency
infidelity.py    what an attribution predicts of the model, and how steady it is
localisation.py  saliency against boxes, masks and intervals (plausibility, which is another thing than faithfulness)
complexity.py    how concentrated saliency is, and how alike heads are
sanity.py        what becomes of it when weights or labels are randomised; contribution against drop
retraining.py    what is taken away before a model is trained again

Saliency has no unit and often no model behind it: every number goes with its random baseline, and localisation with
its centre prior. Functions of arrays of NumPy, in float64; what has no value raises ``measured.Undefined``. The fill
of absent cells and the target class are the caller's, within the function of keep masks that it gives.
"""
