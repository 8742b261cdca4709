"""The geometric median: the point with the smallest sum of distances."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.aggregation._trees import combine, relative_gramian, squared_distances
from jaxtrain.core import Number, check_finite_number
from jaxtrain.core.tree import check_stack


def geometric_median_weights(
    gramian: Float[Array, "m n"], *, tolerance: Number = 1e-5, max_iters: int = 1000
) -> Float[Array, " n"]:
    r"""The weights of the geometric median :math:`v = \sum_i w_i g_i = \operatorname{argmin}_v \sum_i \|g_i - v\|`.

    First every row is tried: the median is row k (with :math:`m_k` rows that equal it) exactly if
    :math:`\|\sum_{j} (g_j - g_k) / \|g_j - g_k\|\| \le m_k`. Where none is, Weiszfeld's iteration
    :math:`w_i \propto 1 / \|g_i - v\|` goes on from the best row's surroundings until the mean of the n unit vectors, the gradient
    of the mean distance, is shorter than ``tolerance``. All of it takes inner products only, O(n²) an iteration.

    Args:
      gramian: ``(n, n)`` inner products; rows with a NaN or an infinity get no weight.
      tolerance: length of the gradient at which to stop; in single precision about 1e-6 can be reached. May be
        traced.
      max_iters: bound on the iterations. They converge linearly, slowly where the median lies close to a row.

    Returns:
      ``(n,)`` in single precision at least, their sum 1; constant in differentiation.

    Raises:
      ValueError: not a square matrix, a tolerance that is not positive, ``max_iters`` below 1.

    Source: Weiszfeld 1937; Kuhn 1973 for the test; Pillutla, Kakade & Harchaoui 2019, "Robust Aggregation for
    Federated Learning", arXiv 1912.13445.

    >>> x = jnp.array([[0.0, 0.0], [2.0, 0.0], [1.0, 3**0.5]])
    >>> [round(w, 4) for w in geometric_median_weights(x @ x.T).tolist()]
    [0.3333, 0.3333, 0.3333]
    """
    check_finite_number("tolerance", tolerance, low=0.0)
    if max_iters < 1:
        raise ValueError(f"max_iters must be at least 1, got {max_iters}")
    gramian = jax.lax.stop_gradient(gramian)
    distances = jnp.sqrt(squared_distances(gramian))
    n, kind = len(distances), distances.dtype
    sound = jnp.isfinite(jnp.diagonal(distances))
    both = sound[:, None] & sound[None, :]
    # around the row with the smallest median distance, which may not be arbitrary: what the rows share cancels
    middle = jnp.argmin(jnp.where(sound, jnp.sort(distances, axis=1)[:, (n - 1) // 2], jnp.inf))
    g = gramian.astype(kind)
    g = jnp.where(both, g - g[:, middle, None] - g[None, middle, :] + g[middle, middle], 0)
    pulls, holding = jax.vmap(lambda d, k: _pull(g, jnp.where(sound, d, jnp.inf), k))(distances, jnp.arange(n))
    surplus = jnp.where(sound, pulls - holding, jnp.inf)
    row = jnp.argmin(surplus)
    at_row = surplus[row] <= 0

    def weights_at(squares: Array) -> tuple[Array, Array]:
        """Weiszfeld's weights, and the sum of the inverse distances."""
        inverse = jnp.where(sound, jax.lax.rsqrt(jnp.maximum(squares, jnp.finfo(kind).tiny * 1e8)), 0)
        return inverse / jnp.maximum(jnp.sum(inverse), jnp.finfo(kind).tiny), jnp.sum(inverse)

    def body(carry):
        w, _, i = carry
        length = _form(g, w)
        squares = jnp.diagonal(g) - 2 * jnp.matmul(g, w, precision="highest") + length
        # what is below rounding is not known: it may not turn into a huge weight
        new, total = weights_at(jnp.maximum(squares, 16 * jnp.finfo(kind).eps * (jnp.diagonal(g) + length)))
        gradient = jnp.sqrt(jnp.maximum(_form(g, new - w), 0)) * total / jnp.maximum(jnp.sum(sound), 1)
        return new, gradient, i + 1

    def cond(carry):
        return (carry[1] > tolerance) & (carry[2] < max_iters)

    far = jnp.where(sound, distances[middle], jnp.inf)
    typical = jnp.where(sound[middle], jnp.sort(far)[(n - 1) // 2], 1.0)
    start, _ = weights_at(jnp.where(sound, jnp.maximum(far, typical), 1.0) ** 2)
    first = jnp.where(at_row, 0.0, jnp.inf).astype(kind)
    w, *_ = jax.lax.while_loop(cond, body, (start, first, 0))
    return jnp.where(at_row, jnp.zeros(n, kind).at[row].set(1), w)


def _pull(g: Array, distances: Array, k: Array) -> tuple[Array, Array]:
    """How strongly the other rows pull at row k, and how many rows hold it there."""
    inverse = jnp.where(distances > 0, 1 / jnp.where(distances > 0, distances, 1), 0)
    pull = jnp.sqrt(jnp.maximum(_form(g, inverse.at[k].add(-jnp.sum(inverse))), 0))
    return pull, jnp.sum(distances <= 0)


def _form(g: Array, a: Array) -> Array:
    return jnp.vdot(a, jnp.matmul(g, a, precision="highest"), precision="highest")


def geometric_median(stacked: Any, *, tolerance: Number = 1e-5, max_iters: int = 1000) -> Any:
    r"""The geometric median of a stack, see :func:`geometric_median_weights`.

    While f < n/2 workers are arbitrary, it is no further from the others' mean than
    :math:`\frac{2(n-f)}{n-2f} \max_i \|g_i - \bar g\|`. Rows further out than 2²⁰ median distances count as
    lying there, in their direction (which moves the median by about a millionth of a distance); rows that are not finite are
    left out.

    Args:
      stacked: pytree, every leaf ``(n, ...)``.
      tolerance: see there; may be traced.
      max_iters: see there.

    Returns:
      The tree without the leading axis. Cost: the Gramian, O(n²) for each parameter, and small iterations.

    Raises:
      ValueError: leading axes that disagree or are empty, see also there.

    Source: Pillutla, Kakade & Harchaoui 2019, arXiv 1912.13445.

    >>> [round(v, 4) for v in geometric_median(jnp.array([[0.0, 0.0], [2.0, 0.0], [1.0, 3**0.5]])).tolist()]
    [1.0, 0.5774]
    """
    check_stack(stacked, where="geometric_median")
    relative = relative_gramian(stacked)
    weights = geometric_median_weights(relative.gramian, tolerance=tolerance, max_iters=max_iters)
    # of the rows as they were sent: what was drawn in counts for less, the row in the middle for the rest
    weights = weights * relative.factors
    return combine(weights.at[relative.middle].add(1 - jnp.sum(weights)), stacked)
