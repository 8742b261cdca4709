"""FASSL: self-supervised clusters that may be as unequal as the data, and then more weight for the rare ones."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import widened

_TINY = float(np.finfo(np.float32).tiny)


def _check_frequencies(where: str, freq: Array, clusters: int | None = None) -> None:
    if freq.ndim != 1 or clusters not in (None, len(freq)):
        raise ValueError(f"{where}: freq of shape {freq.shape}; give one frequency for each prototype")
    if not isinstance(freq, jax.core.Tracer) and not np.all(np.asarray(freq) > 0):
        raise ValueError(f"{where}: frequencies must be above 0, got {np.asarray(freq).min()}")


def _scores(where: str, z: Array, prototypes: Array, freq: Array | None, temperature: Number) -> Array:
    """z c / T - log f, in float32 at least."""
    if prototypes.ndim != 2 or z.ndim < 1 or z.shape[-1] != prototypes.shape[-1]:
        raise ValueError(f"{where}: embeddings {z.shape} and prototypes {prototypes.shape} disagree in their last axis")
    check_finite_number("temperature", temperature, low=_TINY)
    scores = jnp.matmul(widened(z), widened(prototypes).T, precision="highest") / temperature
    if freq is None:
        return scores
    _check_frequencies(where, freq, len(prototypes))
    return scores - jnp.log(jnp.maximum(widened(jax.lax.stop_gradient(freq)), _TINY))


def prototype_assignment(
    z: Float[Array, "*batch d"],
    prototypes: Float[Array, "..."],
    *,
    freq: Float[Array, "..."] | None = None,
    temperature: Number = 0.1,
) -> Float[Array, "*batch k"]:
    r"""How much of an embedding belongs to each prototype: :math:`\mathrm{softmax}_k(z \cdot c_k / T - \log f_k)`.

    No equal shares are asked for, so that clusters may be as unequal as the data. With the frequencies :math:`f` the
    assignment is what it would be were all prototypes equally common; without them the last term is 0.

    Args:
      z: ``(..., d)`` embeddings, of length 1 as the method has them.
      prototypes: ``(k, d)``, of length 1 likewise.
      freq: ``(k,)`` frequencies of the prototypes, > 0; constants.
      temperature: :math:`T` > 0; may be traced.

    Returns:
      ``(..., k)`` distributions, in the dtype of ``z``.

    Raises:
      ValueError: shapes that disagree, or a number out of range.

    Source: Lin, Chen, Wang (2023), arXiv 2309.04723.

    >>> p = prototype_assignment(jnp.array([[1.0, 0.0]]), jnp.eye(2), temperature=1.0)
    >>> [round(float(x), 4) for x in p[0]]  # e / (e + 1)
    [0.7311, 0.2689]
    """
    return jax.nn.softmax(_scores("prototype_assignment", z, prototypes, freq, temperature)).astype(z.dtype)


def estimate_prototype_frequency(
    assignments: Float[Array, "batch k"], ema: Float[Array, "..."] | None, *, decay: Number = 0.99
) -> Float[Array, " k"]:
    r"""The share of the data that belongs to each prototype, averaged along the run.

    .. math:: f \leftarrow \gamma f + (1 - \gamma) \frac1B \sum_i q_i

    Args:
      assignments: ``(batch, k)``, from :func:`prototype_assignment` without frequencies.
      ema: ``(k,)`` the frequencies before, or None at first, when they become those of the batch.
      decay: :math:`\gamma` in [0, 1]; may be traced.

    Returns:
      ``(k,)`` frequencies without gradient, in float32 at least.

    Raises:
      ValueError: shapes that disagree, or a decay out of range.

    Source: Lin, Chen, Wang (2023), arXiv 2309.04723.

    >>> first = estimate_prototype_frequency(jnp.array([[1.0, 0.0], [0.5, 0.5]]), None)
    >>> first.tolist(), estimate_prototype_frequency(jnp.array([[0.25, 0.75]]), first, decay=0.5).tolist()
    ([0.75, 0.25], [0.5, 0.5])
    """
    check_finite_number("decay", decay, low=0.0, high=1.0)
    if assignments.ndim != 2 or (ema is not None and ema.shape != assignments.shape[1:]):
        before = None if ema is None else ema.shape
        raise ValueError(
            f"estimate_prototype_frequency: assignments {assignments.shape} and ema {before}; give (batch, k) and (k,)"
        )
    now = jnp.mean(widened(assignments), axis=0)
    return jax.lax.stop_gradient(now if ema is None else decay * widened(ema) + (1 - decay) * now)


def frequency_aware_swap_loss(
    z1: Float[Array, "*batch d"],
    z2: Float[Array, "..."],
    prototypes: Float[Array, "..."],
    *,
    freq: Float[Array, "..."] | None = None,
    temperature: Number = 0.1,
    teacher: tuple[Array, Array] | None = None,
) -> Float[Array, "*batch"]:
    r"""Each view predicts to which prototypes the other one belongs.

    .. math:: -\sum_k q_k(z_2) \log p_k(z_1) - \sum_k q_k(z_1) \log p_k(z_2)

    with :func:`prototype_assignment` for both :math:`p` and :math:`q`, the targets :math:`q` constants and without equal
    shares. With ``freq`` both are those of equally common prototypes, so that views that agree are at rest. Alone it is
    least where everything belongs to one prototype: weight the entropy of the mean assignment against that.

    Args:
      z1: ``(..., d)`` embeddings of one view, of length 1.
      z2: ``(..., d)`` of the other view.
      prototypes: ``(k, d)``, of length 1.
      freq: ``(k,)`` frequencies for the second stage, > 0, or None for the first.
      temperature: :math:`T` > 0; may be traced.
      teacher: both embeddings by a momentum encoder, from which the targets are taken; None: from ``z1`` and ``z2``.

    Returns:
      ``(...)``, one loss for each example, in the dtype of ``z1``.

    Raises:
      ValueError: shapes that disagree, or a number out of range.

    Source: Lin, Chen, Wang (2023), arXiv 2309.04723; Caron et al. (2020), arXiv 2006.09882.

    >>> z = jnp.array([[0.0, 0.0]])  # two times log 2
    >>> round(float(frequency_aware_swap_loss(z, z, jnp.eye(2))[0]), 4)
    1.3863
    """
    where = "frequency_aware_swap_loss"
    teacher = (z1, z2) if teacher is None else teacher
    if any(z.shape != z1.shape for z in (z2, *teacher)):
        raise ValueError(f"{where}: embeddings {[z.shape for z in (z1, z2, *teacher)]} disagree")
    students = [jax.nn.log_softmax(_scores(where, z, prototypes, freq, temperature)) for z in (z1, z2)]
    # stopped as a whole: a temperature that is learned must not move the targets either
    targets = [jax.lax.stop_gradient(jax.nn.softmax(_scores(where, z, prototypes, freq, temperature))) for z in teacher]
    loss = -sum(jnp.sum(q * log_p, axis=-1) for q, log_p in zip(targets[::-1], students, strict=True))
    return loss.astype(z1.dtype)


def rebalanced_weights(freq: Float[Array, "..."], *, beta: Number) -> Float[Array, " k"]:
    r"""Weights of the prototypes that lift the rare ones: :math:`w_k \propto f_k^{-\beta}` with :math:`\sum_k f_k w_k = 1`.

    An example weighs ``assignments @ weights``, which is 1 on average over data whose mean assignment is ``freq``.

    Args:
      freq: ``(k,)`` frequencies, > 0.
      beta: 0 weighs all alike, 1 gives every prototype the same sum of weights; may be traced.

    Returns:
      ``(k,)``, in float32 at least.

    Raises:
      ValueError: frequencies that are no vector or not positive, or beta that is not finite.

    Source: Lin, Chen, Wang (2023), arXiv 2309.04723.

    >>> [round(float(w), 4) for w in rebalanced_weights(jnp.array([0.75, 0.25]), beta=1.0)]
    [0.6667, 2.0]
    """
    check_finite_number("beta", beta)
    _check_frequencies("rebalanced_weights", freq)
    log_f = jnp.log(jnp.maximum(widened(freq), _TINY))
    # of logarithms: a power of a very rare prototype would overflow
    log_f = log_f - jax.nn.logsumexp(log_f)
    return jnp.exp(-beta * log_f - jax.nn.logsumexp((1 - beta) * log_f))
