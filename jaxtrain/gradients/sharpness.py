"""Gradients at a perturbed point: sharpness-aware minimization and its kin, all by :func:`at_perturbed`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Num

from jaxtrain.core import Batch, GradFn, Number, PerExampleObjective, check_finite_number
from jaxtrain.gradients.perturbation import Scope, ascent, at_perturbed, kernels, projected_ascent


def _steepest(length: Number, **how) -> Callable:
    """Steps of a given length along the direction of steepest ascent."""

    def move(params, offset, grads):
        return jax.tree.map(jnp.add, offset, ascent(params, grads, length, **how))

    return move


def sam(
    grad_fn: GradFn,
    *,
    rho: Number = 0.05,
    adaptive: bool = False,
    eta: Number = 0.01,
    steps: int = 1,
    scope: Scope | None = None,
) -> GradFn:
    r"""The gradient at the worst point nearby (SAM), or nearby relative to the parameters' size (ASAM).

    .. math:: \nabla L(\theta + e), \qquad e = \rho\,\nabla L(\theta) / \|\nabla L(\theta)\|_2

    With several steps each has the length ``rho / steps``, so that the perturbation stays inside the ball. All passes
    see the same batch and key. Loss, metrics and model state (BatchNorm's running statistics) are those of the first
    pass, at the parameters themselves. A zero gradient perturbs nothing. Costs ``steps + 1`` calls of ``grad_fn``.

    Args:
      grad_fn: any gradient function, a microbatched one too; the perturbation is then that of the whole batch.
      rho: radius, ≥ 0; 0 gives ``grad_fn``'s gradient.
      adaptive: measure the radius relative to the parameters (ASAM).
      eta: of ASAM.
      steps: of the ascent, ≥ 1.
      scope: which leaves are perturbed, ``(path, leaf) -> bool``; None: all.

    Returns:
      A gradient function.

    Raises:
      ValueError: ``rho`` negative or not finite, ``steps`` below 1.

    Sources: Foret, Kleiner, Mobahi, Neyshabur (2021), arXiv 2010.01412; Kwon, Kim, Park, Choi (2021), arXiv 2102.11600.

    >>> from jaxtrain.core import Aux
    >>> from jaxtrain.gradients import value_and_grad
    >>> grad_fn = sam(value_and_grad(lambda w, s, x, k: (jnp.sum(w**2) / 2, Aux(s, {}))), rho=0.1)
    >>> (loss, _), grads = grad_fn(jnp.array([3.0, 4.0]), {}, None, jax.random.key(0))
    >>> [round(float(g), 4) for g in grads]  # w + 0.1 w/|w|
    [3.06, 4.08]
    """
    check_finite_number("rho", rho, low=0.0)
    check_finite_number("steps", steps, low=1)
    return at_perturbed(grad_fn, _steepest(rho / steps, adaptive=adaptive, eta=eta, scope=scope), steps=steps)


def awp(grad_fn: GradFn, *, gamma: Number = 1e-2, steps: int = 1, scope: Scope | None = kernels) -> GradFn:
    r"""The gradient at weights perturbed against training, each layer relative to its own norm (AWP).

    .. math:: \nabla L(\theta + v), \qquad v_l = \gamma \|\theta_l\|_F \, \frac{\nabla_l L(\theta)}{\|\nabla_l L(\theta)\|_F}
       \text{ for kernels}, \quad v_l = 0 \text{ for biases and scales}

    :math:`L` is the loss on adversarial examples, which are made at :math:`\theta` beforehand and stay fixed (in the
    batch): cross-entropy on them for AT-AWP, :func:`jaxtrain.losses.trades_loss` for TRADES-AWP. Loss, metrics and model
    state are those of the perturbed pass, as in the released code, where the first one leaves no trace. Costs
    ``steps + 1`` calls of ``grad_fn``; next to ten steps of an attack this is little.

    Args:
      grad_fn: gradient function of the adversarial loss.
      gamma: size of the perturbation relative to each layer, ≥ 0: 1e-2 for AT, 5e-3 for TRADES; 0 gives ``grad_fn``'s
        gradient, also as a warm-up.
      steps: of the ascent, ≥ 1, each of relative size ``gamma / steps``.
      scope: which leaves are perturbed; None: all.

    Returns:
      A gradient function.

    Raises:
      ValueError: ``gamma`` negative or not finite, ``steps`` below 1.

    Source: Wu, Xia, Wang (2020), arXiv 2004.05884.

    >>> from jaxtrain.core import Aux
    >>> from jaxtrain.gradients import value_and_grad
    >>> objective = lambda p, s, x, k: (jnp.sum((x @ p["w"] + p["bias"]) ** 2) / 2, Aux(s, {}))
    >>> params = {"w": jnp.array([[3.0], [4.0]]), "bias": jnp.array([0.0])}
    >>> (loss, _), grads = awp(value_and_grad(objective), gamma=0.1)(params, {}, jnp.eye(2), jax.random.key(0))
    >>> [round(float(g), 4) for g in grads["w"][:, 0]]  # w (1 + 0.1)
    [3.3, 4.4]
    """
    check_finite_number("gamma", gamma, low=0.0)
    check_finite_number("steps", steps, low=1)
    move = _steepest(gamma / steps, per_leaf=True, relative=True, scope=scope)
    return at_perturbed(grad_fn, move, steps=steps, report="last")


def amp(
    grad_fn: GradFn,
    *,
    epsilon: Number = 0.5,
    inner_rate: Number = 1.0,
    inner_steps: int = 1,
    per_leaf: bool = True,
    scope: Scope | None = None,
) -> GradFn:
    r"""The gradient at parameters moved uphill by plain ascent inside a ball (AMP).

    .. math:: \nabla L(\theta + \Delta), \qquad \Delta \leftarrow \Pi_\epsilon(\Delta + \zeta \nabla L(\theta + \Delta))
       \quad N \text{ times from } 0

    Unlike SAM's the step is not normalised: where the gradient is smaller than :math:`\epsilon / \zeta` so is the
    perturbation. A large ``inner_rate`` gives :func:`sam`, per leaf or for all leaves together. Loss, metrics and model
    state are those of the first pass. Weight decay belongs into the optimizer, where the ascent does not see it. Costs
    ``inner_steps + 1`` calls of ``grad_fn``.

    Args:
      grad_fn: any gradient function.
      epsilon: radius of the ball, ≥ 0; 0 gives ``grad_fn``'s gradient.
      inner_rate: :math:`\zeta`, ≥ 0.
      inner_steps: :math:`N` ≥ 1.
      per_leaf: a ball for each leaf, as in the released code; False: one for all, as in the paper.
      scope: which leaves are perturbed; None: all.

    Returns:
      A gradient function.

    Raises:
      ValueError: a number out of range.

    Source: Zheng, Zhang, Mao (2021), arXiv 2010.04925.

    >>> from jaxtrain.core import Aux
    >>> from jaxtrain.gradients import value_and_grad
    >>> grad_fn = value_and_grad(lambda w, s, x, k: (w**2 / 2, Aux(s, {})))
    >>> [float(amp(grad_fn)(jnp.array(w), {}, None, jax.random.key(0))[1]) for w in (0.25, 3.0)]  # min(w, 0.5) is added
    [0.5, 3.5]
    """
    check_finite_number("epsilon", epsilon, low=0.0)
    check_finite_number("inner_rate", inner_rate, low=0.0)
    check_finite_number("inner_steps", inner_steps, low=1)

    def move(params, offset, grads):
        return projected_ascent(params, offset, grads, epsilon, inner_rate, per_leaf=per_leaf, scope=scope)

    return at_perturbed(grad_fn, move, steps=inner_steps)


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
    model state are those of that pass. Costs 2 forward and, compiled, 3 backward passes.

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

    def tail_grads(params, model_state, batch, key):
        """The gradient of the tail; that of the head rides along, and is dropped by the compiler where nobody reads it."""
        tail = is_tail(batch)
        losses, pull_back, aux = jax.vjp(lambda p: objective(p, model_state, batch, key), params, has_aux=True)
        if losses.shape != tail.shape:
            raise ValueError(f"imbsam: the losses have shape {losses.shape}, is_tail(batch) has {tail.shape}")
        head_part = jnp.where(tail, 0, 1 / losses.size).astype(losses.dtype)
        tail_part = jnp.where(tail, tail_weight / losses.size, 0).astype(losses.dtype)
        loss = jnp.sum(losses * (head_part + tail_part))
        return (loss, aux, pull_back(head_part)[0]), pull_back(tail_part)[0]

    def grad_fn(params, model_state, batch, key):
        sharp = at_perturbed(tail_grads, _steepest(rho))
        (loss, aux, head_grads), sharp_grads = sharp(params, model_state, batch, key)
        return (loss, aux), jax.tree.map(jnp.add, head_grads, sharp_grads)

    return grad_fn


def tail_classes(class_counts: Num[Array, " classes"], *, eta: Number = 20) -> Bool[Array, " classes"]:
    """Which classes are rare: fewer than ``eta`` training examples.

    >>> tail_classes(jnp.array([500, 20, 7])).tolist()
    [False, False, True]
    """
    return class_counts < eta
