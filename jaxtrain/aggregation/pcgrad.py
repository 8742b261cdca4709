"""PCGrad and GradVac: each gradient corrected by the others, one after the other in a random order."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from optax.experimental import aggregating

from jaxtrain.aggregation._gramians import combined, over_lengths, unit_gramian, wide_gramian
from jaxtrain.core import Key, Number, check_finite_number, check_key


def _orders(key: Key, m: int) -> Int[Array, "m m"]:
    """A random order of all gradients for each of them."""
    return jax.vmap(lambda k: jax.random.permutation(k, m))(jax.random.split(key, m))


def pcgrad_weights(key: Key, gramian: Float[Array, "m n"]) -> Float[Array, " m"]:
    r"""The weights of PCGrad: from each gradient what conflicts with the others is taken away, then they are summed.

    .. math:: g_i \leftarrow g_i - \min\!\Big(0, \frac{\langle g_i, g_j\rangle}{\|g_j\|^2}\Big)\, g_j
        \quad\text{for the other } j \text{ in a random order}

    with the original :math:`g_j`. A later correction may bring back a conflict with an earlier one, so with three
    gradients or more the sum may conflict, and it depends on the orders. A sum, as in the paper: equal gradients g
    give m g. Costs O(m³), m steps one after the other.

    Args:
      gramian: ``(m, m)`` inner products; at least single precision is used.
      key: draws the orders, one for each gradient.

    Returns:
      ``(m,)``, ≥ 1, constant in differentiation.

    Raises:
      ValueError: a Gramian that is not square.
      TypeError: a key that is not typed.

    Source: Yu, Kumar, Gupta, Levine, Hausman & Finn 2020, "Gradient Surgery for Multi-Task Learning",
    arXiv 2001.06782, algorithm 1.

    >>> [round(float(w), 3) for w in pcgrad_weights(jax.random.key(0), jnp.array([[18.0, -22.0], [-22.0, 38.0]]))]
    [2.222, 1.579]
    """
    check_key(key, where="pcgrad_weights")
    g = wide_gramian(gramian, where="pcgrad_weights")
    cosines, lengths, _ = unit_gramian(g)
    return _projected(cosines, lengths, _orders(key, len(g)))


def _projected(cosines, lengths, orders):
    def one(i, order):
        def step(c, j):
            inner = c @ cosines[j]
            return c.at[j].add(jnp.where((inner < 0) & (j != i), -inner, 0.0)), None

        return jax.lax.scan(step, jnp.where(jnp.arange(len(lengths)) == i, lengths, 0.0), order)[0]

    rows = jax.vmap(one)(jnp.arange(len(lengths)), orders)
    # a zero gradient, which nothing changes, keeps its weight of one
    weights = over_lengths(jnp.sum(rows, axis=0), lengths)
    return jnp.where((lengths == 0) & ~jnp.isnan(weights), 1.0, weights + 0.0 * jnp.sum(cosines))


def pcgrad(key: Key, stacked: Any, *, axis_name: str | None = None) -> Any:
    r"""PCGrad of a stack of gradients, see :func:`pcgrad_weights`; for optax ``as_optax(pcgrad, key=key)``.

    Args:
      stacked: pytree, every leaf ``(m, ...)``: the gradients of m objectives.
      key: draws the orders.
      axis_name: a mapped axis that the coordinates are split over, see :func:`sharded`.

    Returns:
      The tree without the leading axis; leaves keep their dtype.

    Raises:
      ValueError: leading axes that disagree or are empty.
      TypeError: a key that is not typed.

    Source: Yu et al. 2020, arXiv 2001.06782.

    >>> [round(float(w), 3) for w in pcgrad(jax.random.key(0), jnp.array([[1.0, 0.0], [-1.0, 1.0]]))]
    [0.5, 1.5]
    """
    return combined(stacked, lambda g: pcgrad_weights(key, g), where="pcgrad", axis_name=axis_name)


def gradvac_weights(
    key: Key, gramian: Float[Array, "m n"], targets: Float[Array, "k k"], *, beta: Number = 0.01
) -> tuple[Float[Array, " m"], Float[Array, "m m"]]:
    r"""The weights of gradient vaccine, and the targets for the next step.

    Each gradient, whose cosine φ with another one is below the usual cosine φ̂ of this pair, is turned towards it:

    .. math:: g_i \leftarrow g_i + \frac{\|g_i\|\,(\hat\phi\sqrt{1-\phi^2} - \phi\sqrt{1-\hat\phi^2})}
        {\|g_j\|\sqrt{1-\hat\phi^2}}\, g_j, \qquad \hat\phi \leftarrow (1-\beta)\hat\phi + \beta\phi

    for the other j in a random order, with the cosine to the original :math:`g_j`. With targets of zero it is
    :func:`pcgrad_weights`. Costs O(m³).

    Args:
      gramian: ``(m, m)`` inner products; at least single precision is used.
      targets: ``(m, m)`` usual cosines φ̂; zero at the start. The diagonal is not used.
      key: draws the orders, one for each gradient.
      beta: how fast the targets follow, in [0, 1]; may be traced.

    Returns:
      The weights ``(m,)``, constant in differentiation, and the new targets. A zero gradient changes nothing.

    Raises:
      ValueError: a Gramian that is not square, targets of another shape, a ``beta`` outside [0, 1].
      TypeError: a key that is not typed.

    Source: Wang, Tsvetkov, Firat & Cao 2020, "Gradient Vaccine: Investigating and Improving Multi-task Optimization in
    Massively Multilingual Models", arXiv 2010.05874, equation 3 and algorithm 1.

    >>> [round(float(w), 3) for w in gradvac_weights(jax.random.key(0), jnp.eye(2), jnp.array([[0.0, 0.6], [0.6, 0.0]]), beta=0.5)[0]]
    [1.75, 1.75]
    """
    check_key(key, where="gradvac_weights")
    check_finite_number("beta", beta, low=0.0, high=1.0)
    g = wide_gramian(gramian, where="gradvac_weights")
    if targets.shape != g.shape:
        raise ValueError(f"gradvac_weights: targets of shape {targets.shape} for a Gramian of shape {g.shape}")
    cosines, lengths, _ = unit_gramian(g)
    weights, moved = _vaccinated(cosines, lengths, targets.astype(g.dtype), beta, _orders(key, len(g)))
    return weights, moved.astype(targets.dtype)


def _vaccinated(cosines, lengths, targets, beta, orders):
    most = 1 - 8 * jnp.finfo(cosines.dtype).eps  # a target of 1 could not be reached by any finite turn

    def one(i, target, order):
        def step(carry, j):
            c, target = carry
            inner = c @ cosines[j]
            norm = jnp.sqrt(jnp.maximum(c @ (cosines @ c), 0.0))
            works = (j != i) & (norm > 0) & (lengths[j] > 0)
            phi = jnp.clip(inner / jnp.where(works, norm, 1.0), -1.0, 1.0)
            wanted = jnp.clip(target[j], -most, most)
            high, low = jnp.sqrt(1 - phi**2), jnp.sqrt(1 - wanted**2)
            turn = norm * (wanted * high - phi * low) / low
            c = c.at[j].add(jnp.where(works & (phi < wanted), turn, 0.0))
            return (c, target.at[j].add(jnp.where(works, beta * (phi - target[j]), 0.0))), None

        start = jnp.where(jnp.arange(len(lengths)) == i, lengths, 0.0)
        return jax.lax.scan(step, (start, target), order)[0]

    rows, moved = jax.vmap(one)(jnp.arange(len(lengths)), targets, orders)
    weights = over_lengths(jnp.sum(rows, axis=0), lengths)
    return jnp.where((lengths == 0) & ~jnp.isnan(weights), 1.0, weights + 0.0 * jnp.sum(cosines)), moved


class GradVacState(NamedTuple):
    """State of :func:`gradvac`: the usual cosine of each pair ``(m, m)`` in float32, and the key of the next step."""

    targets: Array
    key: Array


def gradvac(num_objectives: int, key: Key, *, beta: Number = 0.01) -> aggregating.Aggregator:
    r"""Gradient vaccine as a pair ``(init, update)`` that remembers the usual cosines, see :func:`gradvac_weights`.

    Args:
      num_objectives: m.
      key: for the orders; every update splits it.
      beta: how fast the usual cosines follow, in [0, 1]; may be traced.

    Returns:
      An aggregator in optax's protocol: ``update(stacked, state, params) -> (aggregate, state)``. Its state does not
      have the shape of the parameters: it is about pairs of objectives.

    Raises:
      ValueError: a ``beta`` outside [0, 1], fewer than one objective, a stack of another number of gradients.
      TypeError: a key that is not typed.

    Source: Wang, Tsvetkov, Firat & Cao 2020, arXiv 2010.05874, algorithm 1.

    >>> aggregator = gradvac(2, jax.random.key(0))
    >>> state = aggregator.init(jnp.zeros(2))
    >>> aggregate, state = aggregator.update(jnp.array([[1.0, 0.0], [-1.0, 1.0]]), state)
    >>> [round(float(w), 3) for w in aggregate]
    [0.5, 1.5]
    """
    check_key(key, where="gradvac")
    check_finite_number("beta", beta, low=0.0, high=1.0)
    if num_objectives < 1:
        raise ValueError(f"num_objectives must be at least 1, got {num_objectives}")

    def init(params):
        del params
        return GradVacState(jnp.zeros((num_objectives, num_objectives), jnp.float32), key)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        used, following = jax.random.split(state.key)
        moved = []

        def weights(g):
            w, targets = gradvac_weights(used, g, state.targets, beta=beta)
            moved.append(targets)
            return w

        aggregate = combined(updates, weights, where="gradvac", axis_name=None)
        return aggregate, GradVacState(moved[0], following)

    return aggregating.Aggregator(init, update)
