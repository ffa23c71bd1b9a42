"""Experiments trained under one budget, and shown side by side: what ``avjax compare EXPERIMENT...`` does.

    plan.py         which runs: every experiment with every seed, and what they do not share
    carry_out.py    trains and measures each in a process of its own, and goes on where it was left
    measure.py      one run: the test split whole, without a modality, misaligned
    costs.py        one experiment: parameters, multiply-accumulates, energy, memory
    outcome.py      everything as one flat table, for JSON
    show.py         the table for a terminal, and the plot

OUT/NAME/seed-S is an ordinary run directory with two files more, conditions.json and costs.json.
"""
