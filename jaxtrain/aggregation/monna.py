"""MoNNA: learning from one another without a server, by local momentum and nearest-neighbour averaging."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.aggregation._trees import check_byzantine, combine, largest_entries
from jaxtrain.aggregation.mixing import nearest_neighbor_mixing
from jaxtrain.core import Number, Scalar, check_finite_number, check_same_structure
from jaxtrain.core.tree import check_stack, safe_norm


def nearest_neighbor_average(pivot: Any, vectors: Any, *, num_byzantine: int, num_kept: int | None = None) -> Any:
    r"""The mean of the n − f vectors that are nearest to a node's own.

    .. math:: \mathrm{NNA}(x; x_1 \dots x_n) = \frac{1}{n-f} \sum_{j \in N(x)} x_j

    A vector that is kept although it is arbitrary is no further from the pivot than some vector of an honest node. One
    with a NaN or an infinity is kept only if more than f are; then the result is not finite.

    Args:
      pivot: the node's own vector, a pytree.
      vectors: pytree, every leaf ``(n, ...)``: what the node received, its own among them; n > 2 f.
      num_byzantine: f.
      num_kept: how many are averaged; default n − f. A node that waits only for the first n − f messages of n, of which f
        may still be Byzantine, keeps n − 2 f: give that.

    Returns:
      A tree like ``pivot``. Cost: two reads of the vectors.

    Raises:
      ValueError: n ≤ 2 f, a number kept outside [1, n], trees that disagree.

    Source: Farhadkhani, Guerraoui, Gupta, Hoang, Pinot & Stephan 2023, "Robust Collaborative Learning with Linear
    Gradient Overhead", arXiv 2209.10931.

    >>> nearest_neighbor_average(jnp.array([1.0]), jnp.array([[1.0], [2.0], [1e30]]), num_byzantine=1).tolist()
    [1.5]
    """
    n, f = check_stack(vectors, where="nearest_neighbor_average"), num_byzantine
    check_byzantine(n, f, where="nearest_neighbor_average", needed=2 * f + 1, formula="2 f + 1")
    check_same_structure(
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), vectors),
        pivot,
        where="nearest_neighbor_average",
    )
    kept = n - f if num_kept is None else num_kept
    if not 1 <= kept <= n:
        raise ValueError(f"nearest_neighbor_average: num_kept must lie in [1, n = {n}], got {kept}")
    differences = jax.tree.map(lambda x, p: x - p, vectors, pivot)
    distances = jnp.where(jnp.isfinite(largest_entries(vectors)), jax.vmap(safe_norm)(differences), jnp.inf)
    nearest = jax.lax.top_k(-distances, kept)[1]
    return combine(jnp.zeros(n, distances.dtype).at[nearest].set(1 / kept), vectors)


def monna_step(
    params: Any,
    momenta: Any,
    grads: Any,
    *,
    learning_rate: Number,
    beta: Number = 0.99,
    num_byzantine: int,
    byzantine: Callable[[Any], Any] | None = None,
) -> tuple[Any, Any]:
    r"""One round of MoNNA at all nodes: momentum, half step, broadcast, nearest-neighbour average.

    .. math:: m_i \leftarrow \beta m_i + (1-\beta) g_i, \qquad \theta_i^{1/2} = \theta_i - \gamma m_i, \qquad
        \theta_i \leftarrow \mathrm{NNA}(\theta_i^{1/2};\, \text{all that were sent})

    Each node computes one stochastic gradient a step.

    Args:
      params: pytree, every leaf ``(h, ...)``: the models of the h nodes that follow the protocol.
      momenta: a stack like it, zeros in the beginning.
      grads: a stack like it: each node's own stochastic gradient at its own model.
      learning_rate: γ; may be traced.
      beta: β in [0, 1]; may be traced.
      num_byzantine: f of the n nodes in all; h > f.
      byzantine: from the half steps ``(h, ...)`` to what Byzantine nodes send: leaves ``(b, ...)``, the same to everyone.
        ``None``: they send nothing that is not in ``params``, n = h.

    Returns:
      ``(params, momenta)`` of the h nodes. Cost: the Gramian of n vectors; models that agree in their leading digits
      do no harm (their differences are taken first).

    Raises:
      ValueError: n ≤ 2 f, a β outside [0, 1], trees that disagree.

    Source: Farhadkhani, Guerraoui, Gupta, Hoang, Pinot & Stephan 2023, arXiv 2209.10931, algorithm 1.

    >>> params, zeros = jnp.array([[0.0], [2.0]]), jnp.zeros((2, 1))
    >>> monna_step(params, zeros, zeros, learning_rate=0.1, num_byzantine=0)[0].tolist()
    [[1.0], [1.0]]
    """
    check_finite_number("beta", beta, low=0.0, high=1.0)
    nodes = check_stack(params, where="monna_step")
    for name, tree in (("momenta", momenta), ("grads", grads)):
        check_same_structure(params, tree, where=f"monna_step: params and {name}")
    momenta = jax.tree.map(lambda m, g: (beta * m + (1 - beta) * g).astype(m.dtype), momenta, grads)
    half = jax.tree.map(lambda p, m: (p - learning_rate * m).astype(p.dtype), params, momenta)
    sent = half
    if byzantine is not None:
        sent = jax.tree.map(lambda h, b: jnp.concatenate([h, b.astype(h.dtype)]), half, byzantine(half))
    # every node averages around its own vector: that is mixing, of which the first rows are wanted
    mixed = nearest_neighbor_mixing(sent, num_byzantine=num_byzantine)
    return jax.tree.map(lambda x: x[:nodes], mixed), momenta


def mixing_reduction(before: Any, after: Any) -> tuple[Scalar, Scalar]:
    r"""How much a mixing brought the honest nodes together, and how far it moved them.

    .. math:: \alpha = \frac{\sum_i \|y_i - \bar y\|^2}{\sum_i \|x_i - \bar x\|^2}, \qquad
        \lambda = \frac{h\, \|\bar y - \bar x\|^2}{\sum_i \|x_i - \bar x\|^2}

    A mixing is an (α, λ)-reduction if whatever the Byzantine nodes send leaves both below these numbers.

    Args:
      before: pytree, every leaf ``(h, ...)``, of the honest nodes only.
      after: a stack like it.

    Returns:
      ``(alpha, drift)``; not finite if all honest nodes agreed before.

    Raises:
      ValueError: stacks that disagree.

    Source: Farhadkhani, Guerraoui, Gupta, Hoang, Pinot & Stephan 2023, arXiv 2209.10931, definition 2.

    >>> alpha, drift = mixing_reduction(jnp.array([[0.0], [2.0]]), jnp.array([[1.5], [2.5]]))
    >>> round(float(alpha), 4), round(float(drift), 4)
    (0.25, 1.0)
    """
    nodes = check_stack(before, where="mixing_reduction")
    check_same_structure(before, after, where="mixing_reduction")

    def centre(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.mean(x, axis=0), tree)

    def spread(tree: Any) -> Float[Array, ""]:
        return safe_norm(jax.tree.map(lambda x, c: x - c, tree, centre(tree)))

    unit = spread(before)
    drift = safe_norm(jax.tree.map(jnp.subtract, centre(after), centre(before)))
    return (spread(after) / unit) ** 2, nodes * (drift / unit) ** 2
