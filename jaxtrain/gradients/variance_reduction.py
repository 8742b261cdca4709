"""Gradients with a memory: SVRG, PAGE (SARAH), STORM and SAGA.

What a method remembers lives where all that lasts from step to step does: in the state of the optax chain, so that it is
checkpointed, sharded and vmapped with it. Each is the first of a chain, takes the gradient of the batch, and gets what it
wants besides from extra arguments: ``grad_fn(params)`` (the gradient of the same batch elsewhere) and ``key`` from
:func:`jaxtrain.training.make_step` itself, ``full_grad_fn`` and ``indices`` from its ``extra_args``.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxtrain.core import Number, Params, check_finite_number, check_key, check_same_structure
from jaxtrain.core.numerics import accumulator_dtype, run_if, static_int


class AnchoredState(NamedTuple):
    """State of :func:`svrg`, :func:`page` and :func:`storm`: completed updates, the parameters at which the gradient of
    the batch is taken besides, and the estimate there, in float32 at least; both shaped like the parameters."""

    count: Int[Array, ""]
    anchor: Params
    estimate: Params


def _anchored(where: str, needs: tuple[str, ...], rule: Callable) -> optax.GradientTransformationExtraArgs:
    """``rule(state, grads, params, extras) -> (estimate, (anchor, its estimate))`` as a transformation."""

    def init(params):
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, accumulator_dtype(p)), params)
        return AnchoredState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params), zeros)

    def update(updates, state, params=None, **extra_args):
        extras = {"params": params, **extra_args}
        missing = [name for name in ("params", *needs) if extras.get(name) is None]
        if missing:
            raise ValueError(
                f"{where} lacks {', '.join(missing)}: make_step gives params, grad_fn and key; "
                "full_grad_fn (params -> gradient over all data) comes from its extra_args"
            )
        if "key" in needs:
            check_key(extras["key"], where=where)
        wide = jax.tree.map(lambda g, e: g.astype(e.dtype), updates, state.estimate)
        estimate, (anchor, stored) = rule(state, wide, params, extras)
        state = AnchoredState(optax.safe_increment(state.count), anchor, stored)
        return jax.tree.map(lambda e, g: e.astype(g.dtype), estimate, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _like(tree: Params, like: Params) -> Params:
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, like)


def _select(condition, yes: Params, no: Params) -> Params:
    return jax.tree.map(lambda y, n: jnp.where(condition, y, n), yes, no)


def svrg(period: Number, *, random: bool = False) -> optax.GradientTransformationExtraArgs:
    r"""Stochastic variance-reduced gradients: every ``period`` updates the gradient over all data is taken anew.

    .. math:: v_t = \nabla f_{B_t}(\theta_t) - \nabla f_{B_t}(\tilde\theta) + \nabla f(\tilde\theta), \qquad
       \tilde\theta = \theta_{m \lfloor t/m \rfloor}.

    Without bias, and its variance goes to zero with the distance of :math:`\theta_t` and :math:`\tilde\theta` from an
    optimum, so that a constant learning rate converges: linearly for a strongly convex f, Johnson and Zhang's factor an
    epoch being :math:`\frac{1}{\mu\eta(1-2L\eta)m} + \frac{2L\eta}{1-2L\eta}`. With ``random`` the coin of the loopless
    form decides, heads with probability 1/m (at the first update always). Costs one gradient of the batch more a step
    (``grad_fn=``), and one over all data every m (``full_grad_fn=``).

    Args:
      period: m ≥ 1, updates between snapshots; may be traced.
      random: take snapshots by chance; wants ``key=``.

    Returns:
      A transformation with :class:`AnchoredState`: two copies of the parameters.

    Raises:
      ValueError: a period below 1; from its update: parameters, ``grad_fn``, ``full_grad_fn`` or ``key`` missing.

    Sources: Johnson, Zhang (2013), "Accelerating stochastic gradient descent using predictive variance reduction";
    loopless: Hofmann, Lucchi, Lacoste-Julien, McWilliams (2015), arXiv 1506.03662; Kovalev, Horváth, Richtárik (2020),
    arXiv 1901.08689.

    >>> data = jnp.array([1.0, 3.0])
    >>> grad = lambda w, x: jax.grad(lambda w: jnp.mean((w - x) ** 2))(w)
    >>> tx, w = svrg(10), jnp.array(0.0)
    >>> batch = data[:1]
    >>> full = lambda w: grad(w, data)
    >>> v, _ = tx.update(grad(w, batch), tx.init(w), w, grad_fn=lambda w: grad(w, batch), full_grad_fn=full)
    >>> float(v)  # of all data, not of the batch
    -4.0
    """
    check_finite_number("period", period, low=1)

    def rule(state, grads, params, extras):
        if random:
            due = jax.random.bernoulli(extras["key"], 1 / period) | (state.count == 0)
        else:
            due = state.count % period == 0

        def snapshot(_):
            return params, _like(extras["full_grad_fn"](params), state.estimate)

        anchor, full = run_if(due, snapshot, (state.anchor, state.estimate))
        there = _like(extras["grad_fn"](anchor), full)
        v = jax.tree.map(lambda g, a, f: g - a + f, grads, there, full)
        return v, (anchor, full)

    return _anchored("svrg", ("grad_fn", "full_grad_fn", *(("key",) if random else ())), rule)


def page(probability: Number) -> optax.GradientTransformationExtraArgs:
    r"""PAGE: with some probability a gradient over all data (or a large batch), otherwise the last one, moved along.

    .. math:: v_t = \begin{cases} \nabla f(\theta_t) & \text{with probability } p, \text{ and at } t = 0 \\
       v_{t-1} + \nabla f_{B_t}(\theta_t) - \nabla f_{B_t}(\theta_{t-1}) & \text{otherwise.} \end{cases}

    :math:`\mathbb{E}[v_t - \nabla f(\theta_t)] = (1-p)(v_{t-1} - \nabla f(\theta_{t-1}))`: biased, given the past, towards
    the last error. p = 1 is gradient descent over all data, p → 0 SARAH. For batches of b out of n the authors take
    :math:`p = b / (n + b)`. Costs a gradient of the batch a step, and with probability 1 − p a second one
    (``grad_fn=``), with p one over all data (``full_grad_fn=``).

    Args:
      probability: p in [0, 1]; may be traced.

    Returns:
      A transformation with :class:`AnchoredState`: two copies of the parameters. It wants ``key=`` too.

    Raises:
      ValueError: a probability outside [0, 1]; from its update: parameters, ``grad_fn``, ``full_grad_fn`` or ``key``
        missing.

    Sources: Li, Bao, Zhang, Richtárik (2021), arXiv 2008.10898; Nguyen, Liu, Scheinberg, Takáč (2017), arXiv 1703.00102.

    >>> tx, w = page(0.1), jnp.array(0.0)
    >>> v, _ = tx.update(
    ...     w, tx.init(w), w, grad_fn=jax.grad(jnp.cos), full_grad_fn=jax.grad(jnp.sin), key=jax.random.key(0)
    ... )
    >>> float(v)
    1.0
    """
    check_finite_number("probability", probability, low=0.0, high=1.0)

    def rule(state, grads, params, extras):
        due = jax.random.bernoulli(extras["key"], probability) | (state.count == 0)

        def moved(estimate):
            there = _like(extras["grad_fn"](state.anchor), estimate)
            return jax.tree.map(lambda e, g, a: e + (g - a), estimate, grads, there)

        v = run_if(~due, moved, state.estimate)
        v = run_if(due, lambda _: _like(extras["full_grad_fn"](params), state.estimate), v)
        return v, (params, v)

    return _anchored("page", ("grad_fn", "full_grad_fn", "key"), rule)


def storm(decay: Number = 0.1) -> optax.GradientTransformationExtraArgs:
    r"""STORM: momentum whose memory is moved along to the new parameters by the batch's own difference.

    .. math:: v_t = \nabla f_{B_t}(\theta_t) + (1 - a)\big(v_{t-1} - \nabla f_{B_t}(\theta_{t-1})\big), \qquad
       v_0 = \nabla f_{B_0}(\theta_0).

    Its error is that of momentum without the lag, :math:`\epsilon_t = (1-a)\,\epsilon_{t-1} + a\,\xi_t` plus what the
    batches' curvatures differ: for noise :math:`\xi` that does not depend on :math:`\theta` its variance goes to
    :math:`\frac{a}{2-a}\sigma^2`. a = 1 is the plain gradient. No gradient over all data is needed. Costs one gradient of
    the batch more a step (``grad_fn=``).

    The authors let a follow the learning rate, :math:`\eta_t = k\,(w + \sum_{i \le t} \|\nabla f_{B_i}\|^2)^{-1/3}`,
    :math:`a_{t+1} = c\,\eta_t^2`; here both are the user's, numbers or (by ``optax.inject_hyperparams``) schedules.

    Args:
      decay: a in [0, 1]; may be traced.

    Returns:
      A transformation with :class:`AnchoredState`: two copies of the parameters.

    Raises:
      ValueError: a outside [0, 1]; from its update: parameters or ``grad_fn`` missing.

    Source: Cutkosky, Orabona (2019), arXiv 1905.10018.

    >>> tx, w = storm(0.5), jnp.array(1.0)
    >>> grad = jax.grad(lambda w: w**2)
    >>> v, state = tx.update(grad(w), tx.init(w), w, grad_fn=grad)
    >>> v, state = tx.update(grad(2 * w), state, 2 * w, grad_fn=grad)
    >>> float(v)  # without noise it has no lag: the gradient at 2
    4.0
    """
    check_finite_number("decay", decay, low=0.0, high=1.0)

    def rule(state, grads, params, extras):
        first = state.count == 0
        # at first there is no point before: this one, so that nothing is asked of the gradient at zero
        before = _select(first, params, state.anchor)
        there = _like(extras["grad_fn"](before), state.estimate)
        v = jax.tree.map(lambda g, e, a: g + (1 - decay) * (e - a), grads, state.estimate, there)
        v = _like(_select(first, grads, v), state.estimate)
        return v, (params, v)

    return _anchored("storm", ("grad_fn",), rule)


class SAGAState(NamedTuple):
    """State of :func:`saga`: the last gradient of every example, with a leading axis of examples, and their mean; both
    otherwise shaped like the parameters, the mean in float32 at least."""

    table: Params
    mean: Params


def saga(num_examples: int) -> optax.GradientTransformationExtraArgs:
    r"""SAGA: the last gradient of every example is kept; the mean of all of them replaces that over all data.

    .. math:: v_t = \frac1b \sum_{i \in B_t} \big(\nabla f_i(\theta_t) - g_i\big) + \frac1n \sum_{j=1}^n g_j, \qquad
       \text{then } g_i \leftarrow \nabla f_i(\theta_t) \text{ for } i \in B_t.

    The table starts at zero. Without bias where the examples are drawn uniformly; with learning rate 1/(3L) linear for a
    strongly convex f, :math:`1 - \min(\frac{1}{4n}, \frac{\mu}{3L})` a step of one example. No gradient beyond that of
    the batch, but n times the memory of the parameters: for small models, or with parts of the data as its "examples".

    The update wants the extra argument ``indices=``: the numbers of the batch's examples, a vector, with updates that are
    a stack with that leading axis (:func:`jaxtrain.gradients.per_example`); or one number, with one gradient. In a step
    of training: ``make_step(per_example(objective), tx, extra_args=lambda state, batch, key: {"indices":
    batch["index"]})``. An example that stands twice in a batch counts twice there and is kept once.

    Args:
      num_examples: n ≥ 1.

    Returns:
      A transformation with :class:`SAGAState`, whose updates have the shapes of the parameters.

    Raises:
      ValueError: fewer than one example; from its update: no ``indices``, or updates that do not fit them.

    Source: Defazio, Bach, Lacoste-Julien (2014), arXiv 1407.0202.

    >>> tx = saga(2)
    >>> state = tx.init(jnp.array(0.0))
    >>> v, state = tx.update(jnp.array([4.0]), state, indices=jnp.array([1]))
    >>> v, state = tx.update(jnp.array([6.0]), state, indices=jnp.array([1]))
    >>> float(v), float(state.mean)  # 6 - 4 + (0 + 4) / 2
    (4.0, 3.0)
    """
    n = static_int("num_examples", num_examples, low=1)

    def init(params):
        table = jax.tree.map(lambda p: jnp.zeros((n, *p.shape), p.dtype), params)
        return SAGAState(table, jax.tree.map(lambda p: jnp.zeros(p.shape, accumulator_dtype(p)), params))

    def update(updates, state, params=None, *, indices=None, **extra_args):
        del params, extra_args
        if indices is None:
            raise ValueError(
                "saga needs indices=, the numbers of the batch's examples: give them to make_step by "
                'extra_args=lambda state, batch, key: {"indices": batch["index"]}'
            )
        indices = jnp.asarray(indices)
        if indices.ndim > 1 or not jnp.issubdtype(indices.dtype, jnp.integer):
            raise ValueError(f"saga: indices must be one integer or a vector, got {indices.dtype}{list(indices.shape)}")
        stack = updates if indices.ndim else jax.tree.map(lambda g: g[None], updates)
        indices = indices.reshape(-1)
        b = len(indices)
        wanted = jax.tree.map(lambda t: jax.ShapeDtypeStruct((b, *t.shape[1:]), t.dtype), state.table)
        got = jax.tree.map(lambda g: jax.ShapeDtypeStruct(g.shape, g.dtype), stack)
        check_same_structure(wanted, got, where="saga: gradients, one for each of the indices")

        # of an example that stands twice the last one stays: earlier ones are not written
        last = ~jnp.any(jnp.triu(indices[:, None] == indices[None, :], k=1), axis=1)
        place = jnp.where(last, indices, n)

        def parts(g, t, m):
            change = g.astype(m.dtype) - t[indices].astype(m.dtype)
            v = jnp.mean(change, axis=0) + m
            mean = m + jnp.tensordot(last.astype(m.dtype), change, axes=1) / n
            return v.astype(g.dtype), t.at[place].set(g, mode="drop"), mean

        leaves = [parts(*x) for x in zip(*map(jax.tree.leaves, (stack, state.table, state.mean)), strict=True)]
        v, table, mean = (jax.tree.unflatten(jax.tree.structure(state.mean), x) for x in zip(*leaves, strict=True))
        return v, SAGAState(table, mean)

    return optax.GradientTransformationExtraArgs(init, update)
