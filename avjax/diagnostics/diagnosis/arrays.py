"""What a diagnosis must hold for the page to show it: names of arrays, and what lines say in their fields.

Lines of report.json, where a definition leaves it open:

    contribution/ablation_*      group: the modalities that are there, joined by "+" in the model's order; "none"
    contribution/attention_lift, output_share   layer: number or name; head: number; group: the tokens attended to
    contribution/estimator_agreement            estimator: "ONE ~ OTHER", names of definitions, such as
                                                "mm_shap ~ attention_share"
    drift/cmsd_score, cmsd_allocation           condition: corruption and severity 1..5; estimator: the state
    drift/cmsd_localisation                     as well, with the modality as group
    drift/rfi, drift/cmsd_severity              condition: the corruption; severity None
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
    drift/score/CORRUPTION [S, N]               calibrated drift at each severity
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
TIME = "drift/time/"
ROWS = "rows/"
"""Before the name of an array of fewer clips: the places of its rows among all clips."""
STEP, ALLOCATION, TO_FINAL = "training/step", "training/allocation", "training/to_final"
CLEAN, LABEL = "clean", "clips/label"
AGAINST = " ~ "
"""Between the two estimators that an agreement names."""
