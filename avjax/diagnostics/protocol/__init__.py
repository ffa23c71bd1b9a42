"""What is measured, on how many clips, in which order: ``avjax diagnose``.

    tiers.py         sample sizes of smoke, standard and full
    study.py         one model on one set of clips, with what stages share
    answers.py       what a condition does to the answers, and to how far they may be believed
    ablation.py      modalities taken away under every fill: contribution, interaction, consistency
    explanation.py   Shapley values, attention, gradients, and how far they agree
    corruption.py    the suites at rising severity: accuracy, consistency, saliency drift
    noise.py         what its curves come to, beside another model's
    time_drift.py    where saliency goes within a clip
    training_drift.py   where it went over the run's checkpoints
    alignment.py     sound out of sync, of other clips, missing, diluted
    attack.py        adversarial budgets of each modality, and guards of the attacks
    backdoor.py      a patch that turns clips into one class, and whether clips with it stand out
    information.py   what either modality says, and what only both together say
    imbalance.py     which modality is ahead: in training, in what it says, in its gradients
    inside.py        tokens and logits of each modality, for stages that ask for them
    faithfulness.py  deletion, insertion, infidelity and steadiness of each explanation
    removal.py       the model on clips without some of their parts, in whole batches
    randomised.py    explanations of the model with its weights made random, and of another class
    pointing.py      explanations held against where the label is told
    degraded.py      faithfulness under corruption and attack
    groups.py        parts of the clips
    shown.py         the worst clips, as the page shows them
    diagnose.py      runs the stages, keeps each as it is done, and writes the diagnosis

A stage is a function of a study that returns lines and arrays, ``Found``; it knows of no other stage.
"""
