"""DualProj: the mean gradient, projected onto the dual cone of all gradients."""

from typing import Any

from jaxtyping import Array, Float

from jaxtrain.aggregation._gramians import check_preference, combined, wide_gramian
from jaxtrain.aggregation.upgrad import dual_cone_projection_weights
from jaxtrain.core import Number


def dualproj_weights(
    gramian: Float[Array, "m n"],
    *,
    preference: Float[Array, " k"] | None = None,
    scaling: str = "diagonal",
    reg_eps: Number = 1e-4,
    norm_eps: Number = 0.0,
) -> Float[Array, " m"]:
    r"""The weights of DualProj: the combined gradient is the vector without conflict that is nearest to the mean.

    .. math:: J^\top w = \pi_J(J^\top p), \qquad p_i = \tfrac1m \text{ unless given}

    with the projection :math:`\pi_J` onto :math:`\{x : Jx \ge 0\}`, as in gradient episodic memory. Unlike
    :func:`upgrad_weights` it is not linear in the length of each gradient, and it needs one projection instead of m.

    Args:
      gramian: ``(m, m)`` inner products.
      preference: ``(m,)`` factors :math:`p_i`.
      scaling: see :func:`dual_cone_projection_weights`.
      reg_eps: see there; may be traced.
      norm_eps: see there.

    Returns:
      ``(m,)``, constant in differentiation.

    Raises:
      ValueError: shapes that disagree, an unknown scaling, a negative number.

    Source: Lopez-Paz & Ranzato 2017, arXiv 1706.08840, equation 11. Equal to torchjd 0.18 with ``scaling="trace",
    norm_eps=1e-4``, which becomes the mean below a trace of 1e-4.

    >>> import jax.numpy as jnp
    >>> [round(float(w), 3) for w in dualproj_weights(jnp.array([[18.0, -22.0], [-22.0, 38.0]]))]
    [0.611, 0.5]
    """
    g = wide_gramian(gramian, where="dualproj_weights")
    p = check_preference(preference, len(g), g.dtype, where="dualproj_weights", default=1 / len(g))
    return dual_cone_projection_weights(p, g, scaling=scaling, reg_eps=reg_eps, norm_eps=norm_eps)


def dualproj(
    stacked: Any,
    *,
    preference: Float[Array, " k"] | None = None,
    reg_eps: Number = 1e-4,
    axis_name: str | None = None,
) -> Any:
    r"""DualProj of a stack of gradients: their mean, projected onto :math:`\{x : Jx \ge 0\}`.

    Args:
      stacked: pytree, every leaf ``(m, ...)``: the gradients of m objectives.
      preference: ``(m,)`` factors; default 1/m.
      reg_eps: see :func:`dual_cone_projection_weights`.
      axis_name: a mapped axis that the coordinates are split over, see :func:`sharded`.

    Returns:
      The tree without the leading axis; leaves keep their dtype.

    Raises:
      ValueError: leading axes that disagree or are empty, a preference of another length.

    Source: Lopez-Paz & Ranzato 2017, arXiv 1706.08840, equation 11.

    >>> import jax.numpy as jnp
    >>> [round(float(w), 3) for w in dualproj(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), reg_eps=1e-6)]
    [0.0, 0.5]
    """

    def weights(g):
        return dualproj_weights(g, preference=preference, reg_eps=reg_eps)

    return combined(stacked, weights, where="dualproj", axis_name=axis_name)
