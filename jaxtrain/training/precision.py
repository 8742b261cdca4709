"""Which numbers are computed in which precision, and loss scaling for those that are too small for it."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from jaxtrain.core import Aux, Batch, GradFn, Key, ModelState, Number, Objective, Params, check_finite_number


def _is_floating(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


def _cast(tree: Any, dtype: DTypeLike) -> Any:
    return jax.tree.map(lambda x: x.astype(dtype) if _is_floating(x) else x, tree)


@dataclasses.dataclass(frozen=True)
class Policy:
    """Three dtypes; integers, booleans and keys are never touched.

    Attributes:
      param: of the parameters that are kept and updated (the masters), and so of their gradients and optimizer state.
      compute: of the parameters and the batch inside the objective.
      output: of the loss and the metrics.

    >>> policy = Policy(compute=jnp.bfloat16)
    >>> policy.cast_to_compute({"w": jnp.ones(2), "n": jnp.arange(2)})["w"].dtype.name
    'bfloat16'
    """

    param: DTypeLike = jnp.float32
    compute: DTypeLike = jnp.float32
    output: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            dtype = getattr(self, field.name)
            if not jnp.issubdtype(dtype, jnp.floating):
                raise TypeError(f"Policy.{field.name} must be a floating dtype, got {dtype!r}")

    def cast_to_param(self, tree: Any) -> Any:
        """Floating arrays of a tree in the dtype of the masters."""
        return _cast(tree, self.param)

    def cast_to_compute(self, tree: Any) -> Any:
        """Floating arrays of a tree in the dtype of the computation."""
        return _cast(tree, self.compute)

    def cast_to_output(self, tree: Any) -> Any:
        """Floating arrays of a tree in the dtype of loss and metrics."""
        return _cast(tree, self.output)


def mixed_precision(objective: Objective, policy: Policy) -> Objective:
    r"""Computes an objective in another precision than the one its parameters are kept in.

    With :math:`c` and :math:`o` the casts to ``policy.compute`` and ``policy.output``:
    :math:`L(\theta, b) = o(\ell(c(\theta), c(b)))`. The cast lies inside what is differentiated, so the gradient arrives
    in ``policy.param``: the optimizer adds small updates to float32 masters, where bfloat16 would lose every update
    below 1/256 of a weight.

    The model state is given as it is and comes back in the dtypes it came in: running statistics stay in float32, and
    a step never changes the types of its state (which would compile it again).

    Args:
      objective: ``(params, model_state, batch, key) -> (loss, Aux)``; one of the losses of examples works as well.
      policy: the three dtypes.

    Returns:
      An objective of the same signature.

    Raises:
      TypeError: while tracing, a floating parameter that is not in ``policy.param``, with its path.

    Source: Micikevicius et al., 2018, Mixed Precision Training, arXiv 1710.03740.

    >>> objective = lambda w, s, x, k: (jnp.mean((w * x) ** 2), Aux(s, {}))
    >>> half = mixed_precision(objective, Policy(compute=jnp.bfloat16))
    >>> w, x = jnp.array([1.0, 2.0]), jnp.array([0.5, 1.0])
    >>> grads, _ = jax.grad(half, has_aux=True)(w, {}, x, jax.random.key(0))
    >>> grads.dtype.name, grads.tolist()
    ('float32', [0.25, 2.0])
    """

    def wrapped(params: Params, model_state: ModelState, batch: Batch, key: Key):
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            if _is_floating(leaf) and leaf.dtype != jnp.dtype(policy.param):
                raise TypeError(
                    f"mixed_precision: the parameter {jax.tree_util.keystr(path) or 'given'} is {leaf.dtype}, the policy "
                    f"keeps parameters in {jnp.dtype(policy.param)}; make the state from policy.cast_to_param(params)"
                )
        loss, aux = objective(policy.cast_to_compute(params), model_state, policy.cast_to_compute(batch), key)
        state = jax.tree.map(
            lambda new, old: new.astype(old.dtype) if _is_floating(new) else new, aux.model_state, model_state
        )
        return policy.cast_to_output(loss), Aux(state, policy.cast_to_output(aux.metrics))

    return wrapped


class LossScaled(NamedTuple):
    """The model state of a run with loss scaling.

    Attributes:
      model_state: the model's own.
      scale: what the loss is multiplied with, float32.
      good_steps: finite gradients since the scale last changed, int32.
    """

    model_state: ModelState
    scale: Float[Array, "..."]
    good_steps: Int[Array, "..."]


def loss_scaled(model_state: ModelState, initial: Number = 2.0**15) -> LossScaled:
    """The model state before the first step of a run with :func:`loss_scaling`.

    >>> float(loss_scaled({}).scale)
    32768.0
    """
    check_finite_number("initial", initial, low=2.0**-126)
    return LossScaled(model_state, jnp.asarray(initial, jnp.float32), jnp.zeros((), jnp.int32))


def loss_scaling(
    objective: Objective,
    *,
    growth_interval: Number = 2000,
    growth: Number = 2.0,
    backoff: Number = 0.5,
    min_scale: Number = 1.0,
    max_scale: Number = 2.0**24,
) -> GradFn:
    r"""The gradient of an objective through a scaled loss, for float16, whose smallest numbers lie near 6e-8.

    .. math:: g = \tfrac1s \nabla(s\,L), \qquad s \leftarrow \begin{cases}
        \max(s \cdot \text{backoff}, s_{\min}) & g \text{ not finite} \\
        \min(s \cdot \text{growth}, s_{\max}) & \text{growth\_interval finite ones since the last change} \\
        s & \text{else.} \end{cases}

    The scale lives in the model state, ``LossScaled(model_state, scale, good_steps)``: start with
    ``create_state(params, tx, key, loss_scaled(model_state))``. With ``growth`` and ``backoff`` powers of two, scaling
    changes no bit of a gradient that neither overflows nor underflows. The loss that is returned is not scaled;
    the metrics gain ``loss_scale``, the one that was used.

    An overflow gives gradients that are not finite, as they came: wrap the whole chain in ``optax.apply_if_finite``,
    which skips them. (It gives in after ``max_consecutive_errors`` of them; from scale ``s`` down to 1 it takes
    :math:`\log_2 s` steps, so 20 is enough for the default.) The model state of such a step is dropped: an overflow in
    the forward pass would stay in the running statistics for ever.
    Inside :func:`jaxtrain.gradients.microbatch` every part counts as a step. bfloat16 has float32's range and needs
    none of this.

    Args:
      objective: ``(params, model_state, batch, key) -> (loss, Aux)``, its loss in float32, as from
        :func:`mixed_precision`.
      growth_interval: finite gradients before the scale grows.
      growth: factor of growth, ≥ 1.
      backoff: factor after an overflow, in (0, 1].
      min_scale: the scale never falls below.
      max_scale: the scale never grows above.

    Returns:
      ``(params, LossScaled, batch, key) -> ((loss, Aux(LossScaled, metrics)), gradients)``.

    Raises:
      TypeError: while tracing, where the model state is not a :class:`LossScaled`.
      ValueError: a number out of its range.

    Source: Micikevicius et al., 2018, Mixed Precision Training, arXiv 1710.03740, section 3.2.

    >>> grad_fn = loss_scaling(lambda w, s, x, k: (jnp.sum(w * x), Aux(s, {})), growth_interval=2)
    >>> state = loss_scaled({}, 4.0)
    >>> for x in (1.0, 1.0, jnp.inf, 1.0):
    ...     (loss, aux), grads = grad_fn(jnp.ones(()), state, jnp.asarray(x), jax.random.key(0))
    ...     state = aux.model_state
    ...     print(float(grads), float(state.scale))
    1.0 4.0
    1.0 8.0
    inf 4.0
    1.0 4.0
    """
    check_finite_number("growth", growth, low=1.0)
    check_finite_number("backoff", backoff, low=2.0**-24, high=1.0)
    check_finite_number("growth_interval", growth_interval, low=1)
    check_finite_number("min_scale", min_scale, low=2.0**-126)
    check_finite_number("max_scale", max_scale, low=2.0**-126)

    def scaled(params: Params, state: LossScaled, batch: Batch, key: Key):
        loss, aux = objective(params, state.model_state, batch, key)
        return loss * state.scale.astype(loss.dtype), (loss, aux)

    differentiated = jax.value_and_grad(scaled, has_aux=True)

    def grad_fn(params: Params, model_state: ModelState, batch: Batch, key: Key):
        if not isinstance(model_state, LossScaled):
            raise TypeError(
                f"loss_scaling needs a LossScaled model state, got {type(model_state).__name__}: "
                "make the state with create_state(params, tx, key, loss_scaled(model_state))"
            )
        (_, (loss, aux)), grads = differentiated(params, model_state, batch, key)
        scale = model_state.scale
        grads = jax.tree.map(lambda g: (g / scale.astype(g.dtype)).astype(g.dtype), grads)
        finite = jnp.stack([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(grads)] or [jnp.array(True)]).all()
        counted = jnp.where(finite, model_state.good_steps + 1, 0)
        grows = counted >= growth_interval
        new_scale = jnp.where(
            finite,
            jnp.where(grows, jnp.minimum(scale * growth, jnp.maximum(max_scale, scale)), scale),
            jnp.maximum(scale * backoff, jnp.minimum(min_scale, scale)),
        )
        kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), aux.model_state, model_state.model_state)
        state = LossScaled(kept, new_scale.astype(scale.dtype), jnp.where(grows, 0, counted).astype(jnp.int32))
        return (loss, Aux(state, {**aux.metrics, "loss_scale": scale})), grads

    return grad_fn
