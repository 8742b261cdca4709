"""MARS: variance reduction, scaled, before AdamW, Lion or an orthogonalised step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxtrain.core import Number, Params, check_decays, check_finite_number
from jaxtrain.core.numerics import accumulator_dtype, in_place_of, zeros_accumulator
from jaxtrain.core.tree import safe_norm
from jaxtrain.optimizers._arguments import leaves_like
from jaxtrain.optimizers._fused import map_leaves
from jaxtrain.optimizers.norms import newton_schulz_orthogonalize

BASES = ("adamw", "lion", "shampoo")


class MarsState(NamedTuple):
    """State of :func:`scale_by_mars`, moments in float32 at least.

    ``nu`` is None where no second moment is needed. ``previous`` is the last gradient, or with ``exact`` a copy of the last
    parameters.
    """

    count: Int[Array, ""]
    mu: Params
    nu: Params
    previous: Params


def _at_previous_point(updates, state, prev_point_grads, grad_fn, params):
    """The gradient of this batch at the last parameters, leaf by leaf of the updates; zero at the first step."""
    if prev_point_grads is None:
        if grad_fn is None:
            raise ValueError(
                "mars with exact=True needs the gradient of this batch at the parameters before the last update: call "
                "tx.update(grads, state, params, prev_point_grads=…), or with grad_fn= (params -> gradients, on the same "
                "batch), which make_step gives"
            )
        first = state.count == 0
        return jax.tree.map(lambda h: jnp.where(first, 0, h), grad_fn(state.previous))
    return leaves_like("mars: prev_point_grads", updates, prev_point_grads)


def _adam(m, v, b1, b2, eps, count):
    return m / (1 - b1**count) / (jnp.sqrt(v / (1 - b2**count)) + eps)


def scale_by_mars(
    b1: Number = 0.95,
    b2: Number = 0.99,
    eps: Number = 1e-8,
    gamma: Number = 0.025,
    clip_norm: Number = 1.0,
    base: str = "adamw",
    exact: bool = False,
    *,
    global_clip: bool = False,
    channel_axis: int = -1,
) -> optax.GradientTransformationExtraArgs:
    r"""Corrects every gradient by how it changed since the last point, and hands it to the rule ``base``.

    With :math:`h_t` the gradient at the parameters before the last update, on this batch (``exact``) or approximately the
    last gradient, 0 at the first step as in the released code,

    .. math::
       c_t = g_t + \gamma \frac{\beta_1}{1 - \beta_1} (g_t - h_t), \qquad
       \tilde c_t = c_t \min\!\Big(1, \frac{C}{\|c_t\|_2}\Big), \qquad m_t = \beta_1 m_{t-1} + (1 - \beta_1)\,\tilde c_t,

    and :math:`u_t` is for ``"adamw"`` :math:`\hat m_t / (\sqrt{\hat v_t} + \epsilon)` with
    :math:`v_t = \beta_2 v_{t-1} + (1 - \beta_2)\,\tilde c_t^2`, for ``"lion"`` :math:`\operatorname{sign} m_t`, for
    ``"shampoo"`` on matrices :func:`~jaxtrain.optimizers.newton_schulz_orthogonalize` of :math:`m_t / (1 - \beta_1)` times
    :math:`\sqrt{\max(1, n_{out}/n_{in})}` and elsewhere as ``"adamw"``.

    :math:`\gamma = 0` without clipping is the base itself; :math:`\gamma = 1` and ``exact`` make :math:`m_t` that of STORM.
    A gradient that is not a number spoils its entry, and of a matrix under ``"shampoo"`` all, for good; for as long as it is
    :math:`g_t` or :math:`h_t` its array (with ``global_clip`` no array) is not clipped.

    Args:
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: added to the root of the corrected second moment (and to the norm under the Newton–Schulz iteration), ≥ 0.
      gamma: strength of the correction; may be negative.
      clip_norm: :math:`C` > 0; infinity: no clipping.
      base: ``"adamw"``, ``"lion"`` or ``"shampoo"``.
      exact: whether :math:`h_t` is the gradient on this batch. The update then wants the extra argument
        ``prev_point_grads=``, or computes it from ``grad_fn=``, which :func:`jaxtrain.training.make_step` gives: one more
        gradient for each step. Under ``optax.masked`` and ``optax.partition`` the first may have all leaves, whereas
        ``grad_fn`` is called with parameters that lack the others.
      global_clip: one norm over all arrays, as the paper writes it; False: one for each array, as in the released code.
      channel_axis: of matrices, the axis of outputs: the last in JAX's layout, 0 in PyTorch's.

    Returns:
      A transformation with :class:`MarsState`: three numbers for each parameter, two with ``"lion"``.

    Raises:
      ValueError: a number out of range or an unknown base; from its update with ``exact``: without the gradient.

    Source: Yuan, Liu, Wu, Zhou, Gu (2024), arXiv 2411.10438.

    >>> tx = scale_by_mars(b1=0.5, gamma=0.5, base="lion")
    >>> state = tx.init(jnp.zeros(2))
    >>> _, state = tx.update(jnp.array([0.2, 0.1]), state)
    >>> print(tx.update(jnp.array([0.1, -0.1]), state)[0], state.mu)  # 1.5 g / 2; then c = [0.05, -0.2]
    [ 1. -1.] [0.15  0.075]
    """
    return _scale_by_mars(
        b1, b2, eps, gamma, clip_norm, base, exact, global_clip, channel_axis, lambda g: True, (b1, b2)
    )


def _scale_by_mars(b1, b2, eps, gamma, clip_norm, base, exact, global_clip, channel_axis, corrected, other_betas):
    """As :func:`scale_by_mars` on arrays that are ``corrected``, and Adam of ``other_betas`` on the rest."""
    check_decays(b1=b1, b2=b2, one_d_b1=other_betas[0], one_d_b2=other_betas[1])
    check_finite_number("eps", eps, low=0.0)
    check_finite_number("gamma", gamma)
    if base not in BASES:
        raise ValueError(f"mars: base must be one of {', '.join(BASES)}, got {base!r}")
    if not isinstance(clip_norm, jax.Array) and not clip_norm > 0:
        raise ValueError(f"mars: clip_norm must be greater than 0 (infinity: no clipping), got {clip_norm}")

    def rule(g):
        """What is done to an array of this shape."""
        if not corrected(g):
            return "other"
        return "adamw" if base == "shampoo" and g.ndim != 2 else base

    def init(params):
        def second(p):
            return jnp.zeros_like(p, dtype=accumulator_dtype(p)) if rule(p) in ("adamw", "other") else None

        previous = jax.tree.map(jnp.copy, params) if exact else zeros_accumulator(params)
        return MarsState(jnp.zeros((), jnp.int32), zeros_accumulator(params), jax.tree.map(second, params), previous)

    def update(updates, state, params=None, *, prev_point_grads=None, grad_fn=None, **extra_args):
        del extra_args
        if exact and params is None:
            raise ValueError("mars with exact=True keeps the parameters: call tx.update(updates, state, params, …)")
        count = optax.safe_increment(state.count)
        before = _at_previous_point(updates, state, prev_point_grads, grad_fn, params) if exact else state.previous
        strength = jnp.asarray(gamma * b1 / (1 - b1))

        def correct(g, h, strength):
            g32 = g.astype(accumulator_dtype(g))
            return (g32 + strength * (g32 - h.astype(g32.dtype))).astype(g32.dtype)

        # the corrected gradients are not stored: they are computed again from both gradients where they are needed
        norm = None
        if global_clip:
            pairs = zip(jax.tree.leaves(updates), jax.tree.structure(updates).flatten_up_to(before), strict=True)
            rows = [(g, h, strength) for g, h in pairs if corrected(g)]
            norm = safe_norm(*([row[i] for row in rows] for i in range(3)), of=correct)

        def clipped(g, h):
            length = safe_norm(g, h, strength, of=correct) if norm is None else norm
            c = correct(g, h, strength)
            return (c * jnp.where(length > clip_norm, clip_norm / length, 1)).astype(c.dtype)

        def step(g, m, v, h):
            kind = rule(g)
            c = g.astype(m.dtype) if kind == "other" else clipped(g, h).astype(m.dtype)
            first, second = other_betas if kind == "other" else (b1, b2)
            m = (first * m + (1 - first) * c).astype(m.dtype)
            if v is not None:
                v = (second * v + (1 - second) * c**2).astype(v.dtype)
            if kind in ("adamw", "other"):
                u = _adam(m, v, first, second, eps, count)
            elif kind == "lion":
                u = jnp.sign(m)
            else:
                outputs = g.shape[channel_axis]
                ratio = max(1.0, outputs / max(1, g.size // max(1, outputs)))
                u = newton_schulz_orthogonalize(m / (1 - b1), eps=eps) * ratio**0.5 if g.size else m
            previous = h if exact else in_place_of(h, g.astype(h.dtype), count, m, *(() if v is None else (v,)))
            return u.astype(g.dtype), m, v, previous

        found, mu, nu, previous = map_leaves(step, 4, updates, state.mu, state.nu, before)
        if exact:
            previous = jax.tree.map(lambda old, p: in_place_of(old, jnp.asarray(p), count), state.previous, params)
        return found, MarsState(count, mu, nu, previous)

    return optax.GradientTransformationExtraArgs(init, update)


class _RateState(NamedTuple):
    count: Int[Array, ""]


def mars(
    learning_rate: optax.ScalarOrSchedule = 3e-3,
    b1: Number = 0.95,
    b2: Number = 0.99,
    eps: Number = 1e-8,
    weight_decay: Number = 0.0,
    *,
    gamma: Number = 0.025,
    clip_norm: Number = 1.0,
    base: str = "adamw",
    exact: bool = False,
    optimize_1d: bool = False,
    kernels: bool = False,
    one_d_learning_rate: optax.ScalarOrSchedule = 3e-3,
    one_d_betas: tuple[Number, Number] = (0.9, 0.95),
    one_d_weight_decay: Number = 0.1,
    global_clip: bool = False,
    channel_axis: int = -1,
) -> optax.GradientTransformationExtraArgs:
    r"""MARS on matrices, AdamW on everything else, as in the released code.

    Matrices: :math:`\theta \leftarrow \theta - \eta_t\,(u_t + \lambda\,\theta)`, see :func:`scale_by_mars`. The rest: AdamW
    with settings of its own and the rate :math:`\eta_t\,\eta^{1d} / \eta_0`, where :math:`\eta_0` is the schedule's first
    value. In the released code it is the rate before any schedule, as a rule the peak: beside a schedule with a warm-up give
    :math:`\eta^{1d}` as a schedule too. So also under ``optax.inject_hyperparams``, where :math:`\eta_t` is but a number.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule.
      b1, b2, eps, gamma, clip_norm, base, exact, global_clip, channel_axis: see :func:`scale_by_mars`.
      weight_decay: :math:`\lambda`, decoupled, of what MARS updates.
      optimize_1d: whether MARS updates everything.
      kernels: whether it updates all arrays with two axes or more.
      one_d_learning_rate: :math:`\eta^{1d}`; a schedule is taken as it is, without :math:`\eta_t / \eta_0`.
      one_d_betas: decays of AdamW.
      one_d_weight_decay: weight decay of AdamW.

    Returns:
      A transformation whose update needs ``params``, and with ``exact`` ``prev_point_grads=`` or ``grad_fn=``.

    Raises:
      ValueError: as :func:`scale_by_mars`; a schedule that starts at 0 beside a number as ``one_d_learning_rate``; from its
        update: without ``params``.

    Source: Yuan, Liu, Wu, Zhou, Gu (2024), arXiv 2411.10438.

    >>> tx = mars(learning_rate=0.1, one_d_learning_rate=0.01, one_d_weight_decay=0.0)
    >>> params = {"w": jnp.ones((1, 2)), "b": jnp.ones(1)}
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> print((100 * updates["w"]).round(), (100 * updates["b"]).round())
    [[-10. -10.]] [-1.]
    """

    def corrected(x):
        return optimize_1d or x.ndim == 2 or (kernels and x.ndim > 2)

    check_finite_number("weight_decay", weight_decay, low=0.0)
    check_finite_number("one_d_weight_decay", one_d_weight_decay, low=0.0)
    core = _scale_by_mars(
        b1, b2, eps, gamma, clip_norm, base, exact, global_clip, channel_axis, corrected, tuple(one_d_betas)
    )
    relative = callable(learning_rate) and not callable(one_d_learning_rate)
    with jax.ensure_compile_time_eval():  # a number also where mars is called in a traced function
        start = learning_rate(0) if relative else None
    if relative and not optimize_1d and not isinstance(start, jax.core.Tracer) and float(start) == 0:
        raise ValueError(
            "mars: the schedule starts at 0, so that one_d_learning_rate / learning_rate(0) is infinite; give a schedule "
            "as one_d_learning_rate"
        )

    def rates(count):
        rate = learning_rate(count) if callable(learning_rate) else learning_rate
        if callable(one_d_learning_rate):
            return rate, one_d_learning_rate(count)
        return rate, rate * one_d_learning_rate / start if relative and not optimize_1d else one_d_learning_rate

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("mars decays the parameters: call tx.update(updates, state, params) with the parameters")
        rate, one_d_rate = rates(state.count)

        def step(u, p):
            if corrected(u):
                return (-rate * (u + weight_decay * p)).astype(u.dtype)
            return (-one_d_rate * (u + one_d_weight_decay * p)).astype(u.dtype)

        return jax.tree.map(step, updates, params), _RateState(optax.safe_increment(state.count))

    return optax.chain(core, optax.GradientTransformation(lambda params: _RateState(jnp.zeros((), jnp.int32)), update))
