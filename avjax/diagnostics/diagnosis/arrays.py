"""What a diagnosis must hold for the page to show it: names of arrays, and what lines say in their fields.

Lines of report.json, where a definition leaves it open:

    contribution/ablation_*      group: the modalities that are there, joined by "+" in the model's order; "none"
    contribution/attention_lift, output_share   layer: number or name; head: number; group: the tokens attended to
    contribution/attention_entropy              layer without the tokens that ask, which are the group; or as above, of
                                                the weights within the group
    contribution/estimator_agreement            estimator: "ONE ~ OTHER", names of definitions, such as
                                                "mm_shap ~ attention_share"
    drift/cmsd_score, cmsd_allocation           condition: corruption and severity 1..5; estimator: the state
    drift/cmsd_localisation                     as well, with the modality as group
    drift/rfi, drift/cmsd_severity*             condition: the corruption, severity None; of all of them no condition
    drift/*, by another source of saliency      estimator: begins with ATTENDED
    consistency/*                               fill and group: the modality that is missing; or a condition
    stress/accuracy                             condition: corruption and severity; None of clean clips
    stress/offset_accuracy                      condition "offset", severity: milliseconds, above 0 where sound is late;
                                                fill: "real" or "zero" sound at the edge
    stress/missing_accuracy                     condition "missing", severity: the rate; group: the pattern
    stress/dilution_accuracy                    condition "dilution", severity: the weight; group: the modality
    stress/adversarial_accuracy                 estimator: the attack; group: the modalities attacked, joined by "+";
                                                condition: its budgets in words
    faithfulness/rank_cascade                   layer: the last one that is random, from the top down

Arrays of samples.npz; N clips, M modalities in the model's order. Those of N rows are what ``--vs`` pairs:

    clips/source [N] text, clips/index [N]      source video, number in the split; every diagnosis has them
    clips/label [N]                             true class, its place among the model's
    right/CONDITION [N] bool                    whether the prediction is right; CONDITION "clean", "without
                                                audio (drop)" ...
    confidence/CONDITION [N]                    probability of the predicted class: clean, and without each modality by
                                                the protocol's first fill
    logits/CONDITION [N, K]                     of the same conditions: agreement and calibration follow from them
    share/ESTIMATOR [N, M]                      contribution of each modality, named as its definition:
                                                share/mm_shap
    attention/ESTIMATOR/LAYER [N, H, G]         what the tokens that LAYER names give to each group of keys in their
                                                sight, in the order of the lines, by head
    attention/entropy/LAYER: GROUP [N, H]       the normalised entropy of a line
    shapley/ESTIMATOR/phi [N, n]                Shapley value of each player, the modality of which is in
    shapley/ESTIMATOR/groups [n] text
    shapley/ESTIMATOR/net [N, M]                their sums by modality
    drift/score/CORRUPTION [S, N]               calibrated drift at each severity
    drift/{raw,allocation}/CORRUPTION [S, N], drift/localisation/CORRUPTION [S, N, M]   in bits, at each severity
    drift/mass/CORRUPTION [S + 1, N, M]         mass of each modality: of the clean clip, and at each severity
    drift/time/{rate,floor,shuffled,allocation} [N], drift/time/localisation [N, M]   means over a clip's windows
    training/step [K], training/allocation [K, M], training/to_final [K]   checkpoints: mass of modalities, drift
    attack/NAME/audio [A], attack/NAME/video [V], attack/NAME/accuracy [A, V]   budgets of the first two modalities, as
                                                text or numbers, and accuracy under them
    rows/ARRAY [n]                              places among the N clips of the n that an array of fewer clips has
    curve/RANKING/{deletion,deletion_random,insertion,insertion_random} [N, Q]  p_c(q) / p_c(0) at shares q = 0 .. 1
                                                of the cells, c the class predicted for the whole clip;
                                                RANKING "joint", "audio", "video"
"""

from __future__ import annotations

RIGHT, CONFIDENCE, LOGITS, SHARE = "right/", "confidence/", "logits/", "share/"
DRIFT, ATTACK, CURVE = "drift/score/", "attack/", "curve/"
RAW, ALLOCATED, LOCALISED, MASS = "drift/raw/", "drift/allocation/", "drift/localisation/", "drift/mass/"
ATTENTION, SHAPLEY = "attention/", "shapley/"
TIME = "drift/time/"
ROWS = "rows/"
"""Before the name of an array of fewer clips: the places of its rows among all clips."""
STEP, ALLOCATION, TO_FINAL = "training/step", "training/allocation", "training/to_final"
CLEAN, LABEL = "clean", "clips/label"
ATTENDED = "attention rollout"
"""How estimators of drift begin whose states are of attention, and of no gradient."""
AT_CHECKPOINT = ", checkpoint of step "
"""In estimators' names of what the model was while it trained."""
STRESSED = "; the stressed clips"
"""Ends estimators' names: of the clips that are changed elsewhere, as they are, so that the two may be compared."""
AGAINST = " ~ "
"""Between the two estimators that an agreement names."""
