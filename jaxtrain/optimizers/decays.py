"""Weight decay in proportion to adaptive steps, and decay towards units of length 1."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, OptState, check_decays, check_finite_number
from jaxtrain.optimizers.gradient_transforms import unit_norm


class StableDecayState(NamedTuple):
    """State of :func:`add_stable_weight_decay`: the average squared gradient, over all entries and over time."""

    count: Int[Array, ""]
    mean_square: Float[Array, ""]
    inner_state: OptState


def add_stable_weight_decay(
    inner: optax.GradientTransformation, weight_decay: Number = 1e-4, b2: Number = 0.999
) -> optax.GradientTransformationExtraArgs:
    r"""Weight decay in proportion to the steps that an adaptive method takes.

    .. math:: u \leftarrow u + \frac{\lambda}{\sqrt{\bar v_t}}\,\theta, \qquad
       \bar v_t = \frac{1 - \beta_2}{1 - \beta_2^t} \sum_{i \le t} \beta_2^{t-i} \operatorname{mean}(g_i^2),

    the mean over all entries of all arrays: that of the second moments of Adam, for which one number is enough.
    ``inner`` turns gradients into :math:`u` and comes before the learning rate. While all gradients were zero nothing
    decays.

    Args:
      inner: any transformation.
      weight_decay: :math:`\lambda` ≥ 0.
      b2: decay of the average, in [0, 1).

    Returns:
      A transformation with :class:`StableDecayState`, whose update needs ``params``; extra arguments are handed on.

    Raises:
      ValueError: a number out of range; from its update: without ``params``.

    Source: Xie, Sato, Sugiyama (2020), arXiv 2011.11152.

    >>> tx = add_stable_weight_decay(optax.identity(), weight_decay=0.5)
    >>> w = jnp.array([4.0, 4.0])
    >>> print(tx.update(jnp.array([2.0, -2.0]), tx.init(w), w)[0].round())  # ± 2 + 0.5 / 2 · 4
    [ 3. -1.]
    """
    check_finite_number("weight_decay", weight_decay, low=0.0)
    check_decays(b2=b2)
    inner = optax.with_extra_args_support(inner)

    def init(params):
        return StableDecayState(jnp.zeros((), jnp.int32), jnp.zeros(()), inner.init(params))

    def update(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError("add_stable_weight_decay needs the parameters: call tx.update(updates, state, params)")
        count = optax.safe_increment(state.count)
        leaves = jax.tree.leaves(updates)
        square = sum((jnp.sum(g.astype(jnp.promote_types(g.dtype, jnp.float32)) ** 2) for g in leaves), jnp.zeros(()))
        mean = square / max(1, sum(g.size for g in leaves))
        kept = (b2 * state.mean_square + (1 - b2) * mean).astype(state.mean_square.dtype)
        root = jnp.sqrt(kept / (1 - b2**count))
        shrink = jnp.where(root == 0, 0.0, weight_decay / jnp.where(root == 0, 1.0, root))
        found, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        found = jax.tree.map(lambda u, p: (u + shrink * p).astype(u.dtype), found, params)
        return found, StableDecayState(count, kept, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def add_norm_loss_decay(
    factor: Number = 1e-4, eps: Number = 1e-8, *, channel_axis: int = -1
) -> optax.GradientTransformation:
    r"""Pulls the length of every unit of weights to 1.

    .. math:: u_r \leftarrow u_r + 2 f \Big(1 - \frac{1}{\|w_r\| + \epsilon}\Big) w_r,

    the gradient of :math:`f (1 - \|w_r\|)^2`, units as in :func:`adaptive_gradient_clip`. Comes before the learning rate.

    Args:
      factor: :math:`f` ≥ 0.
      eps: ε > 0.
      channel_axis: the last axis in JAX's layouts, 0 in PyTorch's.

    Returns:
      A transformation without state, whose update needs ``params``.

    Raises:
      ValueError: a number out of range; from its update: without ``params``.

    Source: Georgiou, Schmitt, Bäck, Chen, Lew (2021), arXiv 2103.06583.

    >>> tx = add_norm_loss_decay(0.5)
    >>> w = jnp.array([[3.0, 0.0], [4.0, 1.0]])
    >>> print((10 * tx.update(jnp.zeros((2, 2)), tx.init(w), w)[0]).round())  # columns of lengths 5 and 1
    [[24.  0.]
     [32.  0.]]
    """
    check_finite_number("factor", factor, low=0.0)
    check_finite_number("eps", eps, low=float(np.finfo(np.float32).tiny))

    def one(u, w):
        return (u + 2 * factor * (1 - 1 / (unit_norm(w, channel_axis) + eps)) * w).astype(u.dtype)

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("add_norm_loss_decay needs the parameters: call tx.update(updates, state, params)")
        return jax.tree.map(one, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
