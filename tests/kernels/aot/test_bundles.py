"""Schedules as libtpu writes them: a short one made by hand, in its format."""

from __future__ import annotations

import pytest

from kernels.aot import bundles

UNITS = "MXU, XLU, VALU, VPOP, EUP, VLOAD, VLOAD:FILL, VSTORE, VSTORE:SPILL, SALU"


def dump(*pieces: tuple[str, int, int, int]) -> tuple[str, str]:
    """The two files of a program of (label, bundles, products, spills); every piece but the last ends in a branch."""
    lines, rows, at = [], [], 0
    for number, (label, count, products, spills) in enumerate(pieces):
        for place in range(count):
            branch = (
                "{ %s1 = sbr.rel (%p1) target = $region2 }"
                if number + 1 < len(pieces) and place == count - 5
                else "{ }"
            )
            lines.append(f"{at:#6x} {label if place == 0 else '  '}: > {branch}")
            rows.append(f"{products if place == 0 else 0} 0 1 0 0 0 0 0 {spills if place == 0 else 0} 0")
            at += 1
    lines[0] = lines[0].replace("0x0", "  0")
    return (
        "= control target key start\nLB: loop body\n\n" + "\n".join(lines) + "\n",
        f"== CAPACITY:\n{UNITS}\n 4 3 4 2 1 3 3 1 1 2\n== UTILIZATION:\n" + "\n".join(rows) + "\n",
    )


def test_bodies_are_the_pieces_that_multiply():
    found = bundles.bodies(
        *dump(("LB", 9, 0, 0), ("  ", 30, 12, 3), ("PF", 8, 0, 0), ("  ", 40, 7, 5), ("PF", 6, 0, 0))
    )
    assert [(body.bundles, body.spills, body.slots["MXU"]) for body in found] == [(30, 3, 12), (40, 5, 7)]
    assert found[0].slots["VALU"] == 30


def test_what_is_left_of_a_body_beside_a_branch_belongs_to_it():
    found = bundles.bodies(*dump(("LB", 30, 12, 3), ("  ", 9, 2, 1), ("  ", 40, 9, 5), ("PF", 7, 1, 0)))
    assert [(body.bundles, body.spills, body.slots["MXU"]) for body in found] == [(39, 4, 14), (47, 5, 10)]


def test_files_that_do_not_fit_together_are_refused():
    schedule, utilization = dump(("LB", 9, 1, 0))
    with pytest.raises(ValueError, match="9 bundles and 8 rows"):
        bundles.bodies(schedule, utilization.rsplit("\n", 2)[0] + "\n")


def test_a_folder_is_read_by_kernel(tmp_path):
    schedule, utilization = dump(("LB", 9, 1, 2))
    names = ("jvp_attention_forward_.1", "transpose_jvp_attention_of_keys__.1", "fusion.3")
    for number, name in enumerate(names):
        (tmp_path / f"17{number}-{name}-03-final_bundles.txt").write_text(schedule)
        (tmp_path / f"17{number}-{name}-01-final_hlo-static-per-bundle-utilization.txt").write_text(utilization)
        (tmp_path / f"17{number}-{name}-02-schedule-analysis_final_bundles.txt").write_text("another file")
    found = bundles.read(tmp_path)
    assert {name: [body.spills for body in bodies] for name, bodies in found.items()} == {
        "forward": [2],
        "of_keys": [2],
    }
    (tmp_path / "170-jvp_attention_forward_.1-03-final_bundles.txt").unlink()
    with pytest.raises(ValueError, match="only final_hlo-static"):
        bundles.read(tmp_path)
