"""The flag aggregator: the mean of the workers' projections on a subspace that most of them agree on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.aggregation._gramians import wide_gramian
from jaxtrain.aggregation._trees import combine, gramian, row_scales, scale_rows
from jaxtrain.core import Number, check_finite_number
from jaxtrain.core.tree import check_stack


class Flag(NamedTuple):
    """What :func:`flag_weights` gives.

    Attributes:
      weights: ``(p,)``: the aggregate is the sum of the normalised columns with these weights.
      ratios: ``(p,)`` reconstruction ratios :math:`\\|Y^\\top x_i\\|^2` in [0, 1]; small ones tell outliers.
      objective: ``(num_iters + 1,)``: at the start and after each iteration; does not rise.
    """

    weights: Float[Array, " p"]
    ratios: Float[Array, " p"]
    objective: Float[Array, " k"]


def flag_weights(
    gramian: Float[Array, "p p"],
    *,
    rank: int | None = None,
    reg: Number = 0.0,
    num_iters: int = 5,
    eps: Number = 1e-7,
    lengths: Float[Array, " k"] | None = None,
) -> Flag:
    r"""The flag median's subspace by iteratively reweighted least squares, from the Gramian of unit columns.

    .. math:: \min_{Y^\top Y = I} \sum_i \sqrt{1 - \|Y^\top x_i\|^2} + \frac{\lambda}{p(p-1)} \sum_{i \ne j}
        \sqrt{|1 - \|Y^\top (x_i - x_j)\|^2|}

    Each iteration takes for Y the leading left singular vectors of the columns, column i times
    :math:`(|1 - \|Y^\top x_i\|^2| + \epsilon)^{-1/4}` and the difference of columns i and j times
    :math:`\sqrt{\lambda / (p(p-1))}\, (|1 - \|Y^\top (x_i - x_j)\|^2| + \epsilon)^{-1/4}`, from the singular vectors of the plain
    columns; an iteration after which the objective is larger is not taken. Y lies in the span of the columns, so all of it happens on p × p
    matrices: one eigenvalue problem an iteration.

    Args:
      gramian: ``(p, p)`` inner products of the normalised columns, its diagonal 1 (or 0 for a column without direction).
      rank: m, the dimension of the subspace, from 1 to p; default ⌈(p + 1)/2⌉.
      reg: λ ≥ 0; may be traced.
      num_iters: iterations, at least 1.
      eps: keeps weights finite; may be traced.
      lengths: ``(p,)`` factors of the columns in the average; default: 1.

    Returns:
      A :class:`Flag`: weights such that :math:`X w = \frac1p \sum_i \ell_i YY^\top x_i`.

    Raises:
      ValueError: a rank outside [1, p], a negative number.

    Source: Almasi, Mishra, Vamanan & Ravi 2023, "Flag Aggregator", arXiv 2302.05865.

    >>> flag_weights(jnp.eye(2), rank=2).weights.round(4).tolist()
    [0.5, 0.5]
    """
    gramian = wide_gramian(gramian, where="flag_weights")
    p = len(gramian)
    rank = -(-(p + 1) // 2) if rank is None else rank
    rank = min(rank, p) if p == 1 else rank
    if not 1 <= rank <= p:
        raise ValueError(f"flag: rank must lie in [1, p = {p}], got {rank}")
    if num_iters < 1:
        raise ValueError(f"flag: num_iters must be at least 1, got {num_iters}")
    check_finite_number("reg", reg, low=0.0)
    check_finite_number("eps", eps, low=0.0)
    kind = gramian.dtype
    share = jnp.asarray(reg, kind) / max(p * (p - 1), 1)
    # coordinates of the columns in an orthonormal basis of their span: c.T @ c = gramian
    values, vectors = jnp.linalg.eigh(gramian)
    kept = values > 8 * p * jnp.finfo(kind).eps * values[-1]
    root = jnp.sqrt(jnp.where(kept, values, 0))
    c = root[:, None] * vectors.T
    inverse = vectors * jnp.where(kept, 1 / jnp.where(kept, root, 1), 0)

    def sines(y: Array) -> tuple[Array, Array]:
        """1 − ‖Yᵀx_i‖², and the same of the differences."""
        z = _dot(y.T, c)
        inner = _dot(z.T, z)
        own = jnp.diagonal(inner)
        pairs = jnp.abs(1 - (own[:, None] + own[None, :] - 2 * inner))
        return jnp.abs(1 - own), jnp.where(jnp.eye(p, dtype=bool), 0, pairs)

    def objective(y: Array) -> Array:
        own, pairs = sines(y)
        return jnp.sum(jnp.sqrt(own)) + share * jnp.sum(jnp.sqrt(pairs))

    def leading(scatter: Array) -> Array:
        # of the columns: only the basis of the span, no direction outside of it
        return jnp.linalg.eigh(_dot(_dot(c, scatter), c.T))[1][:, p - rank :]

    def body(y: Array, _: None) -> tuple[Array, Array]:
        own, pairs = sines(y)
        a = share * jnp.where(jnp.eye(p, dtype=bool), 0, (pairs + eps) ** -0.5)
        # Σ a_ij (e_i − e_j)(e_i − e_j)ᵀ over ordered pairs is twice a graph's Laplacian
        scatter = jnp.diag((own + eps) ** -0.5 + 2 * jnp.sum(a, axis=1)) - 2 * a
        new = leading(scatter)
        y = jnp.where(objective(new) <= objective(y), new, y)
        return y, objective(y)

    start = leading(jnp.eye(p, dtype=kind))
    y, track = jax.lax.scan(body, start, None, length=num_iters)
    z = _dot(y.T, c)
    mean = jnp.mean(c if lengths is None else c * lengths.astype(kind), axis=1)
    weights = _dot(inverse, _dot(y, _dot(y.T, mean)))
    return Flag(weights, jnp.sum(z**2, axis=0), jnp.concatenate([objective(start)[None], track]))


def _dot(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def flag_aggregate(
    stacked: Any,
    *,
    rank: int | None = None,
    reg: Number = 0.0,
    num_iters: int = 5,
    eps: Number = 1e-7,
    normalise: bool = True,
) -> tuple[Any, Float[Array, " p"]]:
    r"""The flag aggregator: :math:`\frac1p \sum_i Y Y^\top \tilde g_i`, Y as in :func:`flag_weights`.

    With ``normalise`` the averaged columns are the unit vectors :math:`\tilde g_i = g_i / \|g_i\|`: whatever f workers send, the result is
    no longer than 1, and each of them moves the average within the subspace by at most 1/p; the learning rate alone decides the length of a
    step. Without it the columns are averaged as they are; then one long column that lies partly in the subspace moves
    the result anywhere. A row that is not finite, or zero, has no direction and is left out as if it were zero.

    Args:
      stacked: pytree, every leaf ``(p, ...)``.
      rank: dimension of the subspace; default ⌈(p + 1)/2⌉.
      reg: λ ≥ 0, weight of the pairwise term; may be traced.
      num_iters: iterations of reweighted least squares.
      eps: see :func:`flag_weights`.
      normalise: average unit vectors.

    Returns:
      ``(aggregate, ratios)``: the tree without the leading axis, and the workers' reconstruction ratios in [0, 1].
      Cost: the Gramian, O(p²) for each parameter, and p × p eigenvalue problems.

    Raises:
      ValueError: a rank outside [1, p], a negative number, leading axes that disagree or are empty.

    Source: Almasi, Mishra, Vamanan & Ravi 2023, "Flag Aggregator: Scalable Distributed Training under Failures and
    Augmented Losses using Convex Optimization", arXiv 2302.05865.

    >>> aggregate, ratios = flag_aggregate(jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 3.0]]), rank=1)
    >>> [round(v, 3) for v in aggregate.tolist()], [round(v, 3) for v in ratios.tolist()]
    ([0.667, 0.0], [1.0, 1.0, 0.0])
    """
    check_stack(stacked, where="flag_aggregate")
    unit, lengths = _unit_rows(stacked)
    flag = flag_weights(
        gramian(unit), rank=rank, reg=reg, num_iters=num_iters, eps=eps, lengths=None if normalise else lengths
    )
    wide = combine(flag.weights, unit)
    return jax.tree.map(lambda w, x: w.astype(x.dtype), wide, stacked), flag.ratios


def _unit_rows(stacked: Any) -> tuple[Any, Float[Array, " p"]]:
    """The rows in single precision at least, of length one, and their lengths."""
    finite = [jnp.all(jnp.isfinite(x).reshape(x.shape[0], -1), axis=1) for x in jax.tree.leaves(stacked)]
    sound = jnp.all(jnp.stack(finite), axis=0)

    def cleaned(x: Array) -> Array:
        mask = sound.reshape(-1, *[1] * (x.ndim - 1))
        return jnp.where(mask, x.astype(jnp.promote_types(x.dtype, jnp.float32)), 0)

    rows = jax.tree.map(cleaned, stacked)
    scales = row_scales(rows)
    rows = scale_rows(rows, 1 / scales)
    norms = jnp.sqrt(sum(jnp.sum(x**2, axis=tuple(range(1, x.ndim))) for x in jax.tree.leaves(rows)))
    unit = scale_rows(rows, jnp.where(norms > 0, 1 / jnp.where(norms > 0, norms, 1), 0))
    return unit, scales * norms
