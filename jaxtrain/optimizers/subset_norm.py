"""Subset norm: Adam with one second moment for many entries."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxtrain.core import Number, Params, check_decays, check_finite_number
from jaxtrain.core.numerics import accumulator_dtype, static_int, zeros_accumulator
from jaxtrain.optimizers._decay import decay_after_step
from jaxtrain.optimizers._fused import map_leaves


def closest_smaller_divisor(n: int, k: int) -> int:
    """The largest divisor of ``n`` that is not above ``k``.

    Args:
      n: ≥ 1.
      k: ≥ 1.

    Raises:
      ValueError: a number below 1.

    >>> closest_smaller_divisor(35, 6), closest_smaller_divisor(12, 100)
    (5, 12)
    """
    n, k = static_int("n", n, low=1), static_int("k", k, low=1)
    return next(i for i in range(min(n, k), 0, -1) if n % i == 0)


class Subsets:
    """How the entries of one leaf are divided: squares are summed within a subset, and its number is shared."""

    def __init__(self, shape: tuple[int, ...], subset: str | int):
        self.shape = shape
        self.whole = shape
        size = math.prod(shape)
        if len(shape) < 2 or size == 0:
            self.axes: tuple[int, ...] = ()
        elif subset == "rows":
            longest = max(range(len(shape)), key=lambda a: shape[a])
            self.axes = tuple(a for a in range(len(shape)) if a != longest)
        else:
            k = closest_smaller_divisor(size, math.isqrt(size) if subset == "sqrt" else int(subset))
            self.whole, self.axes = (size // k, k), (1,)

    def squares(self, g: Array) -> Array:
        return jnp.sum(jnp.square(g.reshape(self.whole)), axis=self.axes, keepdims=True)

    def divide(self, x: Array, denominator: Array) -> Array:
        return (x.reshape(self.whole) / denominator).reshape(self.shape)


def check_subset(subset: str | int) -> None:
    """Raises unless it is one of the names or a size."""
    if isinstance(subset, str):
        if subset not in ("rows", "sqrt"):
            raise ValueError(f"subset must be 'rows', 'sqrt' or a size ≥ 1, got {subset!r}")
    else:
        static_int("subset", subset, low=1)


def accumulate(nu: Array, squares: Array, b2: Number) -> Array:
    """A decaying mean, or AdaGrad's sum for b2 = 1."""
    return (b2 * nu + jnp.where(jnp.asarray(b2) == 1, 1, 1 - b2) * squares).astype(nu.dtype)


def bias(count: Array, b1: Number, b2: Number) -> Array:
    """√(1 - b2^t) / (1 - b1^t); a sum (b2 = 1) has no bias."""
    b2 = jnp.asarray(b2)
    second = jnp.where(b2 == 1, 1.0, jnp.sqrt(1 - b2**count))
    return second / (1 - b1**count)


class SubsetNormState(NamedTuple):
    """State of :func:`scale_by_subset_norm`, in float32 at least. ``nu`` has one number for each subset."""

    count: Int[Array, ""]
    mu: Params
    nu: Params


def scale_by_subset_norm(
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-6,
    *,
    subset: str | int = "rows",
    bias_correction: bool = True,
) -> optax.GradientTransformation:
    r"""Adam whose second moment is one number for each subset of entries (Adam-SN).

    With subsets :math:`\Psi_i` of a leaf's entries:

    .. math:: v_i \leftarrow \beta_2 v_i + (1 - \beta_2) \sum_{j \in \Psi_i} g_j^2, \quad
       m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
       u_j = \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\,\frac{m_j}{\sqrt{v_i} + \epsilon} .

    :math:`\beta_2 = 1` adds up instead, as AdaGrad does. Squares are summed, not averaged: good rates are larger than
    Adam's by about the root of a subset's size. Leaves with fewer than two axes are updated by plain Adam.

    Args:
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1].
      eps: added to the root of the (not bias-corrected) second moment, ≥ 0.
      subset: ``"rows"``: one subset for each index of the longest axis; ``"sqrt"``: runs of entries in memory order, as
        long as the root of their number; an integer: runs of that length. A length that does not divide the number of
        entries is made smaller until it does.
      bias_correction: whether the fraction in front is there.

    Returns:
      A transformation with :class:`SubsetNormState`: Adam's first moment, and of an m × n matrix max(m, n) or √(mn)
      numbers instead of its second.

    Raises:
      ValueError: a number out of range, or an unknown subset.

    Source: Nguyen, Nguyen (2024), arXiv 2411.07120.

    >>> tx = scale_by_subset_norm(b1=0.0, b2=0.0, eps=0.0)
    >>> G = jnp.array([[3.0, 4.0], [0.0, 2.0]])
    >>> updates, state = tx.update(G, tx.init(G))
    >>> (10 * updates).round().tolist(), state.nu.shape
    ([[6.0, 8.0], [0.0, 10.0]], (2, 1))
    """
    check_decays(b1=b1)
    check_finite_number("b2", b2, low=0.0, high=1.0)
    check_finite_number("eps", eps, low=0.0)
    check_subset(subset)

    def init(params):
        nu = jax.tree.map(lambda p: jnp.zeros_like(Subsets(p.shape, subset).squares(p), accumulator_dtype(p)), params)
        return SubsetNormState(jnp.zeros((), jnp.int32), zeros_accumulator(params), nu)

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        scale = bias(count, b1, b2) if bias_correction else 1.0

        def step(g, mu, nu):
            subsets, g32 = Subsets(g.shape, subset), g.astype(mu.dtype)
            mu = (b1 * mu + (1 - b1) * g32).astype(mu.dtype)
            nu = accumulate(nu, subsets.squares(g32), b2)
            return (scale * subsets.divide(mu, jnp.sqrt(nu) + eps)).astype(g.dtype), mu, nu

        updates, mu, nu = map_leaves(step, 3, updates, state.mu, state.nu)
        return updates, SubsetNormState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def adam_sn(
    learning_rate: optax.ScalarOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-6,
    weight_decay: Number = 0.0,
    *,
    subset: str | int = "rows",
    bias_correction: bool = True,
) -> optax.GradientTransformation:
    r"""Adam with a subset norm, and weight decay after the step: :math:`\theta \leftarrow (1 - \eta\lambda)(\theta - \eta u)`.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule; about ten times Adam's.
      b1, b2, eps, subset, bias_correction: see :func:`scale_by_subset_norm`, which gives :math:`u`.
      weight_decay: :math:`\lambda` ≥ 0.

    Returns:
      A transformation whose update needs ``params``.

    Raises:
      ValueError: a number out of range, or an unknown subset; from its update: without ``params``.

    Source: Nguyen, Nguyen (2024), arXiv 2411.07120.

    >>> w = jnp.ones((2, 2))
    >>> tx = adam_sn(0.1, b2=0.0, eps=0.0, weight_decay=0.5)
    >>> updates, _ = tx.update(w, tx.init(w), w)  # to (1 - 0.05) (1 - 0.1 / √2)
    >>> round(float(1 + updates[0, 0]), 5)
    0.88282
    """
    check_finite_number("weight_decay", weight_decay, low=0.0)
    return optax.chain(
        scale_by_subset_norm(b1, b2, eps, subset=subset, bias_correction=bias_correction),
        optax.scale_by_learning_rate(learning_rate),
        decay_after_step("adam_sn", learning_rate, weight_decay),
    )
