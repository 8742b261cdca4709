"""The gradient by finite differences, one coordinate after the other."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.core import Aux, GradFn, Number, Objective, check_finite_number
from jaxtrain.core.numerics import accumulator_dtype, static_int
from jaxtrain.gradients.zeroth_order import _as_pair, values_around


def finite_differences(
    objective: Objective, *, step: Number | None = None, scheme: str = "central", parallel: int = 1
) -> GradFn:
    r"""The gradient of a small model from values alone, to check others by or where there is no derivative.

    .. math:: g_i = \frac{f(\theta + h_i e_i) - f(\theta - h_i e_i)}{2 h_i}, \quad\text{forward: }
       \frac{f(\theta + h_i e_i) - f(\theta)}{h_i}, \qquad h_i = h \max(1, |\theta_i|).

    The error is :math:`O(h^2)` and :math:`O(h)`, and that of rounding :math:`\epsilon |f| / h`: h defaults to the cube
    root and the root of the machine epsilon of the parameters, which balances the two. Costs 2d or d + 1 evaluations of the objective,
    d the number of parameters, ``parallel`` of them at once, and no derivative. Every evaluation sees the same batch and
    key. Loss, metrics and model state as in :func:`zeroth_order`.

    Args:
      objective: ``(params, model_state, batch, key) -> (loss, Aux)``.
      step: h > 0.
      scheme: ``"central"`` or ``"forward"``.
      parallel: coordinates that are moved at once; must divide d.

    Returns:
      A gradient function.

    Raises:
      ValueError: a number out of range, an unknown scheme, or (while tracing) ``parallel`` does not divide d.

    >>> grad_fn = finite_differences(lambda w, s, x, k: (w[0] * w[1], Aux(s, {})))
    >>> _, grads = grad_fn(jnp.array([2.0, 3.0]), {}, None, jax.random.key(0))
    >>> [round(float(g), 3) for g in grads]
    [3.0, 2.0]
    """
    if step is not None:
        check_finite_number("step", step, low=1e-30)
    if scheme not in ("central", "forward"):
        raise ValueError(f"finite_differences: scheme must be central or forward, got {scheme!r}")
    parallel = static_int("parallel", parallel, low=1)

    def grad_fn(params, model_state, batch, key):
        leaves, structure = jax.tree.flatten(params)
        sizes = [p.size for p in leaves]
        starts = np.cumsum([0, *sizes])
        if starts[-1] % parallel:
            raise ValueError(f"finite_differences: parallel={parallel} does not divide {starts[-1]} parameters")
        # a step of 1 in units of h_i, so that large parameters move
        units = [jnp.maximum(1, jnp.abs(p)).astype(accumulator_dtype(p)) for p in leaves]

        def along(f, i, after):
            moved = [
                f(p, jnp.where(jnp.arange(u.size).reshape(u.shape) == i - start, u, 0))
                for p, u, start in zip(leaves, units, starts[:-1], strict=True)
            ]
            return jax.tree.unflatten(structure, moved)

        epsilon = max([float(jnp.finfo(p.dtype).eps) for p in leaves], default=1.0)
        h = epsilon ** (1 / 3 if scheme == "central" else 1 / 2) if step is None else step
        scales = (h, -h) if scheme == "central" else (h,)

        def value(p):
            return _as_pair(objective(p, model_state, batch, key))

        losses, besides = values_around(value, params, along, jnp.arange(starts[-1]), scales, parallel=parallel)
        if scheme == "central":
            loss, quotients = jnp.mean(losses), (losses[:, 0] - losses[:, 1]) / (2 * h)
        else:
            loss, besides = value(params)
            quotients = (losses[:, 0] - loss) / h
        pieces = jnp.split(quotients, starts[1:-1])
        grads = [(q.reshape(p.shape) / u).astype(p.dtype) for q, p, u in zip(pieces, leaves, units, strict=True)]
        return (loss, Aux(*besides)), jax.tree.unflatten(structure, grads)

    return grad_fn
