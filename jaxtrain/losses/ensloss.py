"""EnsLoss: a new calibrated convex loss for every batch, given by its derivatives alone."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxtrain.core import Key, Number, check_finite_number, check_key
from jaxtrain.losses._logits import widened

_TAILS = ("inverse", "none")


def inverse_box_cox(z: Float[Array, "*shape"], *, lam: Number) -> Float[Array, "*shape"]:
    r"""Normal numbers turned into positive ones: :math:`\max(1 + \lambda z, 0)^{1/\lambda}`, and :math:`e^z` at 0.

    Where the base is 0 the result is 0 for :math:`\lambda > 0` and infinite for :math:`\lambda < 0`.

    Args:
      z: any shape.
      lam: :math:`\lambda`; may be traced.

    Returns:
      Shaped like ``z``, ≥ 0.

    Raises:
      ValueError: lam is not finite.

    Source: Dai (2024), arXiv 2409.00908.

    >>> inverse_box_cox(jnp.array([-2.0, 0.0, 2.0]), lam=1.0).tolist()
    [0.0, 1.0, 3.0]
    """
    check_finite_number("lam", lam)
    x = widened(z)
    lam = jnp.asarray(lam, x.dtype)
    near = jnp.abs(lam) < 1e-8  # there the two differ by lam z² / 2, less than rounding of single precision
    safe = jnp.where(near, 1, lam)
    # log1p keeps the digits of a small product; its -inf becomes 0 or inf by the sign of lam
    power = jnp.exp(jnp.log1p(jnp.maximum(safe * x, -1)) / safe)
    return jnp.where(near, jnp.exp(x), power).astype(z.dtype)


def sample_calibrated_derivatives(
    key: Key, margins: Float[Array, "..."], *, lam: Number = 0.0, tail: str = "inverse", eps: Number = 1e-6
) -> Float[Array, " batch"]:
    r"""Derivatives at the margins of a batch of a random loss that is convex and calibrated.

    A convex loss of the margin is calibrated for classification if and only if its derivative at 0 is negative. So
    any negative numbers do that do not fall as the margin grows: with :math:`z_j \sim N(0, 1)`, ordered so that the
    smallest margin has the lowest,

    .. math:: g_{(j)} = -\min(\mathrm{BC}^{-1}_\lambda(z), 1)_{(j)}, \qquad
       g \leftarrow \begin{cases} g / s & s > 1 \\ g & s \le 1 \end{cases} \; - \varepsilon .

    The tail makes the loss flatten above a margin of 1. An example's derivative depends on the batch it is in.

    Args:
      key: a fresh one for every batch.
      margins: ``(batch,)``, :math:`s = y f(x)` with :math:`y = \pm 1`.
      lam: of :func:`inverse_box_cox`; the authors leave it at 0 or draw it now and then from [-1, 1]. May be traced.
      tail: ``"inverse"``, or ``"none"`` to leave out the division.
      eps: :math:`\varepsilon` > 0, which keeps all derivatives negative; may be traced.

    Returns:
      ``(batch,)`` in :math:`[-1 - \varepsilon, 0)`, without gradient, in float32 at least. A margin of NaN counts as
      the largest.

    Raises:
      ValueError: margins that are no vector, an unknown tail, a number out of range.
      TypeError: a key that is none.

    Source: Dai (2024), arXiv 2409.00908.

    >>> g = sample_calibrated_derivatives(jax.random.key(0), jnp.array([0.5, -1.0, 3.0]))
    >>> bool(g[1] <= g[0] <= g[2] < 0)
    True
    """
    check_key(key, where="sample_calibrated_derivatives")
    check_finite_number("eps", eps, low=1e-30)
    if tail not in _TAILS:
        raise ValueError(f"tail must be one of {_TAILS}, got {tail!r}")
    if margins.ndim != 1:
        raise ValueError(f"sample_calibrated_derivatives: margins must be (batch,), got shape {margins.shape}")
    s = jax.lax.stop_gradient(widened(margins))
    r = inverse_box_cox(jax.random.normal(key, s.shape, s.dtype), lam=lam)
    g = jnp.zeros_like(s).at[jnp.argsort(s)].set(jnp.sort(-jnp.minimum(r, 1)))
    if tail == "inverse":
        g = jnp.where(s > 1, g / jnp.where(s > 1, s, 1), g)
    return g - jnp.asarray(eps, s.dtype)


def is_calibrated_derivative(margins: Float[Array, "..."], g: Float[Array, "..."]) -> Bool[Array, ""]:
    r"""Whether some convex, calibrated loss has these derivatives at these margins.

    They must not fall as the margin grows (of equal margins, a kink may give different ones) and be negative at
    margins up to 0.

    Args:
      margins: ``(batch,)``.
      g: ``(batch,)`` derivatives.

    Returns:
      One truth value.

    Raises:
      ValueError: shapes that disagree.

    Source: Dai (2024), arXiv 2409.00908; Bartlett, Jordan, McAuliffe (2006).

    >>> s = jnp.array([-1.0, 0.5, 2.0])
    >>> bool(is_calibrated_derivative(s, -jnp.exp(-s))), bool(is_calibrated_derivative(s, s))
    (True, True)
    >>> bool(is_calibrated_derivative(s, -s))
    False
    """
    if margins.ndim != 1 or g.shape != margins.shape:
        raise ValueError(
            f"is_calibrated_derivative: margins {margins.shape} and g {g.shape} must be vectors of one size"
        )
    ordered = g[jnp.lexsort((g, margins))]
    return jnp.all(ordered[1:] >= ordered[:-1]) & jnp.all((margins > 0) | (g < 0))


def ensloss(
    key: Key, logits: Float[Array, "..."], labels: Int[Array, "..."], *, lam: Number = 0.0
) -> Float[Array, " batch"]:
    r"""Values whose gradient is that of a random calibrated loss, drawn anew for every batch.

    .. math:: \ell_j = g_j\, y_j f_j, \qquad \frac{\partial \ell_j}{\partial f_j} = y_j g_j,

    with :math:`g` from :func:`sample_calibrated_derivatives` as constants. The losses of a batch belong together: take
    their mean. Their values mean nothing; watch the error instead.

    Args:
      key: a fresh one for every batch.
      logits: ``(batch,)``, one number for each example.
      labels: ``(batch,)`` of 0 and 1, for :math:`y = -1` and :math:`1`.
      lam: of :func:`inverse_box_cox`; may be traced.

    Returns:
      ``(batch,)``, in the dtype of the logits.

    Raises:
      ValueError: shapes that disagree, labels other than 0 and 1, lam not finite.
      TypeError: a key that is none.

    Source: Dai (2024), arXiv 2409.00908.

    >>> logits, labels = jnp.array([1.0, 2.0]), jnp.array([1, 0])
    >>> grad = jax.grad(lambda f: ensloss(jax.random.key(0), f, labels).sum())(logits)
    >>> bool(grad[0] < 0 < grad[1])
    True
    """
    if logits.ndim != 1 or labels.shape != logits.shape:
        raise ValueError(f"ensloss: logits {logits.shape} and labels {labels.shape} must be vectors of one size")
    check_finite_number("labels", labels, low=0, high=1)
    s = jnp.where(labels == 1, 1.0, -1.0) * widened(logits)
    return (sample_calibrated_derivatives(key, s, lam=lam) * s).astype(logits.dtype)
