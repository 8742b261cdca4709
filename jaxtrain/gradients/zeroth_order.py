"""Gradients from values alone: random directions (SPSA, Gaussian, sphere) and MeZO's regenerated ones."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxtrain.core import Aux, GradFn, Number, Objective, Params, Scalar, check_finite_number, check_key
from jaxtrain.core.numerics import accumulator_dtype, static_int
from jaxtrain.core.probes import check_distribution, map_direction, mean_over, probe_keys

SCHEMES = ("central", "forward", "one_point", "leave_one_out")

Value: TypeAlias = Callable[[Params], tuple[Scalar, Any]]
"""``params -> (loss, what is returned besides)``."""

Along: TypeAlias = Callable[[Callable[[Array, Array], Array], Any, Any], Params]
"""``(f, x, after) -> tree``: ``f(leaf, direction)`` over the parameters, for direction x, once the number ``after`` is known
(or None); see :func:`jaxtrain.core.probes.map_direction`."""


class _Options(NamedTuple):
    directions: int
    smoothing: Number
    distribution: str
    scheme: str
    parallel: int


def _checked(where, directions, smoothing, distribution, scheme, parallel) -> _Options:
    directions = static_int("directions", directions, low=2 if scheme == "leave_one_out" else 1)
    parallel = static_int("parallel", parallel, low=1)
    check_finite_number("smoothing", smoothing, low=1e-30)
    check_distribution(distribution, where=where)
    if scheme not in SCHEMES:
        raise ValueError(f"{where}: scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}")
    if directions % parallel:
        raise ValueError(f"{where}: parallel={parallel} does not divide {directions} directions")
    return _Options(directions, smoothing, distribution, scheme, parallel)


def values_around(
    value: Value, params: Params, along: Along, xs: Any, scales: Any, *, parallel: int = 1, after: Any = None
) -> tuple[Float[Array, "x scale"], Any]:
    """The losses at ``params + scale · direction x`` for all x and scales, and the mean of what comes besides.

    A direction is made where it is used, ``parallel`` x at a time, so that no other copies of the parameters are alive
    at once. Integers besides (counters) are those of the last evaluation.
    """
    scales = 1.0 * jnp.stack([jnp.asarray(s) for s in scales])  # in double precision where that is on
    count = len(jax.tree.leaves(xs)[0])

    def evaluate(x, scale):
        def move(p, v):
            return (p + scale.astype(accumulator_dtype(p)) * v).astype(p.dtype)

        loss, besides = value(along(move, x, after))
        return loss.astype(accumulator_dtype(loss)), besides

    def is_mean(x):
        return jnp.issubdtype(x.dtype, jnp.floating)

    def body(total, point):
        x, scale = point
        if parallel == 1:
            losses, besides = evaluate(jax.tree.map(lambda a: a[0], x), scale)
            losses = losses[None]
        else:
            losses, besides = jax.vmap(lambda x: evaluate(x, scale))(x)
            besides = jax.tree.map(lambda b: jnp.mean(b, 0).astype(b.dtype) if is_mean(b) else b[-1], besides)
        return jax.tree.map(lambda t, b: t + b.astype(t.dtype) if is_mean(b) else b, total, besides), losses

    # every group of x with every scale in turn: one loop, in which the objective is compiled once
    groups = jax.tree.map(lambda x: x.reshape(count // parallel, parallel, *x.shape[1:]), xs)
    points = jax.tree.map(lambda x: jnp.repeat(x, len(scales), axis=0), groups), jnp.tile(scales, count // parallel)
    shapes = jax.eval_shape(lambda p: value(p)[1], params)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, accumulator_dtype(s) if is_mean(s) else s.dtype), shapes)
    total, losses = jax.lax.scan(body, zeros, points)
    rounds = len(losses)
    besides = jax.tree.map(lambda t, s: (t / rounds).astype(s.dtype) if is_mean(s) else t, total, shapes)
    return losses.reshape(count // parallel, len(scales), parallel).swapaxes(1, 2).reshape(count, -1), besides


def estimate(
    value: Value,
    params: Params,
    along: Along,
    xs: Any,
    *,
    smoothing: Number,
    scheme: str,
    parallel: int = 1,
    base: tuple[Scalar, Any] | None = None,
) -> tuple[tuple[Scalar, Any], Params]:
    """The estimate of :func:`zeroth_order` for given directions x; ``base`` is ``value(params)`` if known."""
    if scheme == "forward" and base is None:
        base = value(params)
    scales = (smoothing, -smoothing) if scheme == "central" else (smoothing,)
    losses, besides = values_around(
        value, params, along, xs, scales, parallel=parallel, after=None if base is None else base[0]
    )
    n = len(losses)
    if scheme == "central":
        slopes = (losses[:, 0] - losses[:, 1]) / (2 * smoothing)
    elif scheme == "forward":
        slopes = (losses[:, 0] - base[0]) / smoothing
    elif scheme == "leave_one_out":
        slopes = n / (n - 1) * (losses[:, 0] - jnp.mean(losses)) / smoothing
    else:
        slopes = losses[:, 0] / smoothing

    def times_slope(inputs):
        x, slope = inputs
        return along(lambda p, v: slope.astype(accumulator_dtype(v)) * v, x, slope)

    grads = mean_over(times_slope, (xs, slopes), parallel=parallel)
    first = (jnp.mean(losses), besides) if base is None else base
    return first, jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)


def zeroth_order(
    objective: Objective,
    *,
    directions: int = 1,
    smoothing: Number = 1e-3,
    distribution: str = "rademacher",
    scheme: str = "central",
    parallel: int = 1,
) -> GradFn:
    r"""A gradient from values of the objective along random directions; it need not be differentiable.

    .. math:: \hat g = \frac1n \sum_{i=1}^n s_i v_i, \qquad s_i =
       \begin{cases}
       \frac{f(\theta + c v_i) - f(\theta - c v_i)}{2c} & \text{central (antithetic)} \\
       \frac{f(\theta + c v_i) - f(\theta)}{c} & \text{forward} \\
       \frac{f(\theta + c v_i)}{c} & \text{one\_point} \\
       \frac{1}{c}\big(f(\theta + c v_i) - \frac{1}{n-1} \sum_{j \ne i} f(\theta + c v_j)\big) & \text{leave\_one\_out}
       \end{cases}

    with :math:`v_i` from :func:`jaxtrain.gradients.random_direction`, :math:`\mathbb{E}\,v v^\top = I`:

    - ``"rademacher"``, central: **SPSA**, whose :math:`1/v` is :math:`v` for signs. Biased by :math:`O(c^2)`.
    - ``"gaussian"``: Gaussian smoothing (forward: Nesterov and Spokoiny; central with one direction: **MeZO**; more
      directions: n-SPSA). :math:`\mathbb{E}\,\hat g = \nabla\,\mathbb{E} f(\theta + c v)`, in all four schemes.
    - ``"sphere"``: :math:`\mathbb{E}\,\hat g` is the gradient of the mean of f over the ball of radius
      :math:`c\sqrt d`. The papers' unit vectors are :math:`v/\sqrt d`, their radius :math:`c\sqrt d`.

    On a linear function of gradient g, one direction of a difference has :math:`\mathbb{E}\|\hat g\|^2 = d\,\|g\|^2`
    (signs, sphere) or :math:`(d+2)\,\|g\|^2` (Gaussian), and n directions an n-th of the variance. The two schemes
    without a difference add :math:`d f(\theta)^2/c^2` (one point), or the spread of the values instead of their size.

    Directions are not kept but drawn again from their keys, leaf by leaf, where they are used (MeZO): the memory is that
    of the objective's forward pass, at most one moved copy of the parameters for each of ``parallel``, and, with several
    directions, their sum. With one and plain SGD a step of 24 equal layers needs 0.27 copies besides the parameters
    (XLA on a CPU: six or seven layers' for the random bits of one). Cost in evaluations of the objective: 2n central,
    n + 1 forward, n otherwise; no derivative.

    All evaluations see the same batch and, from ``split(key)``, the same key; the directions have the other. Loss,
    metrics and floating model state are means over the evaluations, other model state that of the last; with
    ``"forward"`` all are those of the parameters themselves. Differences of a loss in float32 lose about
    :math:`2^{-24} |f| / c`; parameters in half precision do not move by less than :math:`2^{-9}` of themselves.

    Args:
      objective: ``(params, model_state, batch, key) -> (loss, Aux)``.
      directions: n, ≥ 1 (``"leave_one_out"``: ≥ 2).
      smoothing: c > 0, in units of the parameters.
      distribution: ``"rademacher"``, ``"gaussian"`` or ``"sphere"``.
      scheme: ``"central"``, ``"forward"``, ``"one_point"`` or ``"leave_one_out"``.
      parallel: directions that are evaluated at once; must divide n.

    Returns:
      A gradient function.

    Raises:
      ValueError: a number out of range, an unknown name, or ``parallel`` does not divide n.

    Sources: Spall (1992), "Multivariate stochastic approximation using a simultaneous perturbation gradient
    approximation"; Nesterov, Spokoiny (2017), "Random gradient-free minimization of convex functions"; Flaxman, Kalai,
    McMahan (2005), cs/0408007; Duchi, Jordan, Wainwright, Wibisono (2015), arXiv 1312.2139; Malladi, Gao, Nichani,
    Damian, Lee, Chen, Arora (2023), arXiv 2305.17333.

    >>> grad_fn = zeroth_order(lambda w, s, x, k: (3.0 * w[0], Aux(s, {})))
    >>> (loss, _), grads = grad_fn(jnp.zeros(1), {}, None, jax.random.key(0))
    >>> round(float(grads[0]), 4)
    3.0
    """
    o = _checked("zeroth_order", directions, smoothing, distribution, scheme, parallel)

    def grad_fn(params, model_state, batch, key):
        check_key(key, where="zeroth_order")
        shared, own = jax.random.split(key)
        (loss, aux), grads = estimate(
            lambda p: _as_pair(objective(p, model_state, batch, shared)),
            params,
            lambda f, k, after: map_direction(f, k, params, o.distribution, after=after),
            probe_keys(own, o.directions),
            smoothing=o.smoothing,
            scheme=o.scheme,
            parallel=o.parallel,
        )
        return (loss, Aux(*aux)), grads

    return grad_fn


def _as_pair(result):
    loss, aux = result
    if jnp.shape(loss) != ():
        raise ValueError(f"zeroth_order needs one loss, got shape {jnp.shape(loss)}; take the mean of the examples'")
    return jnp.asarray(loss), jax.tree.map(jnp.asarray, tuple(aux))


def zeroth_order_updates(
    directions: int = 1,
    smoothing: Number = 1e-3,
    *,
    distribution: str = "rademacher",
    scheme: str = "central",
    parallel: int = 1,
) -> optax.GradientTransformationExtraArgs:
    r"""The same gradient as the first of an optax chain: ``optax.chain(zeroth_order_updates(), optax.sgd(1e-3))``.

    It puts the estimate of :func:`zeroth_order` in the place of the updates it is given, which it does not look at. Its
    update wants the extra arguments ``value_fn=`` (``params -> loss``) and ``key=``, which
    :func:`jaxtrain.training.make_step` gives; where the gradient that comes with them is not otherwise used, ``jit``
    removes it, but the program may keep more than :func:`zeroth_order` does: of 12 equal layers a step on a CPU took 1.2
    copies of the parameters besides them, where that one took less than 0.7. ``"forward"`` uses ``value=``, the loss at the parameters, where it is given. Evaluations of ``value_fn``:
    2n central, otherwise n, and one more for ``"forward"`` without ``value``.

    Args:
      directions, smoothing, distribution, scheme, parallel: see :func:`zeroth_order`.

    Returns:
      A transformation without state.

    Raises:
      ValueError: as :func:`zeroth_order`; from its update: no parameters, ``value_fn`` or ``key``.

    Sources: see :func:`zeroth_order`.

    >>> tx = optax.chain(zeroth_order_updates(), optax.sgd(0.5))
    >>> params = jnp.array([3.0])
    >>> updates, _ = tx.update(
    ...     params, tx.init(params), params, value_fn=lambda w: w[0] ** 2, key=jax.random.key(0)
    ... )
    >>> round(float(updates[0]), 2)
    -3.0
    """
    o = _checked("zeroth_order_updates", directions, smoothing, distribution, scheme, parallel)

    def update(updates, state, params=None, *, value_fn=None, value=None, key=None, **extra_args):
        del updates, extra_args
        missing = [n for n, x in {"params": params, "value_fn": value_fn, "key": key}.items() if x is None]
        if missing:
            raise ValueError(
                f"zeroth_order_updates lacks {', '.join(missing)}: call tx.update(grads, state, params, value_fn=…, "
                "key=…), with value_fn (params -> loss, on one batch) and a key for the directions"
            )
        check_key(key, where="zeroth_order_updates")
        _, grads = estimate(
            lambda p: _as_pair((value_fn(p), ())),
            params,
            lambda f, k, after: map_direction(f, k, params, o.distribution, after=after),
            probe_keys(key, o.directions),
            smoothing=o.smoothing,
            scheme=o.scheme,
            parallel=o.parallel,
            base=(value, ()) if o.scheme == "forward" and value is not None else None,
        )
        return grads, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
