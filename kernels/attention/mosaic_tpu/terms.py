"""What the backward kernels need of every row, worked out by XLA from the upstream gradients: O(N) numbers.

D_i = sum_j P_ij G_ij - dL_i + dX_i X_i comes without a pass over the scores, since each of its terms is known:

    sum_j P_ij G_ij = <dO_i, O_i> + sum_g <dO_ig, O_ig> + sum_g dM_ig M_ig + dH_i H_i + 2 dR_i R_i + sum_r w_ir y_ir

The entropies of groups add nothing: moving mass within them is all that they see.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

from kernels.attention import block
from kernels.attention.mosaic_tpu.tile import Rows


def row_terms(
    found: dict[str, Array],
    given: dict[str, Array],
    output: Array,
    of_output: Array | None,
    weights: Array | None,
    through: Array | None,
) -> tuple[Rows, Array]:
    """The rows of ``terms`` [B, H, rows, Nq], see ``Upstream``.

    Args:
      found: ``highest``, ``inverse`` [B, H, Nq] and the statistics.
      given: gradients of statistics, those that have any.
      output, of_output: O and dO [B, Nq, H, Dv]; None where it has no gradient.
      weights: w [B, Nq, R], with ``through``: y [B, H, R, Nq]; None where ``received`` has no gradient.
    """
    rows = block.row_terms(found, given)
    if "slope" in rows and rows["slope"].ndim == 4:
        rows["slopes"] = rows.pop("slope")
    shift = -rows.pop("lse", jnp.zeros_like(found["inverse"]))
    if of_output is not None:
        products = of_output.astype(jnp.float32) * output.astype(jnp.float32)
        shift += jnp.swapaxes(products.sum(-1), 1, 2)
    if "group_output" in given:
        shift += (given["group_output"] * found["group_output"]).sum((-1, -2))
    if "mass" in given:
        shift += (given["mass"] * found["mass"]).sum(-1)
    if "entropy" in given:
        shift += given["entropy"] * found["entropy"]
    if "second_moment" in given:
        shift += rows["moment"] * found["second_moment"]
    if through is not None:
        rows["weights"] = jnp.broadcast_to(weights[:, None], (*shift.shape, weights.shape[2]))
        shift += (rows["weights"] * jnp.swapaxes(through, 2, 3)).sum(-1)
    if "peak" in given:
        rows["peak_at"] = found["peak_at"]
        shift += rows["peak"]
    rows["shift"] = shift
    full = {name: row[..., None] if row.ndim == 3 else row for name, row in rows.items()}
    terms = jnp.concatenate([jnp.swapaxes(row.astype(jnp.float32), 2, 3) for row in full.values()], 2)
    return Rows.of({name: row.shape[-1] for name, row in full.items()}), terms
