"""Definitions of modality contribution: information of either and of both together, and balance in training."""

from __future__ import annotations

from avjax.diagnostics.definitions.definition import Scale, definition

BITS = Scale("bits", 0, None, "none", 0)

ROWS = (
    definition(
        "contribution/pid_redundancy",
        "redundant information",
        "R = I(X1;Y) + I(X2;Y) - I_q*(X1 X2;Y),   q* = argmax of H_q(Y|X1 X2) with p's margins of (X1,Y) and (X2,Y)",
        BITS,
        pitfalls="Of the data unless Y is the model's prediction, which the target says; X_m is what the model makes of"
        " m alone, which the estimator says. Depends on the clustering, and grows with clusters over clips: read it"
        " above its null.",
        source="Bertschinger et al. 2014; Liang et al., NeurIPS 2023",
        function="diagnostics.contribution.information.decompose",
    ),
    definition(
        "contribution/pid_unique",
        "unique information",
        "U_1 = I_q*(X1;Y|X2),   q* as of redundant information; the group says of which modality",
        BITS,
        pitfalls="As of redundant information.",
        source="Bertschinger et al. 2014; Liang et al., NeurIPS 2023",
        function="diagnostics.contribution.information.decompose",
    ),
    definition(
        "contribution/pid_synergy",
        "synergistic information",
        "S = I_p(X1 X2;Y) - I_q*(X1 X2;Y),   q* as of redundant information",
        BITS,
        pitfalls="As of redundant information, and the most biased of the four.",
        source="Bertschinger et al. 2014; Liang et al., NeurIPS 2023",
        function="diagnostics.contribution.information.decompose",
    ),
    definition(
        "contribution/pid_above_null",
        "information above its null",
        "R, U_1, U_2 or S less its mean with Y permuted over clips; the group says which",
        Scale("bits", None, None, "none", 0),
        pitfalls="May fall below 0 by chance. The permuted labels keep the dependence of the modalities. Intervals are"
        " basic bootstrap ones of 100 draws, since clips that are drawn twice look like dependence.",
        source="ours",
        function="diagnostics.contribution.information.null",
    ),
    definition(
        "contribution/imbalance_ratio",
        "imbalance in training",
        "log10 rho_m,   rho_m = s_m / mean of the others' s,   s_m = sum of the true class's probability of m alone",
        Scale("log10", None, None, "none", 0),
        pitfalls="Over the training, or of the trained model on the diagnosed clips, by its own logits of m or by a"
        " forward pass of m alone: the estimator says which. Noisy over batches, hence a moving average there. Toolkits"
        " define s_m differently and do not compare.",
        source="rho: Peng et al., CVPR 2022; of any fusion, the smoothing and the logarithm: ours",
        function="diagnostics.contribution.imbalance.log_ratios",
    ),
    definition(
        "contribution/gradient_norm_ratio",
        "ratio of gradient norms",
        "log10(||dL/dtheta_m|| / mean over the others of ||dL/dtheta||), L the mean cross-entropy of the diagnosed"
        " clips, theta_m the parameters that only m has",
        Scale("log10", None, None, "none", 0),
        pitfalls="Of the trained model, and of every checkpoint that its run keeps. Encoders of different size have"
        " different norms. Undefined where all parameters are shared.",
        source="ours",
        function="diagnostics.contribution.imbalance.log_ratios",
    ),
    definition(
        "contribution/fisher_trace_ratio",
        "ratio of Fisher traces",
        "log10(tr F_m / mean over the others of tr F),   tr F_m = mean over clips of E_y ||d log p(y|x) / dtheta_m||^2,"
        " y drawn from p(y|x), theta_m the parameters that only m has",
        Scale("log10", None, None, "none", 0),
        pitfalls="A random estimate: labels and signs are drawn as often as the estimator says. Of the model's own"
        " predictions, not of labels: small where it is certain. Encoders of different size have different traces."
        " Undefined where all parameters are shared.",
        source="trace: Hutchinson 1990; per modality: ours",
        function="diagnostics.protocol.imbalance.fisher_traces",
    ),
    definition(
        "contribution/imbalance_alarm",
        "share of training out of balance",
        "share of the steps with |log10 rho_m| > log10 3; alarm from 0.1",
        Scale("share", 0, 1, "lower", 0),
        pitfalls="One modality may deserve more than another: an alarm, and no verdict.",
        source="ours",
        function="diagnostics.contribution.imbalance.imbalanced",
    ),
)
