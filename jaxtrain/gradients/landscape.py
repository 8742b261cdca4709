"""The loss along a direction in the space of weights, with directions that do not depend on the weights' scale."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.core import Key, Params, check_key, check_same_structure
from jaxtrain.core.tree import safe_norm
from jaxtrain.gradients.perturbation import Scope, kernels


def filter_normalised_direction(
    key: Key, params: Params, *, scope: Scope | None = kernels, filter_axis: int = -1
) -> Params:
    r"""A random direction each filter of which is as long as the filter of the weights.

    .. math:: d_{l,j} \leftarrow \frac{d_{l,j}}{\|d_{l,j}\|_F} \|\theta_{l,j}\|_F, \qquad d \sim N(0, I)

    A network that is rescaled from layer to layer computes the same, and so does its landscape along such a direction.

    Args:
      key: one typed key.
      params: the weights :math:`\theta`.
      scope: which leaves get a direction, the others zeros; by default kernels, as biases have no filters.
      filter_axis: axis of a leaf that counts the filters: the last (output features) in JAX's layers. A leaf with fewer
        than two axes is one filter.

    Returns:
      A direction with the structure, shapes and dtypes of ``params``.

    Source: Li, Xu, Taylor, Studer, Goldstein (2018), arXiv 1712.09913.

    >>> params = {"kernel": jnp.array([[3.0, 0.0], [4.0, 2.0]]), "bias": jnp.ones(2)}
    >>> direction = filter_normalised_direction(jax.random.key(0), params)
    >>> [round(float(x), 4) for x in jnp.linalg.norm(direction["kernel"], axis=0)], direction["bias"].tolist()
    ([5.0, 2.0], [0.0, 0.0])
    """
    check_key(key, where="filter_normalised_direction")
    structure = jax.tree.structure(params)
    keys = structure.unflatten(jax.random.split(key, max(structure.num_leaves, 1))[: structure.num_leaves])

    def of_filter(noise, weight):
        norm = safe_norm(noise)
        return noise * (safe_norm(weight) / jnp.where(norm > 0, norm, 1)).astype(noise.dtype)

    def of_leaf(path: Any, p: Array, k: Key) -> Array:
        if scope is not None and not scope(path, p):
            return jnp.zeros_like(p)
        each = of_filter if p.ndim < 2 else jax.vmap(of_filter, in_axes=filter_axis, out_axes=filter_axis)
        return each(jax.random.normal(k, p.shape, p.dtype), p)

    return jax.tree_util.tree_map_with_path(of_leaf, params, keys)


def weight_loss_landscape(
    loss: Callable[[Params], Float[Array, ""]],
    params: Params,
    direction: Params,
    alphas: Float[Array, " points"],
) -> Float[Array, " points"]:
    r"""The loss at points on a line through the weights: :math:`g(\alpha) = L(\theta + \alpha d)`.

    For the landscape of adversarial training the loss makes its adversarial examples anew at each point. Costs one loss
    a point, one after the other.

    Args:
      loss: ``params -> scalar``.
      params: :math:`\theta`.
      direction: :math:`d`, shaped like it, such as a :func:`filter_normalised_direction`.
      alphas: ``(points,)`` where.

    Returns:
      ``(points,)`` losses.

    Raises:
      ValueError: ``params`` and ``direction`` differ in structure, shapes or dtypes.

    Source: as used by Wu, Xia, Wang (2020), arXiv 2004.05884.

    >>> weight_loss_landscape(lambda w: w @ w, jnp.ones(2), jnp.array([1.0, 0.0]), jnp.array([-1.0, 0.0, 1.0])).tolist()
    [1.0, 2.0, 5.0]
    """
    check_same_structure(params, direction, where="weight_loss_landscape")

    def at(alpha):
        return loss(jax.tree.map(lambda p, d: p + alpha.astype(p.dtype) * d, params, direction))

    return jax.lax.map(at, jnp.asarray(alphas))
