"""The list of systems, docs/systems.md, from what avjax/models says of itself.

    python experiments/systems.py [--out docs/systems.md] [--results runs/figures/systems/comparison.json]

Parameters are counted at paper size without allocating any. With the results of ``avjax compare
experiments/compare_demo.py`` every system has its accuracy on the synthetic demo corpus beside it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import ModuleType

import jax
from flax import nnx

from avjax.models import systems

HEAD = """# Systems

One file each in [avjax/models](../avjax/models), composed of the blocks of [avjax/nn](../avjax/nn); this page is
written by `python experiments/systems.py`. Numbers in brackets are those of the survey. *Ours* is what a source leaves
open and this project chose; a system that is mostly ours is a reading of an idea, not a reproduction. How to add one:
[add-a-model.md](add-a-model.md).

"""


def parameters(module: ModuleType) -> int:
    """Of the system at paper size."""
    config = module.Config.paper()
    model = nnx.eval_shape(lambda: config.build(nnx.Rngs(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def page(results: dict[str, str]) -> str:
    """The whole page.

    Args:
      results: name of the file -> what it reached on the demo corpus.
    """
    found = systems()
    counts = {name: parameters(module) for name, module in found.items()}
    lines = ["| system | source | mechanism | fusion | architecture | parameters |", "|---|---|---|---|---|---|"]
    for name, module in found.items():
        system = module.SYSTEM
        lines.append(
            f"| [{system.name}](#{name}) | {system.source} | {system.mechanism} | {system.fusion} |"
            f" {system.architecture} | {_short(counts[name])} |"
        )
    return (
        HEAD + "\n".join(lines) + "\n" + "".join(_section(name, found[name], counts[name], results) for name in found)
    )


def _section(name: str, module: ModuleType, count: int, results: dict[str, str]) -> str:
    system = module.SYSTEM
    facts = {
        "file": f"[avjax/models/{name}.py](../avjax/models/{name}.py)",
        "what": module.__doc__.strip().split("\n\n")[0].replace("\n", " "),
        "task": system.task,
        "corpora": ", ".join(system.corpora),
        "metrics": ", ".join(system.metrics),
        "take it when": system.use,
        "not when": system.avoid,
        "ours": system.ours,
        "parameters at paper size": f"{count:,}" + (", as the source has it" if system.parameters else ""),
        "the source reports": system.reported,
        "here, on the synthetic demo corpus": results.get(name, ""),
    }
    return f"\n## {name}\n\n" + "".join(f"- **{key}**: {value}\n" for key, value in facts.items() if value)


def _short(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count / 1e3:.0f} k"


def reached(file: Path) -> dict[str, str]:
    """What the systems reached in a comparison, by the name of their file."""
    found = json.loads(file.read_text())
    metric, told = found["metric"], {}
    for name, row in found["experiments"].items():
        if row.get(metric) is None:
            continue
        told[name] = f"{metric} {row[metric]:.3f} ({row[f'{metric}_low']:.3f} to {row[f'{metric}_high']:.3f})"
        lacking = {"sound": row.get("without_audio"), "pictures": row.get("without_video")}
        told[name] += "".join(f", {value:.3f} without {what}" for what, value in lacking.items() if value is not None)
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/systems.md"))
    parser.add_argument("--results", type=Path, help="comparison.json of compare_demo")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    arguments.out.write_text(page(reached(arguments.results) if arguments.results else {}))
    print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
