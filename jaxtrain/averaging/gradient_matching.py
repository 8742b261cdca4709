"""Merging by curvature: Fisher-weighted averages, and task vectors corrected for the mismatch of gradients."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxtrain.averaging._models import (
    along_members,
    check_alike,
    check_base,
    check_models,
    deltas,
    member_weights,
    wide,
)
from jaxtrain.core import Batch, Key, Number, Params, Scalar, check_finite_number, check_key, check_leading_axes


def diagonal_fisher(
    logits_fn: Callable[[Params, Batch], Float[Array, "batch classes"]],
    params: Params,
    inputs: Batch,
    labels: Int[Array, " batch"] | None = None,
    *,
    key: Key | None = None,
    microbatch_size: int = 32,
) -> Params:
    r"""The diagonal of the Fisher information of a classifier, a mean over examples.

    .. math:: F = \frac1n \sum_i \operatorname{E}_y \bigl(\nabla_\theta \log p_\theta(y \mid x_i)\bigr)^2

    With ``labels`` the expectation is taken at them (empirical Fisher); else with ``key`` at one label drawn from the
    model for each example (unbiased); else over all classes (exact). Times n it is the curvature of the summed loss.

    Args:
      logits_fn: ``(params, inputs) -> logits``; an example's logits must not depend on the others.
      params: where.
      inputs: tree with one leading axis of examples.
      labels: ``(batch,)`` classes.
      key: one typed key.
      microbatch_size: examples whose gradients are held at once. Memory: that many gradients, in the exact case times
        the number of classes.

    Returns:
      A tree like ``params``, ≥ 0, in single precision at least.

    Raises:
      ValueError: no example, labels of another length, both labels and key.
      TypeError: an untyped key.

    Source: Matena & Raffel 2021, "Merging Models with Fisher-Weighted Averaging", arXiv 2111.09832; on the empirical
    Fisher: Kunstner, Balles, Hennig 2019, arXiv 1905.12558.

    >>> def logits(w, x):
    ...     return jnp.stack([x * w, jnp.zeros_like(x)], axis=-1)
    >>> round(float(diagonal_fisher(logits, jnp.array(0.0), jnp.array([1.0, 3.0]))), 5)  # p (1 - p) x²: (1 + 9) / 8
    1.25
    """
    n = check_leading_axes(inputs, where="diagonal_fisher", axis_name="inputs")
    if labels is not None and key is not None:
        raise ValueError("diagonal_fisher: labels and key exclude each other: the labels are given, or drawn")
    if labels is not None and jnp.shape(labels) != (n,):
        raise ValueError(f"diagonal_fisher: labels has shape {jnp.shape(labels)} for {n} inputs; give ({n},)")
    if key is not None:
        check_key(key, where="diagonal_fisher")
    if microbatch_size < 1:
        raise ValueError(f"microbatch_size must be at least 1, got {microbatch_size}")

    def log_p(params: Params, x: Batch) -> Float[Array, " classes"]:
        logits = logits_fn(params, jax.tree.map(lambda leaf: leaf[None], x))[0]
        return jax.nn.log_softmax(wide(logits))

    def of_example(example: tuple) -> Params:
        x, label, key = example
        if label is None and key is None:
            # sqrt(p) log p, p held: the squares of its derivatives add up to the expectation
            root = jnp.exp(jax.lax.stop_gradient(log_p(params, x)) / 2)
            rows = jax.jacrev(lambda p: root * log_p(p, x))(params)
            return jax.tree.map(lambda g: jnp.sum(jnp.square(wide(g)), axis=0), rows)
        if label is None:
            label = jax.random.categorical(key, log_p(params, x))
        return jax.tree.map(lambda g: jnp.square(wide(g)), jax.grad(lambda p: log_p(p, x)[label])(params))

    def of_batch(batch: tuple) -> Params:
        return jax.tree.map(lambda f: jnp.sum(f, axis=0), jax.vmap(of_example)(batch))

    examples = (inputs, labels, None if key is None else jax.random.split(key, n))
    size = min(microbatch_size, n)
    whole = n // size * size
    batches = jax.tree.map(lambda x: x[:whole].reshape(whole // size, size, *x.shape[1:]), examples)
    zero = jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), jnp.promote_types(p.dtype, jnp.float32)), params)
    total, _ = jax.lax.scan(lambda sums, b: (jax.tree.map(jnp.add, sums, of_batch(b)), None), zero, batches)
    if whole < n:
        total = jax.tree.map(jnp.add, total, of_batch(jax.tree.map(lambda x: x[whole:], examples)))
    return jax.tree.map(lambda f: f / n, total)


def fisher_average(stacked: Params, fishers: Params, weights: Any = 1.0, *, prior: Number = 0.0) -> Params:
    r"""The mean of models in which every parameter counts by its curvature.

    .. math:: \theta = \frac{\sum_k \alpha_k (F_k + \delta)\,\theta_k}{\sum_k \alpha_k (F_k + \delta)}

    The mode of the product of Gaussians around the models. Where the denominator is 0, that is where no model knows
    anything, it is the weighted mean, which is the limit of a vanishing :math:`\delta`.

    Args:
      stacked: tree with leaves ``(member, ...)``.
      fishers: a tree of the same shapes, ≥ 0: diagonals of each model, as of :func:`diagonal_fisher`.
      weights: :math:`\alpha`, one number or ``(member,)``, ≥ 0; may be traced.
      prior: :math:`\delta` ≥ 0; may be traced.

    Returns:
      The tree without the leading axis, in the dtypes of the stack.

    Raises:
      ValueError: trees that differ (the path is named), weights of another length, a number out of range.

    Source: Matena & Raffel 2021, arXiv 2111.09832.

    >>> fisher_average(jnp.array([[1.0, 0.0], [5.0, 4.0]]), jnp.array([[3.0, 0.0], [1.0, 0.0]])).tolist()
    [2.0, 2.0]
    """
    count = check_models(stacked, where="fisher_average")
    _check_shapes(stacked, fishers, where="fisher_average: the Fishers against the models")
    check_finite_number("weights", weights, low=0.0)
    check_finite_number("prior", prior, low=0.0)
    weights = member_weights(weights, count, where="fisher_average")

    def of_leaf(x: Array, fisher: Array) -> Array:
        w = along_members(weights, x)
        precision = w * (fisher.astype(w.dtype) + prior)
        precision = jnp.where(jnp.sum(precision, axis=0) > 0, precision, w)
        return (jnp.sum(precision * wide(x), axis=0) / jnp.sum(precision, axis=0)).astype(x.dtype)

    return jax.tree.map(of_leaf, stacked, fishers)


def merge_gradient_matching(
    stacked: Params, base: Params, hessians: Params, base_hessian: Params, *, alphas: Any = 1.0, prior: Number = 0.0
) -> Params:
    r"""Task arithmetic whose task vectors are weighted by curvature, so that their gradients match.

    .. math:: \theta = \theta_0 + \sum_k \alpha_k \frac{H_0 + H_k}{\bar H}\,(\theta_k - \theta_0),
        \qquad \bar H = H_0 + \sum_k \alpha_k H_k

    for every entry, with diagonal Hessians: :math:`H_0` of what holds the model at the base (data or prior), :math:`H_k`
    of the loss of task k alone, and :math:`\theta_k` trained on both. Where these losses are quadratic with diagonal
    Hessians it is the minimum of :math:`\ell_0 + \sum_k \alpha_k \ell_k`, exactly; with :math:`\alpha_k = -1`, for a base
    that has seen task k already, it is the model without that task.

    Limits: :math:`\bar H = H_0 + H_k` gives :func:`task_arithmetic`, so equal Hessians do where the alphas sum to 1, but
    not else; :math:`H_0 = 0` with alphas that sum to 1 gives :func:`fisher_average`.

    Where :math:`\bar H = 0` and so are all curvatures, the factor is 1, the limit of a vanishing prior. Where
    :math:`\bar H` is not positive otherwise (a removal that takes away more curvature than there is), the joint loss has
    no minimum, and the entry stays at the base.

    Args:
      stacked: tree with leaves ``(member, ...)``: models fine-tuned from ``base``.
      base: :math:`\theta_0`.
      hessians: a tree of the shapes of ``stacked``: sums over each task's data, as n times :func:`diagonal_fisher`.
      base_hessian: a tree of the shapes of ``base``; zeros and a prior where the pretraining data are missing.
      alphas: one number or ``(member,)``; may be traced.
      prior: added to ``base_hessian``, ≥ 0: weight decay times its data count, or damping; may be traced.

    Returns:
      The merged model, in the dtypes of the base.

    Raises:
      ValueError: trees that differ (the path is named), alphas of another length, a negative prior.

    Source: Daheim, Möllenhoff, Ponti, Gurevych, Khan 2023, "Model Merging by Uncertainty-Based Gradient Matching",
    arXiv 2310.12808, equation 12.

    >>> models, base = jnp.array([[1.0], [2.0]]), jnp.zeros(1)
    >>> merge_gradient_matching(models, base, jnp.array([[3.0], [1.0]]), jnp.ones(1)).tolist()  # (4 + 2·2) / 5
    [1.600000023841858]
    """
    count = check_base(base, stacked, where="merge_gradient_matching")
    _check_shapes(stacked, hessians, where="merge_gradient_matching: the Hessians against the models")
    _check_shapes(base, base_hessian, where="merge_gradient_matching: the base's Hessian against the base")
    check_finite_number("alphas", alphas)
    check_finite_number("prior", prior, low=0.0)
    alphas = member_weights(alphas, count, where="merge_gradient_matching", name="alphas")

    def of_leaf(b: Array, delta: Array, h: Array, h0: Array) -> Array:
        a = along_members(alphas, delta)
        h, h0 = h.astype(delta.dtype), h0.astype(delta.dtype) + prior
        joint = h0 + jnp.sum(a * h, axis=0)
        flat = (h0 == 0) & jnp.all(h == 0, axis=0)
        factor = jnp.where(joint > 0, (h0 + h) / jnp.where(joint > 0, joint, 1), flat.astype(delta.dtype))
        # a NaN among the curvatures is not hidden
        factor = jnp.where(jnp.isnan(joint), joint, factor)
        return (wide(b) + jnp.sum(a * factor * delta, axis=0)).astype(b.dtype)

    return jax.tree.map(of_leaf, base, deltas(stacked, base), hessians, base_hessian)


def gradient_mismatch(loss_fns: Sequence[Callable[[Params], Scalar]], stacked: Params, merged: Params) -> Params:
    r"""How the gradient of each task's loss at the merged model differs from that at the task's own model.

    .. math:: \Delta_k = \nabla \ell_k(\theta) - \nabla \ell_k(\theta_k)

    What a merger by weighted averaging ignores. With an isotropic :math:`H_0`, the minimum of the joint loss minus task
    arithmetic is :math:`-\sum_k \alpha_k \Delta_k / H_0` with :math:`\theta` that minimum.

    Args:
      loss_fns: ``params -> loss`` for every task, over its data.
      stacked: tree with leaves ``(member, ...)``: each task's model.
      merged: :math:`\theta`.

    Returns:
      Tree with leaves ``(member, ...)``. Its norm over all leaves is the usual measure.

    Raises:
      ValueError: trees that differ, a number of losses that is not the number of models.

    Source: Daheim et al. 2023, arXiv 2310.12808, equations 6 and 7.

    >>> losses = [lambda w: w**2, lambda w: 2 * w**2]
    >>> gradient_mismatch(losses, jnp.array([1.0, 0.0]), jnp.array(0.5)).tolist()
    [-1.0, 2.0]
    """
    count = check_base(merged, stacked, where="gradient_mismatch", name="merged model")
    if len(loss_fns) != count:
        raise ValueError(f"gradient_mismatch: {len(loss_fns)} losses for {count} models; give one for each")
    differences = [
        jax.tree.map(jnp.subtract, jax.grad(fn)(merged), jax.grad(fn)(jax.tree.map(lambda x, i=i: x[i], stacked)))
        for i, fn in enumerate(loss_fns)
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *differences)


def _check_shapes(expected: Params, got: Params, *, where: str) -> None:
    """Curvature is often kept wider than the parameters: only shapes have to agree."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.float32), (expected, got))
    check_alike(*shapes, where=where)
