"""A diagnosis of nothing: numbers drawn from a seed for every part of the page. No model was measured.

Its lines are like those of the stages, field by field: ``protocol/test_diagnose.py`` holds them to those of a run.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np

from avjax.diagnostics.definitions import DEFINITIONS, facts
from avjax.diagnostics.diagnosis import Diagnosis, ShownClip
from avjax.diagnostics.diagnosis.arrays import STRESSED
from avjax.diagnostics.measured import Condition, Measured
from avjax.diagnostics.protocol.tiers import AUDIBLE, TOGETHER, VISIBLE

MODALITIES = ("audio", "video")
CLIPS = 240
AUDIO, VIDEO, JOINT = AUDIBLE, VISIBLE, TOGETHER[:3]
FILLS = ("drop", "zero", "mean")
SHOWN = (AUDIO[0], VISIBLE[0])
"""Corruptions of which there are arrays."""


class Drawn:
    """Lines, with values and intervals from a generator."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)
        self.lines: list[Measured] = []

    def add(self, id: str, value: float, *, width: float = 0.03, estimator: str = "drawn", **fields: Any) -> None:
        low, high = DEFINITIONS[id].low, DEFINITIONS[id].high
        edges = [value - width * self.random.uniform(0.6, 1.4), value + width * self.random.uniform(0.6, 1.4)]
        value, *edges = (float(np.clip(edge, low, high)) for edge in (value, *edges))
        self.lines.append(
            Measured(**{**facts(id), "estimator": estimator, "n": CLIPS, "value": value, "ci_lo": edges[0],
                        "ci_hi": edges[1], **fields})
        )  # fmt: skip

    def none(self, id: str, reason: str, status: str = "undefined", **fields: Any) -> None:
        self.lines.append(
            Measured(**{**facts(id), "estimator": "drawn", "n": 0, "value": None, "status": status, "reason": reason}
                     | fields)
        )  # fmt: skip


def example(seed: int = 0, *, shift: float = 0.0, name: str = "drawn_mbt") -> Diagnosis:
    """One that fills every section; ``shift`` moves its accuracies."""
    drawn = Drawn(seed)
    clean = 0.86 + shift
    _contribution(drawn, clean)
    _drift(drawn)
    _consistency(drawn)
    _stress(drawn, clean)
    _faithfulness(drawn)
    return Diagnosis(tuple(drawn.lines), _about(name), _arrays(drawn.random, clean), _clips(drawn.random))


def reduced(diagnosis: Diagnosis, *sections: str) -> Diagnosis:
    """Without the lines of these sections, without arrays but those of clips, and without clips."""
    lines = tuple(line for line in diagnosis.measured if line.id.split("/")[0] not in sections)
    arrays = {name: array for name, array in diagnosis.arrays.items() if name.startswith("clips/")}
    return dataclasses.replace(diagnosis, measured=lines, arrays=arrays, clips=())


def _about(name: str) -> dict[str, dict[str, Any]]:
    stages = ("clean", "contribution", "drift", "consistency", "stress", "attacks", "faithfulness")
    spent = [{"name": stage, "seconds": 4.0 * 1.7**k, "reason": ""} for k, stage in enumerate(stages)]
    spent.append({"name": "training", "seconds": None, "reason": "the run kept its last checkpoint alone"})
    return {
        "model": {"name": name, "modalities": list(MODALITIES), "head": "emotion", "classes": list("abcdefgh"),
                  "checkpoint": "5f2c91d07ab8", "step": 300, "parameters": 812_424, "experiment": "demo_mbt"},
        "data": {"name": "drawn from a seed", "synthetic": True, "split": "test", "clips": CLIPS,
                 "fingerprint": "91ab0c44d2e7"},
        "env": {"avjax": "0.1.0", "jax": "0.12.0", "commit": "none: drawn in a test", "device": "none"},
        "protocol": {"tier": "standard", "seeds": {"protocol": 0, "bootstrap": 0}, "fills": ["drop", "zero", "mean"],
                     "samples": {"clean": CLIPS, "mm_shap": 100}, "command": "avjax diagnose runs/drawn",
                     "stages": spent, "peak_memory_bytes": 1_932_735_283},
    }  # fmt: skip


def _contribution(drawn: Drawn, clean: float) -> None:
    add, random = drawn.add, drawn.random
    alone = {"audio": 0.55, "video": 0.42, "none": 0.13, "audio+video": clean}
    for fill, group in itertools.product(FILLS, alone):
        less = 0.0 if group == "audio+video" else {"drop": 0.0, "zero": 0.06, "mean": 0.03}[fill]
        add("contribution/ablation_accuracy", alone[group] - less, group=group, fill=fill)
        add("contribution/ablation_nll", 2.1 - alone[group], group=group, fill=fill)
        add("contribution/ablation_ece", 0.2 - 0.2 * alone[group], group=group, fill=fill)
    add("contribution/majority_accuracy", 0.13, width=0.01)
    for fill, (name, value) in itertools.product(FILLS[:2], (("audio", 0.43), ("video", 0.30))):
        add("contribution/shape", value, group=name, fill=fill)
        add("contribution/necessity", value + 0.01, group=name, fill=fill)
        add("contribution/sufficiency", value - 0.01, group=name, fill=fill)
    for name, value in (("audio", 0.53), ("video", 0.40)):
        add("contribution/perceptual_score", value, group=name, fill="marginal")
    for fill, value in (("drop", 0.06), ("zero", -0.02)):
        add("contribution/cooperation", value, fill=fill)
    shares = {"mm_shap": (0.58, "drop"), "integrated_gradients": (0.55, "mean"), "gradient_x_input": (0.66, None),
              "chefer_share": (0.49, None), "rollout_share": (0.37, None)}  # fmt: skip
    for id, (share, fill) in shares.items():
        target = None if id == "rollout_share" else "predicted"
        add(f"contribution/{id}", share, group="audio", fill=fill, target=target)
        add(f"contribution/{id}", 1 - share, group="video", fill=fill, target=target)
    for group, logits in (("audio", 1.8), ("video", 0.9)):
        add("contribution/mm_shap_net", logits, group=group, fill="drop", target="predicted")
        add("contribution/mm_shap_error", 0.006, width=0.001, group=group, fill="drop", target="predicted")
    for id, value in (("intershap", 0.34), ("intershap_local", 0.46), ("emap_gap", 0.11)):
        add(f"contribution/{id}", value, fill="marginal")
    for layer, head, group in itertools.product(("fusion.0", "fusion.1", "fusion.2"), range(4), MODALITIES):
        sign = 1 if group == "audio" else -1
        lift = float(np.random.default_rng([layer.encode()[-1], head]).normal(0.2, 1.1))
        add("contribution/attention_lift", sign * lift, layer=layer, head=head, group=group)
        if head == 0:
            add("contribution/attention_share", 0.5 + sign * 0.1 * lift, layer=layer, group=group)
            add("contribution/output_share", 0.5 + sign * 0.2 * lift, layer=layer, group=group)
        if group == "audio":
            worth = 0.01 * np.exp(lift)
            add("faithfulness/head_importance", worth, width=worth / 4, layer=layer, head=head, target="label")
    for layer, id in itertools.product(("fusion.0", "fusion.1", "fusion.2"), ("redundancy", "cosine", "cka")):
        add(f"faithfulness/head_{id}", {"redundancy": 0.6, "cosine": 0.4, "cka": 0.7}[id], layer=layer)
    for group, value in (("audio", 1.1), ("video", 0.6), ("bottleneck", 0.4)):
        add("contribution/gradient_attention", value, group=group, target="predicted")
    names = ["mm_shap", "integrated_gradients", "chefer_share", "output_share", "attention_share"]
    for one, other in itertools.combinations(names, 2):
        gap = abs(names.index(one) - names.index(other))
        value = 0.95 - 0.18 * gap + random.normal(0, 0.04)
        add("contribution/estimator_agreement", value, estimator=f"{one} ~ {other}", group="audio")
    add("contribution/utilisation_gap", 0.03, group="audio", fill="drop")
    add("contribution/utilisation_gap", 0.08, group="video", fill="drop")
    add("contribution/imbalance_ratio", 0.21, group="audio")
    add("contribution/imbalance_ratio", 0.13, group="audio", estimator="diagnosed clips, its own logits")
    add("contribution/gradient_norm_ratio", -0.3, group="video")
    add("contribution/fisher_trace_ratio", -0.4, group="video")
    add("contribution/imbalance_alarm", 0.22, group="audio")
    for (by, target), (group, bits) in itertools.product(
        (("prediction of each", "label"), ("tokens of each", "predicted")),
        (("redundancy", 0.4), ("audio", 0.6), ("video", 0.2), ("synergy", 0.1)),
    ):
        add("contribution/pid_above_null", bits, group=group, target=target, estimator=by, fill="drop")


def _drift(drawn: Drawn) -> None:
    add = drawn.add
    for place, corruption in enumerate((*AUDIO, *VIDEO, *JOINT)):
        kind = "audio" if corruption in AUDIO else "video" if corruption in VIDEO else "audio+video"
        strength = 0.35 + 0.05 * (place % 6)
        for severity in range(1, 6):
            condition = Condition(corruption, severity, 0)
            amount = strength * (1 - np.exp(-severity / 2.5))
            add("drift/unexplained", 0.5 * amount, condition=condition, estimator="rollout")
            add("drift/harmful", min(1.3 * amount, 1.0), condition=condition, estimator="rollout")
            add("drift/cmsd_score", amount, condition=condition, estimator="rollout")
            add("drift/cmsd_allocation", 0.12 * amount, width=0.005, condition=condition, estimator="rollout")
            for name in MODALITIES:
                part = 0.1 if name in kind else 0.02
                add("drift/cmsd_localisation", part * amount, width=0.004, group=name, condition=condition,
                    estimator="rollout")  # fmt: skip
        whole = Condition(corruption)
        add("drift/cmsd_severity", strength * 0.65, condition=whole, estimator="rollout")
        # Of a corruption of both there is no other modality to turn to.
        if place == 1:
            drawn.none(
                "drift/rfi", "the mass of the modality is the same at every severity", group=kind, condition=whole
            )
        elif kind != "audio+video":
            add("drift/rfi", 0.9 - 0.25 * place / 3, width=0.1, group=kind, condition=whole)
    add("drift/cmsd_time", 0.24, estimator="rollout")
    for axis, scale in (("severity", 1.2), ("time", 1.0), ("train", 0.6)):
        for part, value in (("raw", 0.09), ("floor", 0.005), ("ceiling", 0.31), ("allocation", 0.03)):
            add(f"drift/cmsd_{axis}_{part}", scale * value, width=0.002)
        for group, value in (("audio", 0.04), ("video", 0.02)):
            add(f"drift/cmsd_{axis}_localisation", scale * value, width=0.002, group=group)
    for id, value in (("cmsd_train", 0.13), ("wander", 0.7), ("unprovoked", 0.04), ("content_following", 0.55)):
        add(f"drift/{id}", value)
    add("drift/settle_step", 152.0, width=0.0)
    drawn.none("drift/collapse_step", "the mass is within 0.05 and 0.95 at the last checkpoint", group="audio")
    worst = Condition(AUDIO[0], 5, 0)
    add("drift/unexplained", 0.18, condition=worst)
    add("drift/harmful", 0.41, condition=worst)
    add("drift/separation", 0.72, condition=Condition(AUDIO[0], None, 0))
    for id, group, value in (
        ("total_variation", None, 0.3), ("cosine", None, 0.8), ("top_iou", None, 0.4),
        ("rank_correlation", "audio", 0.6),
        ("earth_mover_time", "audio", 0.1), ("earth_mover_grid", "video", 0.05),
    ):  # fmt: skip
        add(f"drift/{id}", value, group=group, condition=worst, estimator="rollout")
    for late in (-80.0, 80.0):
        for id, estimator in (("cmsd", "moved"), ("dropped_mass", "moved, of the clean state")):
            add(f"drift/{id}", 0.05, condition=Condition("offset", late, 0), estimator=estimator, fill="real")
    for id in ("cmsd", "cmsd_allocation"):
        add(f"drift/{id}", 0.2, condition=Condition("audio 20 dB", seed=0), estimator="rollout, under PGD-20")


def _consistency(drawn: Drawn) -> None:
    add = drawn.add
    conditions: list[dict[str, Any]] = [
        {"group": name, "fill": fill} for fill in ("drop", "zero") for name in MODALITIES
    ]
    conditions += [{"condition": Condition(name, 3, 0)} for name in (*SHOWN, TOGETHER[0])]
    for place, fields in enumerate(conditions):
        kept = 0.86 - 0.06 * place
        add("consistency/agreement", kept, **fields)
        add("consistency/kappa", kept - 0.07, **fields)
        add("consistency/soft_agreement", kept + 0.05, **fields)
        add("consistency/ece_change", 0.02 * place, width=0.01, **fields)
        add("consistency/negative_flips", 0.9 - kept, **fields)
        add("consistency/positive_flips", 0.02 + 0.004 * place, width=0.01, **fields)
        add("consistency/overconfidence", 0.02 + 0.01 * place, width=0.01, **fields)
        add("consistency/brier", 0.25 + 0.05 * place, width=0.01, **fields)
        add("consistency/aurc", 0.06 + 0.02 * place, width=0.01, **fields)
    for id, value in (("ece", 0.041), ("brier", 0.21), ("nll", 0.43), ("aurc", 0.05)):
        add(f"consistency/{id}", value, width=0.01)
    for place, fill in enumerate(FILLS):
        for id, value in (("cross_modal", 0.64), ("top_overlap", 0.71)):
            add(f"consistency/{id}", value - 0.1 * place, width=0.01, group="audio+video", fill=fill)
        for name, value in (("audio", 2.6), ("video", 3.9)):
            add("consistency/modality_confusion", value + place, width=1.0, group=name, fill=fill)
        add("consistency/any_confusion", 5.4 + place, width=1.2, fill=fill)


def _stress(drawn: Drawn, clean: float) -> None:
    add = drawn.add
    add("stress/accuracy", clean)
    for place, corruption in enumerate((*AUDIO, *VIDEO, *JOINT)):
        kind = "audio" if corruption in AUDIO else "video" if corruption in VIDEO else "audio+video"
        for severity in range(1, 6):
            loss = (0.03 + 0.012 * (place % 6)) * severity * (1.6 if kind == "audio+video" else 1)
            add("stress/accuracy", clean - loss, group=kind, condition=Condition(corruption, severity, 0))
        worst = {"group": kind, "condition": Condition(corruption, 5, 0)}
        add("stress/chance_adjusted_retention", 0.9 - 0.03 * (place % 6), **worst)
    for kind, value in (("audio", 0.84), ("video", 0.9), ("audio+video", 0.69)):
        add("stress/relative_performance", value, group=kind)
        add("stress/area_under_noise", value * clean, group=kind)
        drawn.none("stress/effective_robustness", "it wants a model to be held against", "skipped", group=kind)
    for offset in (-1280, -640, -320, -160, -80, -40, 0, 40, 80, 160, 320, 640, 1280):
        for fill, less in (("real", 0.0), ("zero", 0.05)):
            loss = (0.22 + less) * (1 - np.exp(-abs(offset) / 300)) * (1.2 if offset < 0 else 1)
            add("stress/offset_accuracy", clean - loss, fill=fill, condition=Condition("offset", offset))
    for rate in np.linspace(0, 1, 11):
        for group, alone in (("audio", 0.42), ("video", 0.55), ("audio+video", 0.48)):
            add("stress/missing_accuracy", clean - rate * (clean - alone), group=group, fill="drop",
                condition=Condition("missing", float(rate), 0))  # fmt: skip
        for group, alone in (("audio", 0.46), ("video", 0.61)):
            add("stress/dilution_accuracy", clean - rate**2 * (clean - alone), group=group,
                condition=Condition("dilution", float(rate), 0))  # fmt: skip
    for group, corruption in (("audio", "audio/white_noise"), ("video", "video/gaussian_noise")):
        add("stress/class_noise_accuracy", clean - 0.1, group=group, condition=Condition(corruption, 5, 0),
            estimator="noise in one, told worst; all clips")  # fmt: skip
    for sound, picture, fall in (("40 dB", "1/255", 1.0), ("20 dB", "8/255", 0.5)):
        for group, value, budget in (("audio", 0.41, f"audio {sound}"), ("video", 0.33, f"video {picture}"),
                                     ("audio+video", 0.24, f"audio {sound}, video {picture}")):  # fmt: skip
            add("stress/adversarial_accuracy", fall * value, estimator="PGD-20", group=group,
                condition=Condition(budget, None, 0))  # fmt: skip
        add("stress/attack_synergy", -0.19, estimator="PGD-20", group="audio+video",
            condition=Condition(f"audio {sound}, video {picture}", None, 0))  # fmt: skip
    bad = [
        (Condition("audio/white_noise", 5, 0), STRESSED, 0.3), (Condition("video/gaussian_noise", 5, 0), STRESSED, 0.7),
        (Condition("audio 20 dB, video 8/255", None, 0), ", under PGD-20, 1 start", 0.5), (None, STRESSED, 0.6),
    ]  # fmt: skip
    for condition, words, share in bad:
        for group, part in (("audio", share), ("video", 1 - share)):
            own = {"group": group, "condition": condition}
            add(
                "contribution/gradient_x_input",
                part,
                estimator=f"behind the front end{words}",
                target="predicted",
                **own,
            )
            for id in ("necessity", "sufficiency"):
                add(f"contribution/{id}", part / 2, estimator=f"accuracy{words}", fill="drop", **own)
    for name, broken in (("accuracy does not rise with steps", 0.0), ("gradients break no less than noise", 0.016)):
        add("stress/attack_guard", broken, width=0.0, estimator=f"PGD-20: {name}", group="audio+video")
    patch = {"group": "video", "condition": Condition("patch", 0.05, 0)}
    add("stress/attack_success", 0.38, estimator="patch of 5 % of the frame, made for a", **patch)
    for name, area in (("attention outliers", 0.61), ("occlusion", 0.92)):
        add("stress/backdoor_detection", area, estimator=f"{name}; patch", **patch)
    for group, value in (("audio", 0.7), ("video", 0.5)):
        add("stress/stickiness", value, group=group, fill="marginal")
    add("stress/outlying_clips", 0.04)
    for share, group, pattern in itertools.product((0.25, 0.5, 0.75), MODALITIES, ("block", "random")):
        loss = share * {"block": 0.4, "random": 0.25}[pattern] * (1.2 if group == "audio" else 1)
        missing = {"group": group, "fill": "drop", "condition": Condition(pattern, share, 0)}
        add("stress/frame_missing_accuracy", clean - loss, **missing)
    for rate, group, same in itertools.product((0.1, 0.3, 0.5), MODALITIES, ("the same", "another")):
        loss = rate * {"the same": 0.1, "another": 0.7}[same]
        add("stress/mismatch_accuracy", clean - loss, group=group,
            condition=Condition(f"mismatch of {same} class", rate, 0))  # fmt: skip
    for group, value in (("actor 1", 0.91), ("actor 2", 0.88), ("actor 3", 0.86), ("actor 4", 0.84), ("actor 5", 0.76)):
        add("stress/group_accuracy", value, width=0.07, group=group, n=48)
    drawn.none("stress/group_accuracy", "fewer than 30 clips", group="actor 6", n=11)
    add("stress/worst_group_accuracy", 0.76, width=0.07, group="actor")
    add("stress/group_gap", 0.15, width=0.06, group="actor")


def _faithfulness(drawn: Drawn) -> None:
    add = drawn.add
    for group, scale in ((None, 1.0), ("audio", 0.7), ("video", 0.6)):
        own = {"group": group, "fill": "mean"}
        add("faithfulness/deletion_gap", 0.24 * scale, **own)
        add("faithfulness/deletion_against_random", -0.13 * scale, **own)
        add("faithfulness/insertion_against_random", 0.16 * scale, **own)
        add("faithfulness/comprehensiveness", 0.3 * scale, **own)
    add("faithfulness/share_drop_agreement", 0.61, group="audio", fill="mean")
    for layer, value in (("none", 1.0), ("head", 0.81), ("fusion.2", 0.5), ("fusion.1", 0.29), ("fusion.0", 0.16),
                         ("encoders", 0.07)):  # fmt: skip
        for group in MODALITIES:
            add("faithfulness/rank_cascade", value, layer=layer, estimator="rollout", group=group)
            add("faithfulness/rank_cascade", value**0.6, layer=layer, estimator="gradient x input", group=group)
    for group in MODALITIES:
        add("faithfulness/random_floor", 0.0, width=0.01, group=group)
        add("faithfulness/input_invariance", 0.75, width=0.01, group=group, target="predicted")
    for group, name in itertools.product(MODALITIES, ("gradient x input", "centre prior")):
        plane, share = ("in time", 0.4) if group == "audio" else ("in space", 0.2)
        own = {"group": group, "target": "predicted" if "x" in name else None}
        for id, value in (("pointing_game", 0.7), ("relevance_mass", 0.6), ("relevance_rank", 0.5), ("top_iou", 0.33)):
            add(f"faithfulness/{id}", value, null_baseline=share, estimator=f"{name}, {plane}", **own)
        overlaps = {"audio": ("segment_f1",), "video": ("consensus_iou", "success_rate", "success_area")}
        for id in overlaps[group]:
            add(
                f"faithfulness/{id}",
                0.5,
                null_baseline=0.1,
                estimator=f"{name}, {plane}, above 0.5 of the range",
                **own,
            )
    add("faithfulness/effective_complexity", 31.0, width=2.0, target="predicted",
        estimator="gradient x input, above 1 % of the greatest, 64 raw players")  # fmt: skip
    for number, name in enumerate(SHOWN):
        add("faithfulness/gap_change", -0.05 * number, condition=Condition(name, 5, 0), fill="mean")
    drawn.none("faithfulness/gap_change", "no modality is a waveform", "skipped", fill="mean",
               condition=Condition(TOGETHER[2], 5, 0))  # fmt: skip


def _arrays(random: np.random.Generator, clean: float) -> dict[str, np.ndarray]:
    source = np.array([f"video-{k // 4:02d}" for k in range(CLIPS)])
    arrays: dict[str, np.ndarray] = {"clips/source": source, "clips/index": np.arange(CLIPS)}
    hard = np.random.default_rng(17).uniform(size=CLIPS)
    arrays["clips/label"] = label = np.arange(CLIPS) % 8
    for name, accuracy in (("clean", clean), ("without audio (drop)", 0.42), ("without video (drop)", 0.55)):
        confidence = np.clip(random.beta(6, 2, CLIPS), 0.13, 1.0)
        right = hard < accuracy + 0.25 * (confidence - 0.75)
        told = np.where(right, label, (label + 1) % 8)[:, None] == np.arange(8)
        chance = np.where(told, confidence[:, None], (1 - confidence[:, None]) / 7)
        arrays |= {f"right/{name}": right, f"confidence/{name}": confidence}
        arrays[f"logits/{name}"] = np.log(np.maximum(chance, 1e-6))
    for name, middle in (("mm_shap", 5.8), ("attention_share", 3.1)):
        share = random.beta(middle, 10 - middle, CLIPS)
        arrays[f"share/{name}"] = np.stack([share, 1 - share], axis=1)
    some = np.sort(random.permutation(CLIPS)[:100])
    for name, severity in itertools.product(SHOWN, (1, 3, 5)):
        arrays[f"right/{name} {severity}"] = hard[some] < clean - 0.05 * severity
        arrays[f"rows/right/{name} {severity}"] = some
    for name in SHOWN:
        arrays[f"drift/score/{name}"] = np.clip(
            np.linspace(0.1, 0.5, 5)[:, None] + random.normal(0, 0.1, (5, CLIPS)), 0, 1
        )
    steps = np.unique(np.round(2.0 ** np.linspace(3, 8.3, 14)))
    mass = 0.5 + 0.28 * np.tanh((np.log2(steps) - 5) / 1.5) * np.linspace(1, 0.5, len(steps))
    arrays |= {"training/step": steps, "training/allocation": np.stack([mass, 1 - mass], 1),
               "training/to_final": 0.3 * np.exp(-np.linspace(0, 4, len(steps)))}  # fmt: skip
    sound, picture = (
        np.array(["0", "40 dB", "35 dB", "30 dB", "20 dB"]),
        np.array(["0", "1/255", "2/255", "4/255", "8/255"]),
    )
    fall = np.exp(-np.arange(5) / 2)
    arrays |= {"attack/PGD-20/audio": sound, "attack/PGD-20/video": picture,
               "attack/PGD-20/accuracy": clean * np.outer(fall, fall)}  # fmt: skip
    cells = np.linspace(0, 1, 21)
    for name, speed in (("joint", 5.0), ("audio", 3.0), ("video", 2.5)):
        noise = random.normal(0, 0.05, (CLIPS, 21))
        arrays[f"curve/{name}/deletion"] = np.exp(-speed * cells) + noise
        arrays[f"curve/{name}/deletion_random"] = 1 - cells**1.3 + noise[::-1]
        arrays[f"curve/{name}/insertion"] = 1 - np.exp(-speed * cells) + noise
        arrays[f"curve/{name}/insertion_random"] = cells**1.3 + noise[::-1]
    return arrays


def _clips(random: np.random.Generator) -> tuple[ShownClip, ...]:
    names = ["calm", "happy", "sad", "angry", "fearful", "disgust", "surprised", "neutral"]
    found = []
    for k in range(6):
        time = np.linspace(0, 1, 240)
        loud = (0.2 + 0.8 * np.exp(-((time - 0.15 * (k + 1)) ** 2) / 0.02)) * (0.6 + 0.4 * np.sin(60 * time) ** 2)
        heard = np.exp(-((np.linspace(0, 1, 16) - 0.15 * (k + 1)) ** 2) / 0.01)
        rows, columns = np.mgrid[0:64, 0:64]
        frames = np.zeros((6, 64, 64, 3))
        for f in range(6):
            disc = (rows - 32) ** 2 + (columns - 14 - 7 * f) ** 2 < 130
            frames[f] = np.stack([90 + rows, 100 + 0 * rows, 160 - columns], -1) + 80 * disc[..., None]
        seen = random.uniform(0, 0.15, (4, 4, 4))
        for t in range(4):
            seen[t, 1:3, min(t, 3)] = 1 - 0.15 * t
        sound = None if k == 4 else np.stack([-loud, loud * random.uniform(0.8, 1, 240)], 1)
        mass = 0.5 + 0.35 * np.sin(np.linspace(0, 5, 12))
        found.append(ShownClip(
            f"drawn-{k:03d}", names[k], names[(k + 3) % 8], 0.98 - 0.04 * k, 1.3, sound,
            None if k == 5 else np.clip(frames, 0, 255).astype(np.uint8), None if k == 4 else heard,
            None if k == 5 else seen, np.stack([mass, 1 - mass], 1) if k == 0 else None,
            np.abs(np.diff(mass)) if k == 0 else None, 0.1 * np.arange(1, 13) if k == 0 else None,
        ))  # fmt: skip
    return tuple(found)
