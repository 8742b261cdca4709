"""Gradient splitting: Byzantine workers identified in low dimensions, one group of coordinates at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxtrain.aggregation._trees import check_byzantine, combine
from jaxtrain.aggregation.coordinatewise import coordinate_median, trimmed_mean
from jaxtrain.aggregation.krum import bulyan, multi_krum
from jaxtrain.core import Key, check_key
from jaxtrain.core.tree import check_stack, safe_norm

Rule = Callable[[Float[Array, "n k"]], Float[Array, " k"]]


def _base(base: str | Rule, n: int, f: int) -> Rule:
    if callable(base):
        return base
    # as many as the rule can bear: it only has to point at the centre
    rules: dict[str, Callable[..., Any]] = {
        "median": coordinate_median,
        "trimmed_mean": lambda x: trimmed_mean(x, num_byzantine=min(f, (n - 1) // 2)),
        "krum": lambda x: multi_krum(x, num_byzantine=min(f, (n - 3) // 2)),
        "bulyan": lambda x: bulyan(x, num_byzantine=min(f, (n - 3) // 4), selection="multi_krum"),
    }
    if base not in rules:
        raise ValueError(f"gas: base is a function or one of {', '.join(rules)}, got {base!r}")
    return rules[base]


def splitting_scores(matrix: Float[Array, "n d"], *, num_groups: int, base: Rule) -> Float[Array, " n"]:
    r"""How far each row is from the base rule's result, summed over groups of neighbouring columns.

    .. math:: s_i = \sum_{q=1}^p \|g_i^{(q)} - R^{(q)}\|_2, \qquad R^{(q)} = \mathrm{base}(g_1^{(q)}, \dots, g_n^{(q)})

    Args:
      matrix: ``(n, d)``, its columns in random order.
      num_groups: p groups of ⌈d/p⌉ columns, the last ones shorter.
      base: a robust rule on ``(n, k)``; it gives zero where all rows are zero.

    Returns:
      ``(n,)``; infinite for rows that are not finite.

    Source: Liu et al. 2023, arXiv 2302.06079, equations 4 to 6.

    >>> splitting_scores(jnp.array([[0.0, 0.0], [0.0, 3.0], [0.0, 0.0]]), num_groups=2, base=coordinate_median).tolist()
    [0.0, 3.0, 0.0]
    """
    n, d = matrix.shape
    width = -(-d // num_groups)
    # columns of zeros change neither a base rule's result nor a distance
    groups = jnp.pad(matrix, ((0, 0), (0, width * num_groups - d))).reshape(n, num_groups, width)
    centres = jax.vmap(base, in_axes=1)(groups)
    distances = jax.vmap(jax.vmap(safe_norm))(groups - centres)
    scores = jnp.sum(distances, axis=1)
    return jnp.where(jnp.isfinite(scores), scores, jnp.inf)


def gas(
    key: Key,
    stacked: Any,
    *,
    num_byzantine: int,
    num_groups: int,
    base: str | Rule = "krum",
) -> tuple[Any, Bool[Array, " n"]]:
    r"""Gradient splitting: the mean of the n − f rows that are nearest to a base rule's results in groups of coordinates.

    The coordinates are split at random into p groups, anew in every round and alike for all workers. In each group the base rule
    gives :math:`R^{(q)}`; a worker's score is :math:`\sum_q \|g_i^{(q)} - R^{(q)}\|`. The whole rows of the n − f
    workers with the smallest scores are averaged. In few dimensions an attacker finds less room between honest workers who differ.

    Args:
      key: decides the groups.
      stacked: pytree, every leaf ``(n, ...)``, n > 2 f.
      num_byzantine: f.
      num_groups: p, from 1 to the number of coordinates; to be tuned.
      base: ``"median"``, ``"trimmed_mean"``, ``"krum"`` (Multi-Krum, the mean of n − f), ``"bulyan"`` (with one
        ranking), all with f cut to what they can bear; or a function from ``(n, k)`` to ``(k,)``.

    Returns:
      ``(aggregate, selected)``: the tree without the leading axis, and which workers were averaged. A row that is not finite is selected
      only if more than f are; else every selected row's score is below the largest score of an honest one. Cost:
      a copy of the stack with its coordinates permuted, and the base rule.

    Raises:
      ValueError: n ≤ 2 f, a number of groups that there cannot be, an unknown base.

    Source: Liu, Chen, Lyu, Wu, Wu & Chen 2023, "Byzantine-Robust Learning on Heterogeneous Data via Gradient
    Splitting", arXiv 2302.06079.

    >>> x = jnp.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [1e30, jnp.nan]])
    >>> aggregate, selected = gas(jax.random.key(0), x, num_byzantine=1, num_groups=2, base="median")
    >>> aggregate.tolist(), selected.tolist()
    ([1.0, 2.0], [True, True, True, False])
    """
    check_key(key, where="gas")
    n, f = check_stack(stacked, where="gas"), num_byzantine
    check_byzantine(n, f, where="gas", needed=2 * f + 1, formula="2 f + 1")
    if base in ("krum", "bulyan") and n < 3:
        raise ValueError(f"gas: base {base!r} needs 3 workers, got {n}")
    flat = [x.reshape(n, -1) for x in jax.tree.leaves(stacked)]
    kind = jnp.promote_types(jnp.result_type(*flat), jnp.float32)
    matrix = jnp.concatenate([x.astype(kind) for x in flat], axis=1)
    d = matrix.shape[1]
    if not 1 <= num_groups <= d:
        raise ValueError(f"gas: num_groups must lie in [1, {d}] for {d} coordinates, got {num_groups}")
    matrix = matrix[:, jax.random.permutation(key, d)]
    scores = splitting_scores(matrix, num_groups=num_groups, base=_base(base, n, f))
    nearest = jax.lax.top_k(-scores, n - f)[1]
    selected = jnp.zeros(n, bool).at[nearest].set(True)
    return combine(selected.astype(kind) / (n - f), stacked), selected
