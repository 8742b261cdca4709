"""Logistic regression on separable data with large steps: normalized gradient descent, and the perceptrons behind it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, Scalar, check_finite_number
from jaxtrain.core.numerics import accumulator_dtype, static_int
from jaxtrain.optimizers._inner import check_cap, ratio, scaled

Weights = Float[Array, " d"]
Rows = Float[Array, "n d"]
Labels = Float[Array, " n"] | Int[Array, " n"]


class Margin(NamedTuple):
    """What :func:`margin` finds: the margin, the largest length of a row, and the unit vector with that margin."""

    margin: Scalar
    radius: Scalar
    direction: Weights


def _signed(X: Array, y: Array, where: str, w: Array | None = None) -> Array:
    """Rows times labels, in float32 at least."""
    if X.ndim != 2 or y.shape != X.shape[:1] or not len(y):
        raise ValueError(f"{where} needs rows (n, d) and labels (n,), got shapes {X.shape} and {y.shape}")
    if w is not None and w.shape != X.shape[1:]:
        raise ValueError(f"{where} needs a weight for each of the {X.shape[1]} columns, got shape {w.shape}")
    if not isinstance(y, jax.core.Tracer) and np.any(np.abs(np.asarray(y)) != 1):
        raise ValueError(f"{where}: labels must be -1 or 1, got {sorted(set(np.asarray(y).tolist()))[:4]}")
    z = X.astype(accumulator_dtype(X))
    return z * y.astype(z.dtype)[:, None]


def normalized_logistic_gd_step(w: Weights, X: Rows, y: Labels, *, step_size: Number) -> Weights:
    r"""One step of normalized gradient descent on the logistic loss :math:`\frac1n \sum_i \log(1 + e^{-y_i a_i^\top w})`.

    .. math:: w \leftarrow w - \gamma\,\frac{\nabla f(w)}{\frac1n \sum_i s_i}
       = w + \gamma\,\frac{\sum_i s_i\,y_i a_i}{\sum_i s_i}, \qquad s_i = \frac{1}{1 + e^{y_i a_i^\top w}}.

    The weights :math:`s_i / \sum_j s_j` come from a softmax, so that they are right where every :math:`s_i`
    underflows. As :math:`\gamma \to \infty` it is the :func:`batch_perceptron_step`, normalized: about
    :math:`R^2/\mu^2` steps separate the data, however many rows there are, where gradient descent may need n times as
    many.

    Args:
      w: the weights.
      X: one row :math:`a_i` for each example.
      y: their labels, -1 or 1.
      step_size: :math:`\gamma` > 0, of any size.

    Returns:
      The new weights.

    Raises:
      ValueError: shapes that do not agree, other labels, a step size that is not positive.

    Source: Tyurin (2025), "From Logistic Regression to the Perceptron Algorithm", arXiv 2412.08424.

    >>> X, y = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([1, -1])
    >>> normalized_logistic_gd_step(jnp.zeros(2), X, y, step_size=4.0).tolist()
    [2.0, -2.0]
    """
    check_cap("step_size", step_size)
    z = _signed(X, y, "normalized_logistic_gd_step", w)
    weights = jax.nn.softmax(jax.nn.log_sigmoid(-(z @ w)))
    return (w + step_size * (weights @ z)).astype(w.dtype)


def batch_perceptron_step(w: Weights, X: Rows, y: Labels, *, normalized: bool = False) -> Weights:
    r"""One step of the batch perceptron: the wrongly classified rows are added, times their labels.

    .. math:: w \leftarrow w + \frac1n \sum_i h_i\,y_i a_i, \qquad
       h_i = 1, \tfrac12, 0 \text{ where } y_i a_i^\top w < 0, = 0, > 0,

    or, normalized, divided by :math:`\sum_i h_i` instead of n. These are what gradient descent and normalized gradient
    descent on the logistic loss become, in units of the step size, as that grows.

    Args:
      w, X, y: see :func:`normalized_logistic_gd_step`.
      normalized: whether the mean is over the wrongly classified rows.

    Returns:
      The new weights; the old ones where every row is right.

    Raises:
      ValueError: shapes that do not agree, other labels.

    Source: Tyurin (2025), arXiv 2412.08424.

    >>> X, y = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([1, -1])
    >>> batch_perceptron_step(jnp.array([0.0, 1.0]), X, y).tolist()
    [0.25, 0.5]
    """
    z = _signed(X, y, "batch_perceptron_step", w)
    m = z @ w
    h = jnp.where(m < 0, 1.0, jnp.where(m == 0, 0.5, 0.0)).astype(z.dtype)
    return (w + ratio(h @ z, jnp.sum(h) if normalized else jnp.asarray(len(z), z.dtype))).astype(w.dtype)


def perceptron(
    X: Rows, y: Labels, w0: Weights | None = None, *, max_epochs: int = 1000
) -> tuple[Weights, Int[Array, ""]]:
    r"""The perceptron: row by row, :math:`w \leftarrow w + y_i a_i` wherever :math:`y_i a_i^\top w \le 0`.

    On separable data, from zero, it makes at most :math:`R^2/\mu^2` updates (Novikoff), see :func:`margin`.

    Args:
      X, y: see :func:`normalized_logistic_gd_step`.
      w0: where to start; None: at zero.
      max_epochs: passes at most; one without an update is the last.

    Returns:
      Weights, in float32 at least, and number of updates.

    Raises:
      ValueError: shapes that do not agree, other labels, ``max_epochs`` below 1.

    Source: Rosenblatt (1958); Novikoff (1962), "On convergence proofs on perceptrons".

    >>> w, updates = perceptron(jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([1, -1]))
    >>> w.tolist(), int(updates)
    ([1.0, -2.0], 5)
    """
    z = _signed(X, y, "perceptron")
    epochs = static_int("max_epochs", max_epochs, low=1)
    start = jnp.zeros(z.shape[1], z.dtype) if w0 is None else jnp.asarray(w0, z.dtype)

    def visit(carry, row):
        w, updates = carry
        wrong = row @ w <= 0
        return (jnp.where(wrong, w + row, w), updates + wrong), None

    def epoch(carry):
        w, updates, _, number = carry
        (w, after), _ = jax.lax.scan(visit, (w, updates), z)
        return w, after, after > updates, number + 1

    carry = (start, jnp.zeros((), jnp.int32), jnp.array(True), 0)
    w, updates, *_ = jax.lax.while_loop(lambda c: c[2] & (c[3] < epochs), epoch, carry)
    return w, updates


def margin(X: Rows, y: Labels, *, tolerance: Number = 1e-4, max_iters: int = 100_000) -> Margin:
    r"""The margin of separable data, :math:`\mu = \max_{\|w\| = 1} \min_i y_i a_i^\top w`, and :math:`R = \max_i \|a_i\|`.

    Found as the point of smallest norm in the convex hull of the :math:`y_i a_i` (its length is the margin) by
    accelerated projected gradients, until the margin that its direction has is within ``tolerance`` of the
    length, which no direction can exceed.

    Args:
      X, y: see :func:`normalized_logistic_gd_step`.
      tolerance: relative, ≥ 0; in single precision about 1e-5 can be reached.
      max_iters: at most so many iterations, of O(n²) each.

    Returns:
      :class:`Margin`. Its margin is one that the direction has, not an estimate: a lower bound of the largest. It is
      negative where the data are not separable.

    Raises:
      ValueError: shapes that do not agree, other labels, numbers out of range.

    Source: Novikoff (1962); Tyurin (2025), arXiv 2412.08424.

    >>> found = margin(jnp.array([[3.0, 4.0], [0.0, -5.0]]), jnp.array([1, 1]))
    >>> round(float(found.margin), 3), float(found.radius)
    (1.581, 5.0)
    """
    check_finite_number("tolerance", tolerance, low=0.0)
    iters = static_int("max_iters", max_iters, low=1)
    z = _signed(X, y, "margin")
    gram = jnp.matmul(z, z.T, precision="highest")
    # of the largest eigenvalue at most the largest sum of a row
    rate = ratio(jnp.ones((), z.dtype), jnp.max(jnp.sum(jnp.abs(gram), axis=1)))

    def bounds(p):
        v = p @ z
        length = jnp.linalg.norm(v)
        return ratio(jnp.min(z @ v), length), length

    def body(carry):
        p, ahead, t, _, i = carry
        new = optax.projections.projection_simplex(ahead - rate * (gram @ ahead))
        # momentum that points uphill starts again
        t = jnp.where((ahead - new) @ (new - p) > 0, 1.0, t).astype(p.dtype)
        t_new = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        low, high = bounds(new)
        return new, new + (t - 1) / t_new * (new - p), t_new, high - low > tolerance * high, i + 1

    p = jnp.full(len(z), 1 / len(z), z.dtype)
    carry = (p, p, jnp.ones((), z.dtype), jnp.array(True), 0)
    p, *_ = jax.lax.while_loop(lambda c: c[3] & (c[4] < iters), body, carry)
    v = p @ z
    low, high = bounds(p)
    return Margin(low, jnp.sqrt(jnp.max(jnp.sum(z**2, axis=1))), ratio(v, high))


def scale_by_mean_residual() -> optax.GradientTransformationExtraArgs:
    r"""Divides the gradient of a logistic loss by the mean residual, :math:`\frac1n \sum_i 1/(1 + e^{m_i})` over margins m.

    With ``optax.sgd`` behind it, that is :func:`normalized_logistic_gd_step` for any model whose loss is the mean
    logistic loss of margins :math:`m_i`. The update wants ``mean_residual=`` of the batch that the gradient is of. Where
    that underflows, at margins of 88 in single precision, so did the gradient, and the update is zero.

    Returns:
      A transformation without state.

    Raises:
      ValueError: from its update: no ``mean_residual``, or an array of them.

    Source: Tyurin (2025), arXiv 2412.08424.

    >>> tx = optax.chain(scale_by_mean_residual(), optax.sgd(4.0))
    >>> g = jnp.array([-0.25, 0.25])
    >>> tx.update(g, tx.init(g), mean_residual=0.5)[0].tolist()
    [2.0, -2.0]
    """

    def update(updates, state, params=None, *, mean_residual=None, **extra_args):
        del params, extra_args
        if mean_residual is None:
            raise ValueError(
                "scale_by_mean_residual needs the mean of 1 / (1 + exp(margin)): call "
                "tx.update(grads, state, params, mean_residual=…)"
            )
        residual = jnp.asarray(mean_residual, jnp.result_type(float))
        if residual.shape:
            raise ValueError(
                f"scale_by_mean_residual: mean_residual is one number, got an array of shape {residual.shape}"
            )
        return scaled(ratio(jnp.ones_like(residual), residual), updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
