"""How much each modality contributes to what a model says, by several estimators that may disagree.

shares.py       of attention (mass, values, output), and of any attribution to tokens
attention.py    the same of a model's own records, by layer, head and group of queries
flow.py         which tokens each call of attention of a model reads and updates
relevance.py    of tokens through all layers: rollout, Chefer's rules; gradient-weighted mass
gradients.py    gradient x input, integrated and expected gradients of any score
shapley.py      Shapley values of players, exact or sampled, and their modalities' shares (MM-SHAP)
performance.py  of accuracy: SHAPE, the ablation matrix, the perceptual score, valuation of clips
interaction.py  between modalities: InterSHAP, EMAP
information.py  partial information decomposition: redundant, unique, synergistic
imbalance.py    over a training, from what the run wrote down

A coalition is a row of booleans, one a player: who is present. Functions of arrays of NumPy, in float64, but for those
that differentiate a model or ask its attention (flow, relevance, gradients), which are JAX's; what has no value raises
``measured.Undefined``. How a player is made absent (the fill) and which class is looked at are the caller's to name:
no function chooses either.
"""
