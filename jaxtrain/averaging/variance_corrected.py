"""Averages that keep the scale of the weights, and the round of gossip that they were made for."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxtrain.averaging._models import check_alike, check_models, wide
from jaxtrain.core import Key, Number, Params, check_finite_number, check_key


def _variance(w: Array) -> Array:
    """The unbiased variance of the entries."""
    return jnp.sum(jnp.square(w - jnp.mean(w))) / (w.size - 1)


def rescale_to_variance(w: Float[Array, "..."], target_var: Number, *, eps: Number = 0.0) -> Float[Array, "..."]:
    r"""Stretches the entries of a tensor about their mean, so that they have a given variance.

    .. math:: W \leftarrow \bar w + (W - \bar w) \sqrt{\frac{v^\star + \epsilon}{\mathrm{Var}(W) + \epsilon}}

    with the unbiased variance over all entries. A tensor of equal entries, and one of fewer than two, has nothing to
    stretch and stays as it is.

    Args:
      w: any tensor.
      target_var: the wanted variance :math:`v^\star`, ≥ 0, a scalar.
      eps: :math:`\epsilon` ≥ 0; above 0 the result lies between the tensor and its rescaled form.

    Returns:
      The shape and dtype of ``w``.

    Raises:
      ValueError: a number out of range.

    >>> print(rescale_to_variance(jnp.array([1.0, 2.0, 3.0]), 4.0))
    [0. 2. 4.]
    """
    check_finite_number("target_var", target_var, low=0.0)
    check_finite_number("eps", eps, low=0.0)
    if w.size < 2:
        return w
    x = wide(w)
    mean, variance = jnp.mean(x), _variance(x)
    target = jnp.asarray(target_var, x.dtype) + eps
    usable, positive = variance + eps > 0, target > 0
    # the inner wheres keep the gradient finite where there is nothing to stretch, or to nothing
    root = jnp.sqrt(jnp.where(usable & positive, target / jnp.where(usable, variance + eps, 1), 1))
    factor = jnp.where(usable, jnp.where(positive, root, 0), 1)
    return (mean + (x - mean) * factor).astype(w.dtype)


def _ignored(ignore: Any, params: Params) -> list[bool]:
    """Which leaves are averaged without correction."""
    structure = jax.tree.structure(params)
    mask = ignore(params) if callable(ignore) else ignore
    if mask is None:
        return [False] * structure.num_leaves
    if jax.tree.structure(mask) != structure:
        raise ValueError(
            f"ignore must be a tree of booleans like the parameters ({structure}), got {jax.tree.structure(mask)}"
        )
    return [bool(flag) for flag in jax.tree.leaves(mask)]


def _mixed(
    weights: Float[Array, "n m"],
    stack: Params,
    own: Params | None,
    conservative: Number,
    eps: Number | None,
    ignore: Any,
) -> Params:
    """For every row of weights, which sum to 1: the corrected average. ``eps`` None: without correction."""
    leaves, structure = jax.tree.flatten(stack)
    owns = leaves if own is None else structure.flatten_up_to(own)
    ignored = _ignored(ignore, jax.tree.map(lambda x: x[0], stack))

    def of_leaf(x: Array, mine: Array, plain: bool) -> Array:
        all_, mine = wide(x), wide(mine)
        w, c = weights.astype(all_.dtype), jnp.asarray(conservative, all_.dtype)

        def mix(of_mine: Array, of_all: Array) -> Array:
            return c * of_mine + (1 - c) * jnp.tensordot(w, of_all, axes=1, precision="highest")

        mean = mix(mine, all_)
        if eps is not None and not plain and x[0].size > 1:
            target = mix(jax.vmap(_variance)(mine), jax.vmap(_variance)(all_))
            mean = jax.vmap(lambda a, v: rescale_to_variance(a, v, eps=eps))(mean, target)
        return mean.astype(x.dtype)

    return structure.unflatten([of_leaf(*args) for args in zip(leaves, owns, ignored, strict=True)])


def variance_corrected_average(
    models: Params,
    *,
    self_model: Params | None = None,
    conservative: Number = 0.0,
    eps: Number = 0.0,
    ignore: Params | Callable[[Params], Params] | None = None,
) -> Params:
    r"""The mean of n models with every tensor's variance restored.

    The average of uncorrelated tensors of variance v has variance v / n: the scale that the initialisation chose is
    lost, and training waits on a plateau until it is back. For every tensor, with all variances over its entries,

    .. math::
       \bar W = c\,W_{\mathrm{self}} + (1 - c)\,\tfrac1n \sum_i W_i, \qquad
       v^\star = c\,\mathrm{Var}(W_{\mathrm{self}}) + (1 - c)\,\tfrac1n \sum_i \mathrm{Var}(W_i)

    and :math:`\bar W` is stretched about its own mean to variance :math:`v^\star` (:func:`rescale_to_variance`). Of
    models that agree, :math:`\mathrm{Var}(\bar W) \approx v^\star`, it is the plain mean. Tensors of one entry are
    averaged plainly. Running statistics of BatchNorm are no parameters: recompute them.

    The simulator of the authors adds :math:`\epsilon = 10^{-4}` to both variances, whatever the tensor's scale: of 8
    models with He-initialised layers of fan-in 64, 1,000 and 10,000 that restores 98, 75 and 30 % of the variance. With
    the default here it is restored exactly.

    Args:
      models: stacked on a leading axis of size n ≥ 1.
      self_model: the receiving model, of the structure of one of them; needed where ``conservative`` is not 0.
      conservative: its weight c in [0, 1].
      eps: ε ≥ 0.
      ignore: a tree of booleans like one model, or a function of it that gives one: True is averaged plainly.

    Returns:
      One model, in the dtypes of ``models``.

    Raises:
      ValueError: no models, trees that differ, a number out of range.
      TypeError: leaves that are not floating.

    Source: Tian, Al-Ars, Kitsak, Hofstee (2024), arXiv 2404.04616.

    >>> models = jnp.array([[1.0, -1.0, 0.0], [-1.0, 0.0, 1.0]])  # variance 1 each; their mean has 1/4
    >>> print(variance_corrected_average(models))
    [ 0. -1.  1.]
    """
    where = "variance_corrected_average"
    n = check_models(models, where=where)
    check_finite_number("conservative", conservative, low=0.0, high=1.0)
    check_finite_number("eps", eps, low=0.0)
    one = jax.tree.map(lambda x: x[0], models)
    if self_model is None:
        if isinstance(conservative, jax.core.Tracer) or np.any(np.asarray(conservative) != 0):
            raise ValueError(f"{where}: conservative={conservative} is the weight of self_model, which is missing")
        self_model = one
    check_alike(one, self_model, where=f"{where}: self_model against one of the models")
    own = jax.tree.map(lambda x: x[None], self_model)
    averaged = _mixed(jnp.full((1, n), 1 / n), models, own, conservative, eps, ignore)
    return jax.tree.map(lambda x: x[0], averaged)


def _drawn(key: Key, adjacency: Bool[Array, "n n"], count: int | Int[Array, ""]) -> Bool[Array, "n n"]:
    """At most ``count`` neighbours of every node at random; self-loops stay."""
    others = adjacency & ~jnp.eye(len(adjacency), dtype=bool)
    scores = jnp.where(others, jax.random.uniform(key, adjacency.shape), -1.0)
    rank = jnp.argsort(jnp.argsort(-scores, axis=1), axis=1)
    return (others & (rank < count)) | (adjacency & ~others)


def gossip_round(
    key: Key | None,
    params_stacked: Params,
    adjacency: Shaped[Array | np.ndarray, "n n"],
    *,
    averaging: str = "variance_corrected",
    neighbors: int | None = None,
    conservative: Number = 0.0,
    eps: Number = 0.0,
    ignore: Params | Callable[[Params], Params] | None = None,
) -> Params:
    r"""One synchronous round of gossip: every node replaces its model by an average of those that it hears.

    Node i averages the models j with :math:`A_{ij} \ne 0`, by :func:`variance_corrected_average` or plainly. A self-loop
    :math:`A_{ii}` counts its own model among them; ``conservative`` weighs it against them. A node that hears nobody
    keeps its model; one that hears a model with NaN or infinite entries becomes NaN. Costs one product of an (n, n) with an (n, parameters) matrix.

    Args:
      key: for the draw of neighbours; may be None where ``neighbors`` is.
      params_stacked: the models of the n nodes, stacked.
      adjacency: ``(n, n)``, row i says whom node i hears; need not be symmetric and may change from round to round.
      averaging: ``mean`` or ``variance_corrected``.
      neighbors: how many neighbours a node hears in this round, drawn evenly without repetition; None: all.
      conservative: weight c of a node's own model besides its neighbours' average, in [0, 1].
      eps: as in :func:`variance_corrected_average`.
      ignore: as there.

    Returns:
      The models after the round, stacked.

    Raises:
      ValueError: an adjacency of another shape, an unknown averaging, a number out of range.
      TypeError: leaves that are not floating; no key where one is needed.

    Source: Tian, Al-Ars, Kitsak, Hofstee (2024), arXiv 2404.04616.

    >>> ring = jnp.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    >>> gossip_round(None, jnp.array([0.0, 2.0, 4.0]), ring, averaging="mean").tolist()
    [3.0, 2.0, 1.0]
    """
    n = check_models(params_stacked, where="gossip_round")
    if averaging not in ("mean", "variance_corrected"):
        raise ValueError(f"averaging must be 'mean' or 'variance_corrected', got {averaging!r}")
    if jnp.shape(adjacency) != (n, n):
        raise ValueError(f"gossip_round: adjacency must be ({n}, {n}) for {n} models, got {jnp.shape(adjacency)}")
    check_finite_number("conservative", conservative, low=0.0, high=1.0)
    check_finite_number("eps", eps, low=0.0)
    hears = jnp.asarray(adjacency) != 0
    if neighbors is not None:
        check_finite_number("neighbors", neighbors, low=1)
        check_key(key, where="gossip_round with neighbors")
        hears = _drawn(key, hears, neighbors)
    alone = ~hears.any(axis=1)
    weights = (hears | (alone[:, None] & jnp.eye(n, dtype=bool))).astype(jnp.result_type(float))
    weights = weights / weights.sum(axis=1, keepdims=True)

    def rows(flags: Array, like: Array) -> Array:
        return flags.reshape(n, *[1] * (like.ndim - 1))

    # in the product a weight of 0 would not keep a NaN away from those who do not hear it
    leaves = jax.tree.leaves(params_stacked)
    whole = jnp.stack([jnp.isfinite(x).reshape(n, -1).all(axis=1) for x in leaves]).all(axis=0)
    finite = jax.tree.map(lambda x: jnp.where(rows(whole, x), x, 0), params_stacked)
    corrected = averaging == "variance_corrected"
    mixed = _mixed(weights, finite, None, conservative, eps if corrected else None, ignore)
    spoiled = (hears & ~whole).any(axis=1) | (~whole & (jnp.asarray(conservative) > 0))

    def finish(new: Array, old: Array) -> Array:
        return jnp.where(rows(alone, old), old, jnp.where(rows(spoiled, old), jnp.nan, new))

    return jax.tree.map(finish, mixed, params_stacked)
