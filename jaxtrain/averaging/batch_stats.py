"""BatchNorm's running statistics for parameters that no training step has seen."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxtrain.averaging._base import averaged_params
from jaxtrain.core import Batch, ModelState, OptState, Params, check_leading_axes

# far above any statistic, so that its rounding, not theirs, limits the momentum; a power of two divides exactly
_LARGE = 2.0**20


def recompute_batch_stats(
    update_stats: Callable[[Params, ModelState, Batch], ModelState],
    params: Params,
    model_state: ModelState,
    batches: Batch,
) -> ModelState:
    r"""The running statistics of averaged parameters: the mean over batches of the statistics of each batch.

    A running statistic moves as :math:`r \leftarrow m\,r + (1 - m)\,b`, where :math:`b` is the batch's, so two forward
    passes, from :math:`r = 0` and from a large :math:`r = K`, give :math:`(1 - m)\,b` and :math:`m K + (1 - m)\,b`,
    hence :math:`b`, for any momentum and any model (XLA computes what the passes share once). The result is
    :math:`\frac1B\sum_i b_i`, with whatever variance the layer records (flax: the biased one), up to a relative error
    of about :math:`\epsilon\,m/(1-m)`: 6e-6 for a momentum of 0.99 in float32. Leaves that are not floating, or that
    ``update_stats`` leaves alone (:math:`m = 1`), stay as they are.

    Args:
      update_stats: ``(params, model_state, batch) -> model_state``: a forward pass in training mode.
      params: the parameters, as a rule averaged ones.
      model_state: gives structure and dtypes, and the value of what is not a running statistic.
      batches: batches of one size, stacked on a leading axis.

    Returns:
      The model state with recomputed statistics. Works under ``jit`` and ``vmap``.

    Raises:
      ValueError: there is no batch, or the leading axes disagree.

    Source: Izmailov et al. (2018), arXiv 1803.05407, section 3.2.

    >>> def update_stats(params, state, x):
    ...     return {"mean": 0.9 * state["mean"] + 0.1 * jnp.mean(params * x)}
    >>> x = jnp.array([[1.0, 3.0], [5.0, 7.0]])
    >>> stats = recompute_batch_stats(update_stats, jnp.array(2.0), {"mean": jnp.array(99.0)}, x)
    >>> round(float(stats["mean"]), 5)
    8.0
    """
    count = check_leading_axes(batches, where="recompute_batch_stats", axis_name="batches")
    leaves, structure = jax.tree.flatten(model_state)
    floating = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating)]

    def of_batch(batch: Batch) -> list[jax.Array]:
        def run(running):
            filled = list(leaves)
            for i, value in zip(floating, running, strict=True):
                filled[i] = value
            new = jax.tree.leaves(update_stats(params, structure.unflatten(filled), batch))
            return [new[i] for i in floating]

        start = [leaves[i] for i in floating]
        at_zero = run([jnp.zeros_like(r) for r in start])
        # not a derivative: layers may stop gradients at their statistics (flax's NNX BatchNorm does)
        at_large = run([jnp.full_like(r, _LARGE) for r in start])

        def solve(zero, large, old):
            momentum = (large - zero) / _LARGE
            moves = momentum < 1
            return jnp.where(moves, zero / jnp.where(moves, 1 - momentum, 1), old)

        return [solve(*values) for values in zip(at_zero, at_large, start, strict=True)]

    def add(total, batch):
        return jax.tree.map(jnp.add, total, of_batch(batch)), None

    total, _ = jax.lax.scan(add, [jnp.zeros_like(leaves[i]) for i in floating], batches)
    filled = list(leaves)
    for i, value in zip(floating, total, strict=True):
        filled[i] = (value / count).astype(value.dtype)
    return structure.unflatten(filled)


def averaged_model(
    opt_state: OptState,
    params: Params,
    model_state: ModelState,
    *,
    kind: type | None = None,
    index: int | None = None,
    update_stats: Callable[[Params, ModelState, Batch], ModelState] | None = None,
    batches: Batch | None = None,
) -> tuple[Params, ModelState]:
    """What to evaluate in place of the live model: averaged parameters, and the running statistics that go with them.

    Nothing is swapped in: the training state keeps the live parameters and statistics, whatever becomes of the
    evaluation. :func:`averaged_params`, then :func:`recompute_batch_stats` if ``update_stats`` is given.

    Args:
      opt_state: the state of a chain that ends in an average.
      params: the live parameters.
      model_state: the live model state.
      kind: which average, see :func:`averaged_params`.
      index: which of several of one kind.
      update_stats: ``(params, model_state, batch) -> model_state``, a forward pass in training mode; None for a model
        without running statistics.
      batches: batches of one size, stacked on a leading axis: of training data, as training saw them.

    Returns:
      Parameters and model state to evaluate.

    Raises:
      ValueError: no such average, or only one of ``update_stats`` and ``batches`` is given.

    >>> import optax
    >>> from jaxtrain.averaging import uniform_average
    >>> tx, params = optax.chain(optax.sgd(1.0), uniform_average()), jnp.array(4.0)
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(jnp.array(1.0), state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> update_stats = lambda params, stats, x: 0.9 * stats + 0.1 * jnp.mean(params * x)
    >>> average, stats = averaged_model(state, params, jnp.array(0.0), update_stats=update_stats, batches=jnp.ones((1, 3)))
    >>> float(params), float(average), round(float(stats), 5)
    (2.0, 2.5, 2.5)
    """
    if (update_stats is None) != (batches is None):
        given, missing = ("batches", "update_stats") if update_stats is None else ("update_stats", "batches")
        raise ValueError(f"averaged_model got {given} without {missing}: running statistics need both")
    average = averaged_params(opt_state, params, kind=kind, index=index)
    if update_stats is None:
        return average, model_state
    return average, recompute_batch_stats(update_stats, average, model_state, batches)
