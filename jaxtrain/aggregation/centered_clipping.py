"""Centered clipping and worker momentum: robust aggregation that learns from history."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from optax.experimental import aggregating

from jaxtrain.core import Number, check_finite_number, check_same_structure
from jaxtrain.core.tree import check_stack, safe_norm, weighted_sum


def centered_clip(updates: Any, center: Any, *, tau: Number, num_iters: int = 1) -> Any:
    r"""The centre, moved by the mean of the clipped differences to it.

    .. math:: v \leftarrow v + \frac1n \sum_{i=1}^n (x_i - v) \min\!\Big(1, \frac{\tau}{\|x_i - v\|_2}\Big)

    The norm is that of the whole tree. One worker moves the result by at most ``num_iters`` · τ/n whatever it sends. With
    τ = ∞ and one iteration it is the mean. A row with a NaN or an infinity counts as one that lies at the centre;
    a finite one of any size (1e30 in single precision) is clipped like every other. As ``num_iters`` grows the
    result tends to the minimiser of the sum of the Huber functions of the distances.

    Args:
      updates: pytree, every leaf ``(n, ...)``: what n workers sent.
      center: the tree without the leading axis, usually the previous aggregate.
      tau: clipping radius, ≥ 0, may be infinite and may be traced. It should be of the order of the good workers'
        spread.
      num_iters: number of iterations; one is enough from a good centre.

    Returns:
      A tree like ``center``, in the dtypes of ``updates``. Gradients are finite, also where a row equals the centre.

    Raises:
      ValueError: leading axes that disagree, a centre of another structure, ``num_iters`` below 1, a negative τ.

    Source: Karimireddy, He & Jaggi 2021, "Learning from History for Byzantine Robust Optimization", arXiv 2012.10333.

    >>> centered_clip(jnp.array([[0.0], [0.0], [0.0], [100.0]]), jnp.zeros(1), tau=1.0).tolist()
    [0.25]
    """
    check_stack(updates, where="centered_clip")
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), updates)
    check_same_structure(
        like, jax.tree.map(lambda v, x: jax.ShapeDtypeStruct(v.shape, x.dtype), center, like), where="centered_clip"
    )
    if num_iters < 1:
        raise ValueError(f"num_iters must be at least 1, got {num_iters}")
    # NaN and negative numbers are mistakes; infinity means no clipping
    if not isinstance(tau, jax.core.Tracer) and not np.all(np.asarray(tau) >= 0):
        raise ValueError(f"tau must lie in [0, inf], got {tau}")
    kind = jnp.promote_types(jnp.result_type(*jax.tree.leaves(updates)), jnp.float32)
    rows = jax.tree.map(lambda x: x.astype(kind), updates)

    def once(v: Any) -> Any:
        factors, differences = _clipped(jax.tree.map(lambda x, v: x - v, rows, v), jnp.asarray(tau, kind))
        return jax.tree.map(jnp.add, v, weighted_sum(factors / factors.shape[0], differences))

    v = jax.tree.map(lambda v: v.astype(kind), center)
    v = once(v) if num_iters == 1 else jax.lax.fori_loop(0, num_iters, lambda _, v: once(v), v)
    return jax.tree.map(lambda v, x: v.astype(x.dtype), v, updates)


def _clipped(differences: Any, tau: Array) -> tuple[Array, Any]:
    """A factor for each row, and the rows with those that are not finite set to zero."""

    def of_rows(values: Array, x: Array) -> Array:
        return values.reshape(-1, *[1] * (x.ndim - 1))

    finite = [jnp.all(jnp.isfinite(d).reshape(d.shape[0], -1), axis=1) for d in jax.tree.leaves(differences)]
    sound = jnp.all(jnp.stack(finite), axis=0)
    differences = jax.tree.map(lambda d: jnp.where(of_rows(sound, d), d, 0.0), differences)
    norms = jax.vmap(safe_norm)(differences)
    outside = norms > tau
    # both branches of a where are differentiated: neither may divide by zero
    return jnp.where(outside, tau / jnp.where(outside, norms, 1.0), 1.0), differences


class CenteredClippingState(NamedTuple):
    """State of :func:`centered_clipping`: the last aggregate, a tree like the parameters."""

    center: optax.Updates


def centered_clipping(tau: Number, *, num_iters: int = 1) -> aggregating.Aggregator:
    """Centered clipping around the previous aggregate, as a pair ``(init, update)``; the first centre is zero.

    It follows optax's aggregator protocol: ``optax.experimental.aggregating.process(worker_momentum(...),
    centered_clipping(...), optax.sgd(...))`` is the paper's optimizer.

    Args:
      tau: clipping radius, ≥ 0; may be traced.
      num_iters: number of iterations.

    Returns:
      An aggregator: ``update(stacked, state, params) -> (aggregate, state)``.

    Raises:
      ValueError: see :func:`centered_clip`.

    Source: Karimireddy, He & Jaggi 2021, arXiv 2012.10333, algorithm 2.

    >>> aggregator = centered_clipping(1.0)
    >>> state = aggregator.init(jnp.zeros(1))
    >>> for _ in range(3):
    ...     aggregate, state = aggregator.update(jnp.array([[2.0], [2.0]]), state)
    ...     print(aggregate.tolist())
    [1.0]
    [2.0]
    [2.0]
    """

    def init(params):
        return CenteredClippingState(optax.tree.zeros_like(params))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        aggregate = centered_clip(updates, state.center, tau=tau, num_iters=num_iters)
        # the state keeps its dtypes, whatever the gradients come in
        center = jax.tree.map(lambda a, c: a.astype(c.dtype), aggregate, state.center)
        return aggregate, CenteredClippingState(center)

    return aggregating.Aggregator(init, update)


class WorkerMomentumState(NamedTuple):
    """State of :func:`worker_momentum`: the momenta, a tree like the updates it sees."""

    momentum: optax.Updates


def worker_momentum(beta: Number = 0.9, *, num_workers: int | None = None) -> optax.GradientTransformation:
    r"""Each worker's own momentum, :math:`m_i \leftarrow (1-\beta)\,g_i + \beta\,m_i`, from zero.

    It shrinks the spread of the good workers, behind which an attacker could hide over many rounds.

    Args:
      beta: in [0, 1]; may be traced.
      num_workers: ``None``: for one worker, updates shaped like the parameters. A number n: for the server that holds
        a stack, updates with a leading axis of n.

    Returns:
      A gradient transformation; its state is shaped like the updates.

    Raises:
      ValueError: a β outside [0, 1], ``num_workers`` below 1.

    Source: Karimireddy, He & Jaggi 2021, arXiv 2012.10333, algorithm 2.

    >>> tx = worker_momentum(0.5, num_workers=2)
    >>> updates, state = tx.update(jnp.array([[2.0], [4.0]]), tx.init(jnp.zeros(1)))
    >>> updates.tolist()
    [[1.0], [2.0]]
    """
    check_finite_number("beta", beta, low=0.0, high=1.0)
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}")
    lead = () if num_workers is None else (num_workers,)

    def init(params):
        return WorkerMomentumState(jax.tree.map(lambda p: jnp.zeros((*lead, *p.shape), p.dtype), params))

    def update(updates, state, params=None):
        del params
        check_same_structure(
            jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype), state.momentum),
            jax.tree.map(lambda g, m: jax.ShapeDtypeStruct(g.shape, m.dtype), updates, state.momentum),
            where="worker_momentum",
        )
        momentum = jax.tree.map(lambda g, m: ((1 - beta) * g + beta * m).astype(m.dtype), updates, state.momentum)
        return jax.tree.map(lambda m, g: m.astype(g.dtype), momentum, updates), WorkerMomentumState(momentum)

    return optax.GradientTransformation(init, update)
