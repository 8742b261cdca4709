"""Gradients at a perturbed point: sharpness-aware minimization and its kin."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Num

from jaxtrain.core import Batch, GradFn, Number, Params, PerExampleObjective, check_finite_number
from jaxtrain.core.tree import safe_norm


def ascent(params: Params, grads: Params, rho: Number, *, adaptive: bool = False, eta: Number = 0.01) -> Params:
    r"""The perturbation of length ``rho`` along which a linear model of the loss rises most.

    .. math:: e = \rho \frac{T^2 g}{\|T g\|_2}, \qquad T = I \text{ (SAM)}, \quad T = |\theta| + \eta \text{ (ASAM)},

    with one norm over all leaves. It is zero where the gradient is zero.

    >>> ascent(jnp.zeros(2), jnp.array([3.0, 4.0]), 0.5).tolist()
    [0.30000001192092896, 0.4000000059604645]
    """
    if adaptive:
        scaled = jax.tree.map(lambda p, g: (jnp.abs(p) + eta) * g, params, grads)
        direction = jax.tree.map(lambda p, s: (jnp.abs(p) + eta) * s, params, scaled)
    else:
        scaled = direction = grads
    norm = safe_norm(scaled)
    factor = jnp.where(norm > 0, rho / jnp.where(norm > 0, norm, 1), 0)
    return jax.tree.map(lambda d, p: (factor * d).astype(p.dtype), direction, params)


def sam(grad_fn: GradFn, *, rho: Number = 0.05, adaptive: bool = False, eta: Number = 0.01) -> GradFn:
    r"""The gradient at the worst point nearby (SAM), or nearby relative to the parameters' size (ASAM).

    .. math:: \nabla L(\theta + e), \qquad e = \rho\,\nabla L(\theta) / \|\nabla L(\theta)\|_2

    Both passes see the same batch and key. Loss, metrics and model state (BatchNorm's running statistics) are those of
    the first pass, at the parameters themselves. Costs 2 calls of ``grad_fn``.

    Args:
      grad_fn: any gradient function, a microbatched one too; the perturbation is then that of the whole batch.
      rho: radius, ≥ 0; 0 gives ``grad_fn``'s gradient.
      adaptive: measure the radius relative to the parameters (ASAM).
      eta: of ASAM.

    Returns:
      A gradient function.

    Raises:
      ValueError: ``rho`` negative or not finite.

    Sources: Foret, Kleiner, Mobahi, Neyshabur (2021), arXiv 2010.01412; Kwon, Kim, Park, Choi (2021), arXiv 2102.11600.

    >>> from jaxtrain.core import Aux
    >>> from jaxtrain.gradients import value_and_grad
    >>> grad_fn = sam(value_and_grad(lambda w, s, x, k: (jnp.sum(w**2) / 2, Aux(s, {}))), rho=0.1)
    >>> (loss, _), grads = grad_fn(jnp.array([3.0, 4.0]), {}, None, jax.random.key(0))
    >>> [round(float(g), 4) for g in grads]  # w + 0.1 w/|w|
    [3.06, 4.08]
    """
    check_finite_number("rho", rho, low=0.0)

    def sharp(params, model_state, batch, key):
        first, grads = grad_fn(params, model_state, batch, key)
        moved = jax.tree.map(jnp.add, params, ascent(params, grads, rho, adaptive=adaptive, eta=eta))
        _, grads = grad_fn(moved, model_state, batch, key)
        return first, grads

    return sharp


def imbsam(
    objective: PerExampleObjective,
    is_tail: Callable[[Batch], Bool[Array, " batch"]],
    *,
    rho: Number = 0.05,
    tail_weight: Number = 2.0,
) -> GradFn:
    r"""Sharpness-aware for examples of rare classes, plain for the others (ImbSAM).

    With :math:`L_h = \frac1B \sum_{i \in \text{head}} \ell_i` and :math:`L_t = \frac{\lambda}{B} \sum_{i \in
    \text{tail}} \ell_i`,

    .. math:: \nabla L_h(\theta) + \nabla L_t(\theta + e), \qquad e = \rho\,\nabla L_t(\theta)/\|\nabla L_t(\theta)\|_2.

    A batch without tail examples gives its plain gradient. The loss is :math:`L_h + L_t` at the parameters; metrics and
    model state are those of that pass. Costs 2 forward and 3 backward passes.

    Args:
      objective: ``(params, model_state, batch, key) -> (losses, Aux)``, the losses of the examples.
      is_tail: ``batch -> (batch,) bool``; for class labels ``lambda batch: tail_classes(counts)[batch["y"]]``.
      rho: radius, ≥ 0.
      tail_weight: :math:`\lambda`, the weight of tail examples; 2 in the released code.

    Returns:
      A gradient function.

    Raises:
      ValueError: a number out of range, or (while tracing) losses and ``is_tail`` of different shapes.

    Source: Zhou, Qu, Xu, Shen (2023), ICCV, "ImbSAM: A Closer Look at Sharpness-Aware Minimization in
    Class-Imbalanced Recognition".

    >>> from jaxtrain.core import Aux
    >>> per_example = lambda w, s, batch, k: (w * batch["x"], Aux(s, {}))
    >>> grad_fn = imbsam(per_example, lambda batch: batch["y"] == 1)
    >>> batch = {"x": jnp.array([1.0, 5.0]), "y": jnp.array([0, 1])}
    >>> (loss, _), grads = grad_fn(jnp.array(1.0), {}, batch, jax.random.key(0))
    >>> float(loss), float(grads)  # (1 + 2 · 5) / 2
    (5.5, 5.5)
    """
    check_finite_number("rho", rho, low=0.0)
    check_finite_number("tail_weight", tail_weight, low=0.0)

    def grad_fn(params, model_state, batch, key):
        tail = is_tail(batch)

        def losses_of(p):
            losses, aux = objective(p, model_state, batch, key)
            if losses.shape != tail.shape:
                raise ValueError(f"imbsam: the losses have shape {losses.shape}, is_tail(batch) has {tail.shape}")
            return losses, aux

        losses, pull_back, aux = jax.vjp(losses_of, params, has_aux=True)
        head_part = jnp.where(tail, 0, 1 / losses.size).astype(losses.dtype)
        tail_part = jnp.where(tail, tail_weight / losses.size, 0).astype(losses.dtype)
        (head_grads,), (tail_grads,) = pull_back(head_part), pull_back(tail_part)
        moved = jax.tree.map(jnp.add, params, ascent(params, tail_grads, rho))
        _, pull_back, _ = jax.vjp(losses_of, moved, has_aux=True)
        (sharp_grads,) = pull_back(tail_part)
        loss = jnp.sum(losses * (head_part + tail_part))
        return (loss, aux), jax.tree.map(jnp.add, head_grads, sharp_grads)

    return grad_fn


def tail_classes(class_counts: Num[Array, " classes"], *, eta: Number = 20) -> Bool[Array, " classes"]:
    """Which classes are rare: fewer than ``eta`` training examples.

    >>> tail_classes(jnp.array([500, 20, 7])).tolist()
    [False, False, True]
    """
    return class_counts < eta
