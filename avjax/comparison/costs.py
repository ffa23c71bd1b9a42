"""What an experiment costs: parameters, multiply-accumulates, energy, memory.

    MACs    of every product (dot_general) and convolution that the evaluation step traces to, loops counted as often as
            they run, divided by the rows of the batch
    FLOPs   = 2 MACs
    energy  = 4.6 pJ x MACs       float32: 3.7 pJ a multiplication and 0.9 pJ an addition in 45 nm (Horowitz 2014)

XLA's own count (``cost_analysis``) is not used: it takes the body of a loop once, and a recurrent layer over 100 steps
would cost a hundredth. The energy leaves out memory, and is no measurement of any device.
"""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.extend import core

from avjax.data.pipeline import Crop
from avjax.data.records import Description
from avjax.experiment import Experiment
from avjax.training.on_mesh import DeviceBatches, build_state, jit_train
from avjax.training.sharding import MeshShape

PICOJOULES_A_MAC = 4.6


class Uncounted(Exception):
    """A program whose multiply-accumulates cannot be told from its trace; says why."""


def costs(experiment: Experiment, description: Description) -> dict[str, Any]:
    """Of one clip, and of a training step on one device; what cannot be told is None, beside the reason.

    Returns:
      parameters, macs_per_clip, flops_per_clip, energy_joules_per_clip, peak_bytes, and NAME_reason for what is None.
    """
    mesh = MeshShape().build(jax.devices()[:1])
    steps, _, abstract = build_state(experiment, mesh)
    rows = experiment.data.batch
    batch = DeviceBatches(mesh, experiment.training.rules, rows)(Crop(experiment.data, description).empty(rows))
    found: dict[str, Any] = {"parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(abstract.params))}
    try:
        # The plain steps: on a mesh, a part of the program may stand for one device of several.
        macs = multiply_accumulates(jax.make_jaxpr(experiment.steps()[0].evaluate)(abstract, batch).jaxpr) / rows
        found |= {
            "macs_per_clip": macs,
            "flops_per_clip": 2 * macs,
            "energy_joules_per_clip": PICOJOULES_A_MAC * 1e-12 * macs,
        }
    except Uncounted as reason:
        names = ("macs_per_clip", "flops_per_clip", "energy_joules_per_clip")
        found |= dict.fromkeys(names) | {f"{name}_reason": str(reason) for name in names}
    # As the training loop has it, so that the compiled program is in the cache already.
    memory = jit_train(steps, abstract).lower(abstract, batch, jax.random.key(0)).compile().memory_analysis()
    if memory is None:
        return found | {"peak_bytes": None, "peak_bytes_reason": "the compiler does not tell"}
    # Outputs that lie in the place of arguments (the state) count once.
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return found | {"peak_bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes + outputs}


def multiply_accumulates(jaxpr: core.Jaxpr) -> int:
    """Of all products and convolutions of a program; the dearest branch of a condition.

    Raises:
      Uncounted: for a loop of unknown length, and for a kernel that is no program of JAX's.
    """
    total = 0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            # A kernel is [outputs, inputs a group, *window] up to order: every output takes all but its own axis.
            kernel = equation.invars[1].aval
            outputs = kernel.shape[parameters["dimension_numbers"].rhs_spec[0]]
            total += equation.outvars[0].aval.size * kernel.size // outputs
        elif name == "while":
            if any(multiply_accumulates(inner) for inner in _inner(parameters)):
                raise Uncounted("it has a loop of unknown length")
        elif name == "pallas_call":
            raise Uncounted("it has a kernel that does not tell")
        elif name == "cond":
            total += max(multiply_accumulates(branch.jaxpr) for branch in parameters["branches"])
        else:
            times = parameters["length"] if name == "scan" else 1
            total += times * sum(multiply_accumulates(inner) for inner in _inner(parameters))
    return total


def _inner(parameters: dict[str, Any]) -> list[core.Jaxpr]:
    """The programs among the parameters of an equation."""
    found = []
    for value in parameters.values():
        if isinstance(value, core.ClosedJaxpr):
            found.append(value.jaxpr)
        elif isinstance(value, core.Jaxpr):
            found.append(value)
    return found
