"""AdamP and SGDP: momentum without the part that only makes scale-invariant weights longer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, Params, Scalar, check_decays, check_finite_number
from jaxtrain.core.numerics import accumulator_dtype, zeros_accumulator
from jaxtrain.core.tree import safe_norm
from jaxtrain.optimizers._fused import map_leaves

Projection = Callable[[Array, Array, Array], tuple[Array, Scalar]]


class AdamPState(NamedTuple):
    """State of :func:`adamp`'s moments: Adam's, in float32 at least."""

    count: Int[Array, ""]
    mu: Params
    nu: Params


class SGDPState(NamedTuple):
    """State of :func:`sgdp`'s momentum, in float32 at least."""

    trace: Params


def project_scale_invariant(
    delta: Number = 0.1, wd_ratio: Number = 0.1, eps: Number = 1e-8, *, channel_axis: int = -1
) -> Projection:
    r"""Takes the radial part out of an update, where the gradient says that the weights are scale-invariant.

    A weight array :math:`w` with a gradient :math:`g` is looked at as rows :math:`r`: first one for each output channel,
    then all of it as one. Where, with rows of :math:`D` entries,

    .. math:: \max_r \frac{|\langle g_r, w_r\rangle|}{\|g_r\|\,\|w_r\|} < \frac{\delta}{\sqrt D},

    the update :math:`p` loses its part along each row, :math:`p_r \leftarrow p_r - \hat w_r \langle\hat w_r, p_r\rangle`
    with :math:`\hat w_r = w_r / (\|w_r\| + \epsilon)`. The first of the two that says so is taken. Vectors and scalars are
    left alone.

    Args:
      delta: δ ≥ 0; 0: never.
      wd_ratio: the factor on weight decay where something is projected, in [0, 1]; elsewhere it is 1.
      eps: ε > 0.
      channel_axis: the axis of output channels: the last one in JAX's layouts (Dense: in, out; HWIO), 0 in PyTorch's.

    Returns:
      ``(param, grad, update) -> (update, factor)`` for one array.

    Raises:
      ValueError: a number out of range.

    Source: Heo, Chun, Oh, Han, Yun, Kim, Uh, Ha (2021), arXiv 2006.08217.

    >>> w, g = jnp.array([[1.0], [0.0]]), jnp.array([[0.0], [2.0]])  # one channel, at a right angle to its gradient
    >>> update, factor = project_scale_invariant()(w, g, jnp.array([[5.0], [1.0]]))
    >>> print(update.T, factor)
    [[0. 1.]] 0.1
    """
    check_finite_number("delta", delta, low=0.0)
    check_finite_number("wd_ratio", wd_ratio, low=0.0, high=1.0)
    look = _radial_part(delta, wd_ratio, eps, channel_axis)

    def project(param, grad, update):
        along, factor = look(param, grad, update)
        return (update - param.astype(update.dtype) * along).astype(update.dtype), factor

    return project


def _radial_part(delta: Number, wd_ratio: Number, eps: Number, channel_axis: int) -> Projection:
    """What multiple of each row's weights is to be taken out of an update, and the factor on weight decay."""
    check_finite_number("eps", eps, low=float(np.nextafter(0, 1)))

    def find(param, grad, update):
        if param.ndim < 2:
            return jnp.zeros((), update.dtype), jnp.ones((), update.dtype)
        w, g = param.astype(update.dtype), grad.astype(update.dtype)
        others = tuple(a for a in range(w.ndim) if a != channel_axis % w.ndim)
        rows = [jnp.sum(x, axis=others, keepdims=True) for x in (g * w, g * g, w * w, w * update)]
        # the sums of the whole are those of its rows; the compiler would go over all entries once more
        rows = jax.lax.optimization_barrier(rows)
        whole = [jnp.sum(x) for x in rows]

        def look(sums, size):
            gw, gg, ww, wp = sums
            cosine = jnp.abs(gw) / (jnp.maximum(jnp.sqrt(gg), eps) * jnp.maximum(jnp.sqrt(ww), eps))
            fires = jnp.max(cosine, initial=0) < delta / np.sqrt(max(size, 1))
            return fires, wp / (jnp.sqrt(ww) + eps) ** 2

        by_channel, of_rows = look(rows, w.size // max(w.shape[channel_axis], 1))
        by_layer, of_whole = look(whole, w.size)
        along = jnp.where(by_channel, of_rows, jnp.where(by_layer, of_whole, 0))
        factor = jnp.where(by_channel | by_layer, wd_ratio, 1.0)
        return along, factor.astype(update.dtype)

    return find


def scale_by_projection(
    inner: optax.GradientTransformation,
    weight_decay: Number = 0.0,
    *,
    mask: Any = None,
    delta: Number = 0.1,
    wd_ratio: Number = 0.1,
    eps: Number = 1e-8,
    channel_axis: int = -1,
) -> optax.GradientTransformationExtraArgs:
    r"""Projects the updates of any transformation, see :func:`project_scale_invariant`, and adds weight decay.

    .. math:: u \leftarrow \Pi(u) + c\,\lambda\,\theta

    with the factor :math:`c` of the projection, 1 where nothing is projected. ``inner`` comes before the learning rate.

    Args:
      inner: any transformation.
      weight_decay: :math:`\lambda`.
      mask: which parameters decay: a tree of booleans, or a function from the parameters to one; None: all.
      delta, wd_ratio, eps, channel_axis: see :func:`project_scale_invariant`.

    Returns:
      A transformation with the state of ``inner``, whose update needs ``params``; extra arguments are handed on.

    Raises:
      ValueError: a number out of range; from its update: without ``params``.

    Source: Heo, Chun, Oh, Han, Yun, Kim, Uh, Ha (2021), arXiv 2006.08217.

    >>> tx = scale_by_projection(optax.trace(0.9))
    >>> w, g = jnp.array([[1.0], [0.0]]), jnp.array([[0.0], [2.0]])
    >>> print(tx.update(g, tx.init(w), w)[0].T)  # a gradient at a right angle is its own projection
    [[0. 2.]]
    """
    inner = optax.with_extra_args_support(inner)

    def advance(updates, state, params, **extra_args):
        found, state = inner.update(updates, state, params, **extra_args)
        return (found,), (), state

    def direction(g, u):
        del g
        return u.astype(accumulator_dtype(u))

    options = {"delta": delta, "wd_ratio": wd_ratio, "eps": eps, "channel_axis": channel_axis}
    return _projected(inner.init, advance, direction, weight_decay, mask, **options)


def _projected(init, advance, direction, weight_decay, mask, *, delta, wd_ratio, eps, channel_axis):
    """Projects ``direction(gradient, *leaves, *numbers)``, where ``advance`` gives trees of leaves, numbers and the state.

    What it computes is computed again after the sums over rows, and not stored between.
    """
    check_finite_number("weight_decay", weight_decay, low=0.0)
    check_finite_number("delta", delta, low=0.0)
    check_finite_number("wd_ratio", wd_ratio, low=0.0, high=1.0)
    look = _radial_part(delta, wd_ratio, eps, channel_axis)

    def update(updates, state, params=None, **extra_args):
        if params is None:
            raise ValueError("the projection looks at the parameters: call tx.update(updates, state, params)")
        trees, numbers, state = advance(updates, state, params, **extra_args)
        chosen = mask(params) if callable(mask) else mask
        decays = jax.tree.map(lambda p: True, params) if chosen is None else jax.tree.broadcast(chosen, params)

        def step(g, p, decay, *leaves):
            # of its own: the square of the gradient is part of some moments
            apart = jax.lax.optimization_barrier(g)
            along, factor = look(p, apart, direction(g, *leaves, *numbers))
            u = direction(*jax.lax.optimization_barrier((g, *leaves, *numbers)))
            u = u - p.astype(u.dtype) * along
            return ((u + factor * weight_decay * p if decay else u).astype(g.dtype),)

        return map_leaves(step, 1, updates, params, decays, *trees)[0], state

    return optax.GradientTransformationExtraArgs(init, update)


def _adam(b1, b2, eps, nesterov):
    """Adam's moments and direction; Nesterov's form is the authors', which is not optax's."""

    def init(params):
        return AdamPState(jnp.zeros((), jnp.int32), zeros_accumulator(params), zeros_accumulator(params))

    def advance(updates, state, params, **extra_args):
        del params, extra_args
        count = optax.safe_increment(state.count)

        def step(g, m, v):
            g32 = g.astype(m.dtype)
            return (b1 * m + (1 - b1) * g32).astype(m.dtype), (b2 * v + (1 - b2) * g32**2).astype(v.dtype)

        mu, nu = map_leaves(step, 2, updates, state.mu, state.nu)
        numbers = (1 - b1**count, jnp.sqrt(1 - b2**count), jnp.asarray(b1), jnp.asarray(eps))
        return (mu, nu), numbers, AdamPState(count, mu, nu)

    def direction(g, m, v, first, second, b1, eps):
        ahead = b1 * m + (1 - b1) * g.astype(m.dtype) if nesterov else m
        return (ahead / first / (jnp.sqrt(v) / second + eps)).astype(m.dtype)

    return init, advance, direction


def _momentum(momentum, dampening, nesterov):
    def update(updates, state, params=None):
        del params

        def step(g, m):
            g32 = g.astype(m.dtype)
            m = (momentum * m + (1 - dampening) * g32).astype(m.dtype)
            return (g32 + momentum * m).astype(m.dtype) if nesterov else m, m

        updates, trace = map_leaves(step, 2, updates, state.trace)
        return updates, SGDPState(trace)

    return optax.GradientTransformation(lambda params: SGDPState(zeros_accumulator(params)), update)


def adamp(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    *,
    mask: Any = None,
    delta: Number = 0.1,
    wd_ratio: Number = 0.1,
    nesterov: bool = False,
    channel_axis: int = -1,
) -> optax.GradientTransformationExtraArgs:
    r"""AdamP: Adam's direction :math:`u`, projected: :math:`\theta \leftarrow \theta - \eta\,(\Pi(u) + c\,\lambda\,\theta)`.

    :math:`u = \hat m / (\sqrt{\hat v} + \epsilon)`, with ``nesterov``
    :math:`\beta_1 \hat m + (1 - \beta_1) g / (1 - \beta_1^t)` in place of :math:`\hat m`. See
    :func:`project_scale_invariant` for Π and :math:`c`. On vectors and scalars, and with ``delta=0``, this is
    ``optax.adamw``. A gradient that is not a number spoils its entry for good, and its array is projected no more.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule.
      b1, b2: decays of the two moments, in [0, 1).
      eps: added to the root of the corrected second moment and to lengths, > 0.
      weight_decay: :math:`\lambda`, decoupled.
      mask, delta, wd_ratio, channel_axis: see :func:`scale_by_projection`.
      nesterov: see above.

    Returns:
      A transformation with :class:`AdamPState`, whose update needs ``params``.

    Raises:
      ValueError: a number out of range; from its update: without ``params``.

    Source: Heo, Chun, Oh, Han, Yun, Kim, Uh, Ha (2021), arXiv 2006.08217.

    >>> tx = adamp(learning_rate=0.1)
    >>> w, g = jnp.array([[3.0], [4.0]]), jnp.array([[4.0], [-3.0]])  # a right angle
    >>> print((1000 * tx.update(g, tx.init(w), w)[0].T).round())  # Adam's [-100, 100] without its radial part
    [[-112.   84.]]
    """
    check_decays(b1=b1, b2=b2)
    options = {"mask": mask, "delta": delta, "wd_ratio": wd_ratio, "eps": eps, "channel_axis": channel_axis}
    return optax.chain(
        _projected(*_adam(b1, b2, eps, nesterov), weight_decay, **options),
        optax.scale_by_learning_rate(learning_rate),
    )


def sgdp(
    learning_rate: optax.ScalarOrSchedule,
    momentum: Number = 0.9,
    dampening: Number = 0.0,
    weight_decay: Number = 0.0,
    *,
    mask: Any = None,
    delta: Number = 0.1,
    wd_ratio: Number = 0.1,
    nesterov: bool = False,
    eps: Number = 1e-8,
    channel_axis: int = -1,
) -> optax.GradientTransformationExtraArgs:
    r"""SGDP: momentum, projected: :math:`\theta \leftarrow \theta - \eta\,\Big(\Pi(d) + \frac{c\,\lambda}{1 - \mu}\theta\Big)`.

    :math:`b \leftarrow \mu b + (1 - \tau) g` and :math:`d = b`, with ``nesterov`` :math:`d = g + \mu b`. See
    :func:`project_scale_invariant` for Π and :math:`c`. What is kept is :math:`b` itself, as the paper has it; the
    released code without ``nesterov`` keeps its projection.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule.
      momentum: :math:`\mu`, in [0, 1).
      dampening: :math:`\tau`, in [0, 1].
      weight_decay: :math:`\lambda`, decoupled; divided by :math:`1 - \mu`, since momentum multiplies the gradients so.
      mask, delta, wd_ratio, eps, channel_axis: see :func:`scale_by_projection`.
      nesterov: see above.

    Returns:
      A transformation with :class:`SGDPState`, whose update needs ``params``.

    Raises:
      ValueError: a number out of range; from its update: without ``params``.

    Source: Heo, Chun, Oh, Han, Yun, Kim, Uh, Ha (2021), arXiv 2006.08217.

    >>> tx = sgdp(learning_rate=0.5)
    >>> w, g = jnp.array([[1.0], [0.0]]), jnp.array([[0.0], [2.0]])
    >>> print(tx.update(g, tx.init(w), w)[0].T)
    [[-0. -1.]]
    """
    check_decays(momentum=momentum)
    check_finite_number("dampening", dampening, low=0.0, high=1.0)
    check_finite_number("weight_decay", weight_decay, low=0.0)
    options = {"mask": mask, "delta": delta, "wd_ratio": wd_ratio, "eps": eps, "channel_axis": channel_axis}
    return optax.chain(
        scale_by_projection(_momentum(momentum, dampening, nesterov), weight_decay / (1 - momentum), **options),
        optax.scale_by_learning_rate(learning_rate),
    )


def effective_step_size(update: Float[Array, "..."], param: Float[Array, "..."]) -> Scalar:
    r"""How far an update turns scale-invariant weights, per unit of the gradient at length 1.

    .. math:: \frac{\|\Delta w\|}{\|w\|^2}

    The gradient of a loss that does not see the length of :math:`w` is :math:`1/\|w\|` times that at length 1, and a step
    of a given length turns the weights by :math:`1/\|w\|` of it.

    Args:
      update: :math:`\Delta w`.
      param: :math:`w`.

    Returns:
      A number; infinite or NaN for weights of zero.

    Source: Heo, Chun, Oh, Han, Yun, Kim, Uh, Ha (2021), arXiv 2006.08217.

    >>> print(effective_step_size(jnp.array([0.3, 0.4]), jnp.array([0.0, 5.0])))
    0.02
    """
    return safe_norm(update) / safe_norm(param) ** 2
