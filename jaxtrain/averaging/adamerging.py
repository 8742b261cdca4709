"""AdaMerging: the coefficients of task vectors, learnt from unlabelled data by the entropy of the answers."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxtrain.averaging.tasks import check_vectors, merge_task_vectors
from jaxtrain.core import Batch, Key, Number, Params, Scalar, check_finite_number, check_key, check_leading_axes

_GRANULARITIES = ("layer", "task")
ApplyFn = Callable[[Params, Batch], Float[Array, "batch classes"]]


def clip_coefficients(coeffs: Any) -> Any:
    """Coefficients clipped to [0, 1]; the gradient is 1 inside and at the ends, 0 outside.

    >>> clip_coefficients(jnp.array([-0.5, 0.25, 1.5])).tolist()
    [0.0, 0.25, 1.0]
    """

    def clip(c: Number) -> Array:
        c = jnp.asarray(c)
        # not jnp.clip, whose gradient at the ends is one half
        return jnp.where((c >= 0) & (c <= 1), c, jax.lax.stop_gradient(jnp.clip(c, 0, 1)))

    return jax.tree.map(clip, coeffs)


def adamerging_loss(
    coeffs: Any, vectors: Params, base: Params, apply_fns: ApplyFn | Sequence[ApplyFn], batches: Sequence[Batch]
) -> Scalar:
    r"""The entropy of the merged model's answers, a mean over each task's batch, summed over tasks.

    .. math:: \sum_k \frac1{|B_k|} \sum_{x \in B_k} H\bigl(\operatorname{softmax} f_k(\theta(\lambda), x)\bigr),
        \qquad \theta(\lambda) = \theta_0 + \sum_k \operatorname{clip}(\lambda_k, 0, 1)\, \tau_k

    Args:
      coeffs: :math:`\lambda`, as in :func:`merge_task_vectors`.
      vectors: tree with leaves ``(member, ...)``, from :func:`task_vectors` or, for AdaMerging++,
        :func:`ties_trim_elect`.
      base: :math:`\theta_0`.
      apply_fns: ``(params, inputs) -> logits`` for every task, with that task's own frozen head inside; or one for all.
      batches: unlabelled inputs of every task.

    Returns:
      The loss in nats, differentiable with respect to the coefficients.

    Raises:
      ValueError: trees that differ, numbers of functions, batches and task vectors that disagree.

    Source: Yang et al. 2023, "AdaMerging: Adaptive Model Merging for Multi-Task Learning", arXiv 2310.02575.

    >>> def apply(params, x):
    ...     return x[:, None] * params
    >>> vectors, base = jnp.array([[1.0, 0.0]]), jnp.zeros(2)
    >>> round(float(adamerging_loss(0.0, vectors, base, apply, [jnp.array([1.0, 2.0])])), 4)  # log 2
    0.6931
    """
    count = check_vectors(vectors, base, where="adamerging_loss")
    fns = _functions(apply_fns, count, where="adamerging_loss")
    if len(batches) != count:
        raise ValueError(f"adamerging_loss: {len(batches)} batches for {count} task vectors; give one for each")
    params = merge_task_vectors(vectors, base, clip_coefficients(coeffs))
    return sum(jnp.mean(_entropy(fn(params, batch))) for fn, batch in zip(fns, batches, strict=True))


def _entropy(logits: Float[Array, "batch classes"]) -> Float[Array, " batch"]:
    log_p = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), axis=-1)
    # where log p is -inf, p log p is 0; the inner where keeps its gradient finite
    finite = jnp.isfinite(log_p)
    safe = jnp.where(finite, log_p, 0)
    return -jnp.sum(jnp.where(finite, jnp.exp(safe) * safe, 0), axis=-1)


def _functions(apply_fns: ApplyFn | Sequence[ApplyFn], count: int, *, where: str) -> list[ApplyFn]:
    fns = [apply_fns] * count if callable(apply_fns) else list(apply_fns)
    if len(fns) != count:
        raise ValueError(f"{where}: {len(fns)} apply_fns for {count} task vectors; give one for each, or one for all")
    return fns


def adamerging_fit(
    key: Key,
    vectors: Params,
    base: Params,
    apply_fns: ApplyFn | Sequence[ApplyFn],
    unlabeled: Sequence[Batch],
    *,
    granularity: str = "layer",
    init: Number = 0.3,
    learning_rate: Number = 1e-3,
    steps: int = 500,
    batch_size: int | None = 16,
) -> tuple[Any, Float[Array, " steps"]]:
    r"""Learns the coefficients of task vectors by Adam on :func:`adamerging_loss`.

    Merge with what it returns: ``merge_task_vectors(vectors, base, coeffs)``. No labels are used; the parameters of
    the models stay as they are, so only ``member`` numbers are learnt for a layer. Runs under ``jit`` and ``vmap``.
    Cost: a step is a merge of all vectors, and a forward and a backward pass of every task's batch.

    Args:
      key: one typed key; draws the batches.
      vectors: tree with leaves ``(member, ...)``; for AdaMerging++ those of :func:`ties_trim_elect`.
      base: the model that they were fine-tuned from.
      apply_fns: as in :func:`adamerging_loss`.
      unlabeled: for every task a tree of inputs with one leading axis: test inputs, or a part of them.
      granularity: ``"layer"``: ``(member,)`` coefficients for every leaf, as in the released code; ``"task"``: for the
        whole model.
      init: all coefficients at the start, in [0, 1]; may be traced.
      learning_rate: of Adam (0.9, 0.999); may be traced.
      steps: how many, ≥ 1.
      batch_size: inputs of every task in a step, drawn without replacement; None: all.

    Returns:
      ``(coeffs, losses)``: the coefficients, clipped to [0, 1]: a tree like the base of ``(member,)``, or with
      ``"task"`` one ``(member,)``; and the loss before every step.

    Raises:
      ValueError: trees that differ, numbers of tasks that disagree, an empty set of inputs, a number out of range.
      TypeError: an untyped key.

    Source: Yang, Wang, Shen, Liu, Guo, Wang, Tao 2023, arXiv 2310.02575. The released code draws two batches of 16 in
    a step and adds their losses.

    >>> def apply(params, x):
    ...     return x[:, None] * params
    >>> vectors, base = jnp.array([[4.0, 0.0], [0.0, 1.0]]), jnp.zeros(2)
    >>> inputs = [jnp.linspace(1.0, 2.0, 20)] * 2
    >>> fit = jax.jit(lambda key: adamerging_fit(
    ...     key, vectors, base, apply, inputs, granularity="task", learning_rate=0.1, steps=30))
    >>> coeffs, losses = fit(jax.random.key(0))
    >>> coeffs.round(2).tolist(), bool(losses[-1] < losses[0])  # the first answer is made sure of
    ([1.0, 0.0], True)
    """
    check_key(key, where="adamerging_fit")
    count = check_vectors(vectors, base, where="adamerging_fit")
    fns = _functions(apply_fns, count, where="adamerging_fit")
    if granularity not in _GRANULARITIES:
        raise ValueError(f"granularity must be one of {_GRANULARITIES}, got {granularity!r}")
    if len(unlabeled) != count:
        raise ValueError(
            f"adamerging_fit: inputs of {len(unlabeled)} tasks for {count} task vectors; give one for each"
        )
    sizes = [check_leading_axes(x, where="adamerging_fit", axis_name="unlabeled inputs") for x in unlabeled]
    check_finite_number("init", init, low=0.0, high=1.0)
    check_finite_number("learning_rate", learning_rate, low=0.0)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, or None for all inputs, got {batch_size}")

    def start(leaf: Array) -> Array:
        return jnp.full(count, init, jnp.promote_types(leaf.dtype, jnp.float32))

    coeffs = jax.tree.map(start, base if granularity == "layer" else jax.tree.leaves(base)[0])
    tx = optax.adam(learning_rate)

    def draw(key: Key, inputs: Batch, size: int) -> Batch:
        if batch_size is None or batch_size >= size:
            return inputs
        chosen = jax.random.choice(key, size, (batch_size,), replace=False)
        return jax.tree.map(lambda x: x[chosen], inputs)

    def step(carry: tuple, key: Key) -> tuple:
        coeffs, state = carry
        keys = jax.random.split(key, count)
        batches = [draw(k, x, n) for k, x, n in zip(keys, unlabeled, sizes, strict=True)]
        loss, grads = jax.value_and_grad(adamerging_loss)(coeffs, vectors, base, fns, batches)
        updates, state = tx.update(grads, state, coeffs)
        return (optax.apply_updates(coeffs, updates), state), loss

    (coeffs, _), losses = jax.lax.scan(step, (coeffs, tx.init(coeffs)), jax.random.split(key, steps))
    return clip_coefficients(coeffs), losses
