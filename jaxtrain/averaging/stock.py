"""Model Stock: from a few fine-tuned models and their anchor to the centre of the shell they lie on."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxtrain.averaging._models import check_base, deltas, interpolate
from jaxtrain.averaging.soups import soup
from jaxtrain.core import Number, Params, check_finite_number

_GRANULARITIES = ("leaf", "global")


def model_stock_ratio(cosine: Number, *, num_models: Number) -> Float[Array, "..."]:
    r"""The weight of the mean of k fine-tuned models against their anchor, from the cosine of their angle.

    .. math:: t = \frac{k \cos\theta}{1 + (k - 1)\cos\theta}, \qquad \cos\theta \text{ clipped to } [0, 1]

    Models that point into one direction (1) are averaged, orthogonal ones (0) are noise around the anchor.

    Args:
      cosine: any shape; may be traced.
      num_models: k ≥ 2.

    Returns:
      t in [0, 1], of the shape of the cosine.

    Raises:
      ValueError: fewer than 2 models.

    Source: Jang, Yun, Han 2024, "Model Stock", arXiv 2403.19522, equations 2 and 7.

    >>> model_stock_ratio(jnp.array([0.0, 0.6, 1.0]), num_models=2).tolist()
    [0.0, 0.75, 1.0]
    """
    check_finite_number("num_models", num_models, low=2)
    cosine = jnp.clip(jnp.asarray(cosine), 0, 1)
    return num_models * cosine / (1 + (num_models - 1) * cosine)


def model_stock_cosine(stacked: Params, pretrained: Params, *, granularity: str = "leaf") -> Any:
    r"""The mean cosine between what the models differ by from their anchor, over all pairs of models.

    With :math:`u_i = \delta_i / \|\delta_i\|`, :math:`\delta_i = \theta_i - \theta_0`, the mean over pairs is
    :math:`(\|\sum_i u_i\|^2 - k) / (k (k - 1))`, so that neither pairs nor inner products are formed. Lengths do not
    matter, however small. A model that is its anchor has no direction: its pairs count as orthogonal; where no model
    has moved, the cosine is 1.

    Args:
      stacked: tree with leaves ``(member, ...)``, at least 2 members.
      pretrained: the anchor :math:`\theta_0`.
      granularity: ``"leaf"``: a cosine for every leaf; ``"global"``: one of all leaves together.

    Returns:
      A tree of scalars, in single precision at least; with ``"global"`` one scalar.

    Raises:
      ValueError: fewer than 2 models, trees that differ, an unknown granularity.

    Source: Jang, Yun, Han 2024, arXiv 2403.19522. For more than two models the paper has one common angle: the mean
    over pairs is mergekit's reading.

    >>> models = {"w": jnp.array([[1.0, 0.0], [1.0, 1.0]])}
    >>> round(float(model_stock_cosine(models, {"w": jnp.zeros(2)})["w"]), 4)
    0.7071
    """
    if granularity not in _GRANULARITIES:
        raise ValueError(f"granularity must be one of {_GRANULARITIES}, got {granularity!r}")
    count = check_base(pretrained, stacked, where="model_stock", at_least=2, name="pretrained model")
    leaves, structure = jax.tree.flatten(deltas(stacked, pretrained))
    groups = [[x] for x in leaves] if granularity == "leaf" else [leaves]
    cosines = [_mean_cosine(group, count) for group in groups]
    return structure.unflatten(cosines) if granularity == "leaf" else cosines[0]


def _per_member(x: Array, reduce: Any) -> Float[Array, " member"]:
    return reduce(x, axis=tuple(range(1, x.ndim)))


def _mean_cosine(leaves: list[Array], count: int) -> Float[Array, ""]:
    def expand(factor: Array, x: Array) -> Array:
        return factor.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))

    leaves = [x for x in leaves if x.size]
    if not leaves:
        return jnp.ones(())
    # by their largest entry first: the square of a small difference would underflow
    largest = jnp.max(jnp.stack([_per_member(jnp.abs(x), jnp.max) for x in leaves]), axis=0)
    moved = largest > 0
    scale = jnp.where(moved, largest, 1)
    leaves = [x / expand(scale, x) for x in leaves]
    norms = jnp.sqrt(sum(_per_member(jnp.square(x), jnp.sum) for x in leaves))
    norms = jnp.where(moved, norms, 1)
    total = sum(jnp.sum(jnp.square(jnp.sum(x / expand(norms, x), axis=0))) for x in leaves)
    cosine = jnp.clip((total - jnp.sum(moved)) / (count * (count - 1)), -1, 1)
    return jnp.where(jnp.any(moved), cosine, 1)


def model_stock(stacked: Params, pretrained: Params, *, granularity: str = "leaf") -> Params:
    r"""Moves the mean of fine-tuned models towards the model they came from, by as much as they disagree.

    .. math:: \theta = t\,\frac1k \sum_i \theta_i + (1 - t)\,\theta_0, \qquad t = \frac{k\cos}{1 + (k-1)\cos}

    Fine-tuned models lie on a thin shell around a centre, their noise nearly orthogonal; this is the point nearest to
    that centre in the plane (for k > 2 the affine space) through the models and the anchor, see
    :func:`model_stock_cosine` and :func:`model_stock_ratio`. Every leaf has a t of its own. Two models suffice.
    Where models point away from each other (cosine < 0) the anchor is kept; where none has moved, so is it.
    Cost: three passes over the stack.

    Args:
      stacked: tree with leaves ``(member, ...)``: at least 2 models fine-tuned from ``pretrained`` with other seeds.
      pretrained: the anchor.
      granularity: ``"leaf"``, or ``"global"``: one t for the whole tree.

    Returns:
      The merged model, in the dtypes of the stack.

    Raises:
      ValueError: fewer than 2 models, trees that differ (the path is named), an unknown granularity.
      TypeError: a leaf that is not floating.

    Source: Jang, Yun, Han 2024, "Model Stock: All we need is just a few fine-tuned models", arXiv 2403.19522.

    >>> models = {"w": jnp.array([[2.0, 1.0], [2.0, -1.0]])}  # cosine 3/5, t 3/4, mean (2, 0)
    >>> model_stock(models, {"w": jnp.zeros(2)})["w"].round(5).tolist()
    [1.5, 0.0]
    """
    cosines = model_stock_cosine(stacked, pretrained, granularity=granularity)
    count = jax.tree.leaves(stacked)[0].shape[0]
    mean = soup(stacked)
    if granularity == "global":
        return interpolate(pretrained, mean, model_stock_ratio(cosines, num_models=count))
    return jax.tree.map(
        lambda base, m, c: interpolate(base, m, model_stock_ratio(c, num_models=count)), pretrained, mean, cosines
    )


def periodic_model_stock(
    step: Int[Array, ""] | int, stacked: Params, pretrained: Params, *, every: Number, granularity: str = "leaf"
) -> Params:
    """Puts all replicas on their :func:`model_stock` where ``step`` is a multiple of ``every``; else leaves them.

    For a training loop of replicas that starts them from the merged model again after every epoch. Under ``jit`` the
    merging costs something only in the steps that merge.

    Args:
      step: completed steps; may be traced. Nothing is merged at 0.
      stacked: the replicas, tree with leaves ``(member, ...)``, at least 2.
      pretrained: the anchor, the same throughout.
      every: steps between mergings, ≥ 1.
      granularity: as in :func:`model_stock`.

    Returns:
      The replicas, of the shapes and dtypes of ``stacked``.

    Raises:
      ValueError: as :func:`model_stock`; ``every`` out of range.

    Source: Jang, Yun, Han 2024, arXiv 2403.19522, section 4.2 (periodic merging).

    >>> replicas = jnp.array([[2.0, 1.0], [2.0, -1.0]])
    >>> periodic_model_stock(10, replicas, jnp.zeros(2), every=5).round(5).tolist()
    [[1.5, 0.0], [1.5, 0.0]]
    """
    check_finite_number("every", every, low=1)
    check_base(pretrained, stacked, where="periodic_model_stock", at_least=2, name="pretrained model")
    step = jnp.asarray(step)

    def merged(replicas):
        one = model_stock(replicas, pretrained, granularity=granularity)
        return jax.tree.map(lambda m, x: jnp.broadcast_to(m, x.shape), one, replicas)

    return jax.lax.cond((step > 0) & (step % every == 0), merged, lambda replicas: replicas, stacked)
