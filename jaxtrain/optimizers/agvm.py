"""AGVM: learning rates of modules, set so that their gradients are equally noisy."""

from collections.abc import Callable, Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, Params, Scalar, check_decays, check_finite_number
from jaxtrain.core.numerics import accumulator_dtype, run_if
from jaxtrain.core.tree import cosine
from jaxtrain.optimizers._labels import Labels, is_masked, label_leaves


class AgvmState(NamedTuple):
    """State of :func:`scale_by_agvm`: completed updates, and for each label the multiplier of its updates."""

    count: Int[Array, ""]
    multipliers: dict[Hashable, Float[Array, ""]]


def module_gradient_variance(
    grads_a: Params,
    grads_b: Params,
    labels: Labels,
    *,
    second_moment: Params | None = None,
    b2: Number = 0.999,
    eps: Number = 1e-8,
) -> dict[Hashable, Scalar]:
    r"""How much the gradients of two halves of a batch disagree, for each group of parameters.

    .. math:: \phi = 1 - \frac{\langle g_a, g_b \rangle}{\|g_a\|\,\|g_b\|}

    over all parameters of a group together. For independent halves whose gradients are :math:`g + \epsilon` this is about
    :math:`\frac{\mathbb{E}\|\epsilon\|^2}{\|g\|^2 + \mathbb{E}\|\epsilon\|^2}`. With Adam's second moment :math:`v` it is taken of
    :math:`g / (\sqrt{\beta_2 v + (1 - \beta_2)\,g^2} + \epsilon)` instead of g.

    Args:
      grads_a, grads_b: mean gradients of the two halves.
      labels: a tree of hashable labels like the gradients, or like a prefix of them, or a function of the gradients.
      second_moment: :math:`v`, a tree like the gradients; None: SGD.
      b2: :math:`\beta_2` in [0, 1].
      eps: :math:`\epsilon` ≥ 0.

    Returns:
      A number in [0, 2] for each label; 1 where a gradient vanishes.

    Source: Liu et al. (2022), arXiv 2210.11078.

    >>> a, b = {"x": jnp.array([1.0, 0.0]), "y": jnp.array([2.0])}, {"x": jnp.array([0.0, 3.0]), "y": jnp.array([4.0])}
    >>> {name: float(phi) for name, phi in module_gradient_variance(a, b, {"x": "trunk", "y": "head"}).items()}
    {'head': 0.0, 'trunk': 1.0}
    """
    check_finite_number("b2", b2, low=0.0, high=1.0)
    check_finite_number("eps", eps, low=0.0)

    def scaled(g: Array, v: Array | None) -> Array:
        g = g.astype(accumulator_dtype(g))
        return g if v is None else g / (jnp.sqrt(b2 * v + (1 - b2) * g**2) + eps)

    def leaves(tree):
        return jax.tree.leaves(tree, is_leaf=is_masked)

    names = leaves(label_leaves(labels, grads_a))
    moments = [None] * len(names) if second_moment is None else leaves(second_moment)
    # the halves may hold what is masked here
    rows = [row for row in zip(names, leaves(grads_a), leaves(grads_b), moments, strict=True) if not is_masked(row[0])]
    groups: dict[Hashable, list[tuple[Array, Array]]] = {name: [] for name in sorted({row[0] for row in rows}, key=str)}
    for name, a, b, v in rows:
        groups[name].append((scaled(a, v), scaled(b, v)))
    return {name: 1 - cosine(*map(list, zip(*pairs, strict=True))) for name, pairs in groups.items()}


def agvm_scale(
    variances: dict[Hashable, Scalar],
    reference: Hashable,
    *,
    low: Number = 0.5,
    high: Number = 10.0,
    eps: Number = 1e-6,
) -> dict[Hashable, Scalar]:
    r"""Multipliers of learning rates that bring noisy groups down and quiet ones up.

    .. math:: \mu_i = \sqrt{\operatorname{clip}\Big(\frac{\phi_0 + \epsilon}{\phi_i + \epsilon},\; \text{low},\;
       \text{high}\Big)}

    Args:
      variances: :math:`\phi_i`, see :func:`module_gradient_variance`.
      reference: the label whose variance is :math:`\phi_0`, as a rule that of the backbone; its multiplier is 1.
      low, high: limits of the ratio, before the root.
      eps: :math:`\epsilon`.

    Raises:
      ValueError: the reference is none of the labels.

    Source: Liu et al. (2022), arXiv 2210.11078.

    >>> scales = agvm_scale({"trunk": jnp.array(0.4), "head": jnp.array(0.1)}, "trunk")
    >>> {name: round(float(scale), 3) for name, scale in scales.items()}
    {'trunk': 1.0, 'head': 2.0}
    """
    if reference not in variances:
        raise ValueError(f"the reference {reference!r} is none of the labels {list(variances)}")
    first = variances[reference] + eps
    return {name: jnp.sqrt(jnp.clip(first / (phi + eps), low, high)) for name, phi in variances.items()}


def scale_by_agvm(
    labels: Labels,
    reference: Hashable,
    *,
    decay: Number = 0.97,
    interval: Number = 5,
    start_step: Number = 500,
    low: Number = 0.5,
    high: Number = 10.0,
    b2: Number = 0.999,
    eps: Number = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales the updates of each module so that the noise of the modules' gradients becomes alike (AGVM).

    With :math:`\mu` of :func:`agvm_scale` from the gradients of two halves of the batch, at every ``interval``-th count
    from ``start_step`` on:

    .. math:: \bar\mu_i \leftarrow \beta\,\bar\mu_i + (1 - \beta)\,\mu_i, \qquad u_i \leftarrow \bar\mu_i\,u_i

    with :math:`\bar\mu_i = 1` at first; the multipliers of the last measurement act at every step. It comes last in a
    chain, or after weight decay where that is to be scaled too, and after clipping.

    The update wants the extra argument ``half_grads=(g_a, g_b)``, mean gradients of the two halves of the batch, whose mean
    is the gradient: on a mesh those of two halves of the devices. Halves that are not numbers leave the multipliers as
    they are. With ``second_moment=`` (Adam's v before this update) the noise is that of preconditioned gradients.

    Args:
      labels: a tree of hashable labels like the parameters, or like a prefix of them, or a function of the parameters.
      reference: the label of the module that keeps its rate, as a rule the backbone.
      decay: :math:`\beta` in [0, 1].
      interval: updates between measurements, ≥ 1.
      start_step: the first count at which is measured, ≥ 0; after the warm-up of the learning rate.
      low, high: limits of the ratio of variances.
      b2, eps: of Adam, for ``second_moment``.

    Returns:
      A transformation with :class:`AgvmState`: one number for each label.

    Raises:
      ValueError: a number out of range, a reference that no parameter has; from its update: no ``half_grads``.

    Source: Liu et al. (2022), arXiv 2210.11078.

    >>> tx = scale_by_agvm({"x": "trunk", "y": "head"}, "trunk", decay=0.0, interval=1, start_step=0)
    >>> a, b = {"x": jnp.array([3.0, 4.0]), "y": jnp.array([2.0])}, {"x": jnp.array([3.0, -4.0]), "y": jnp.array([2.0])}
    >>> updates, _ = tx.update(a, tx.init(a), half_grads=(a, b))  # φ of the trunk 1 + 7/25, of the head 0: √10
    >>> round(float(updates["y"][0]), 3)
    6.325
    """
    check_finite_number("decay", decay, low=0.0, high=1.0)
    check_finite_number("interval", interval, low=1)
    check_finite_number("start_step", start_step, low=0)
    check_finite_number("low", low, low=0.0)
    check_finite_number("high", high, low=0.0)

    def init(params):
        found = set(jax.tree.leaves(label_leaves(labels, params)))
        if found and reference not in found:
            raise ValueError(f"the reference {reference!r} is none of the labels {sorted(map(str, found))}")
        return AgvmState(jnp.zeros((), jnp.int32), {name: jnp.ones((), jnp.float32) for name in sorted(found, key=str)})

    def update(updates, state, params=None, *, half_grads=None, second_moment=None, **extra_args):
        del params, extra_args
        if half_grads is None:
            raise ValueError(
                "scale_by_agvm needs half_grads=(a, b), the gradients of the two halves of the batch: give them to "
                "make_step by extra_args"
            )
        due = (state.count >= start_step) & (state.count % interval == 0)
        names = label_leaves(labels, updates)

        def measure(old):
            variances = module_gradient_variance(*half_grads, names, second_moment=second_moment, b2=b2, eps=eps)
            new = agvm_scale(variances, reference, low=low, high=high)
            return {
                name: jnp.where(jnp.isfinite(new[name]), decay * m + (1 - decay) * new[name], m).astype(m.dtype)
                for name, m in old.items()
            }

        multipliers = run_if(due, measure, state.multipliers) if state.multipliers else state.multipliers
        updates = jax.tree.map(
            lambda name, u: u if is_masked(name) else (multipliers[name] * u).astype(u.dtype),
            names,
            updates,
            is_leaf=is_masked,
        )
        return updates, AgvmState(optax.safe_increment(state.count), multipliers)

    return optax.GradientTransformationExtraArgs(init, update)


def agvm(
    learning_rate: optax.ScalarOrSchedule,
    labels: Labels | Callable,
    reference: Hashable,
    momentum: Number = 0.9,
    *,
    decay: Number = 0.97,
    interval: Number = 5,
    start_step: Number = 500,
) -> optax.GradientTransformationExtraArgs:
    r"""SGD with momentum and AGVM's rates of modules: :func:`scale_by_agvm` behind ``optax.trace``.

    Args:
      learning_rate: a number or a schedule.
      labels, reference, decay, interval, start_step: see :func:`scale_by_agvm`.
      momentum: in [0, 1).

    Returns:
      A transformation that wants the extra argument ``half_grads``.

    Raises:
      ValueError: a number out of range.

    Source: Liu et al. (2022), arXiv 2210.11078.

    >>> tx = agvm(0.1, lambda params: jax.tree.map(lambda p: "all", params), "all")
    >>> updates, _ = tx.update(jnp.array(2.0), tx.init(jnp.array(0.0)), half_grads=(jnp.array(1.0), jnp.array(3.0)))
    >>> round(float(updates), 4)
    -0.2
    """
    check_decays(momentum=momentum)
    return optax.chain(
        optax.trace(momentum),
        scale_by_agvm(labels, reference, decay=decay, interval=interval, start_step=start_step),
        optax.scale_by_learning_rate(learning_rate),
    )
