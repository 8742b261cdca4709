"""Load balancing of a mixture of experts: within every micro-batch, or over the global batch."""

from collections.abc import Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import widened


def _check_mask(where: str, expert_mask: Array, valid: Array | None) -> None:
    if expert_mask.ndim != 2 or expert_mask.shape[1] < 1:
        raise ValueError(f"{where}: expert_mask must be (tokens, experts), got {expert_mask.shape}; flatten the tokens")
    if valid is not None and valid.shape != expert_mask.shape[:1]:
        raise ValueError(f"{where}: where {valid.shape} does not name the tokens of expert_mask {expert_mask.shape}")


def expert_frequency(
    expert_mask: Shaped[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    axis_name: Hashable | tuple[Hashable, ...] | None = None,
) -> Float[Array, " experts"]:
    r"""The share of the routed tokens that each expert takes: :math:`f_i = c_i / \sum_j c_j`, counted exactly.

    Inside ``jax.shard_map`` (or ``vmap``) with ``axis_name`` the counts :math:`c_i` of all devices are added first: one
    sum of ``experts`` numbers, right also where devices hold unequal numbers of valid tokens. Under ``jit`` with
    sharded arrays nothing has to be said.

    Args:
      expert_mask: ``(tokens, experts)``, 1 where a token goes to an expert (top-k: k ones in a row), else 0.
      where: ``(tokens,)``, False for padding.
      axis_name: mesh axes over which the batch is spread.

    Returns:
      ``(experts,)`` in float32 at least, of sum 1; 0 where no token is valid. It has no gradient.

    Raises:
      ValueError: shapes that disagree.

    Source: Qiu, Huang, Zheng et al. (2025), arXiv 2501.11873.

    >>> expert_frequency(jnp.array([[1, 0], [1, 0], [0, 1], [1, 0]])).tolist()
    [0.75, 0.25]
    """
    _check_mask("expert_frequency", expert_mask, where)
    # bfloat16 cannot count beyond 256
    mask = jax.lax.stop_gradient(expert_mask.astype(jnp.promote_types(expert_mask.dtype, jnp.float32)))
    counts = jnp.sum(mask if where is None else jnp.where(where[:, None], mask, 0), axis=0)
    if axis_name is not None:
        counts = jax.lax.psum(counts, axis_name)
    total = jnp.sum(counts)
    return counts / jnp.where(total > 0, total, 1)


class FrequencyBuffer(NamedTuple):
    """The frequencies of the micro-steps since the last optimizer step: their mean, and of how many tokens it is."""

    frequency: Float[Array, " experts"]
    count: Float[Array, ""]


def frequency_buffer(num_experts: int) -> FrequencyBuffer:
    """An empty buffer, for the beginning of every optimizer step.

    >>> frequency_buffer(2).frequency.tolist()
    [0.0, 0.0]
    """
    if num_experts < 1:
        raise ValueError(f"num_experts must be at least 1, got {num_experts}")
    return FrequencyBuffer(jnp.zeros(num_experts), jnp.zeros(()))


def accumulate_frequency(
    buffer: FrequencyBuffer, frequency: Float[Array, "..."], count: Number = 1.0
) -> FrequencyBuffer:
    r"""Adds a micro-step of gradient accumulation: :math:`\bar f \leftarrow \bar f + (f - \bar f)\, c / (C + c)`.

    Every micro-step is then balanced by what the buffer holds so far (itself included); begin the next optimizer step
    with a new :func:`frequency_buffer`.

    Args:
      buffer: the state.
      frequency: :func:`expert_frequency` of the micro-step.
      count: its number of tokens, > 0; may be traced. Equal micro-steps may leave it at 1.

    Returns:
      The buffer; its ``frequency`` goes to :func:`load_balance_loss`.

    Raises:
      ValueError: another number of experts, or a count out of range.

    Source: Qiu, Huang, Zheng et al. (2025), arXiv 2501.11873.

    >>> buffer = accumulate_frequency(frequency_buffer(2), jnp.array([1.0, 0.0]))
    >>> accumulate_frequency(buffer, jnp.array([0.0, 1.0]), 3.0).frequency.tolist()
    [0.25, 0.75]
    """
    check_finite_number("count", count, low=float(np.finfo(np.float32).tiny))
    if frequency.shape != buffer.frequency.shape:
        raise ValueError(
            f"accumulate_frequency: frequency {frequency.shape} for a buffer of {buffer.frequency.shape[0]} experts"
        )
    total = buffer.count + count
    return FrequencyBuffer(buffer.frequency + (frequency - buffer.frequency) * (count / total), total)


def load_balance_loss(
    router_probs: Float[Array, "..."],
    expert_mask: Shaped[Array, "..."],
    *,
    num_groups: int = 1,
    axis_name: Hashable | tuple[Hashable, ...] | None = None,
    frequency: Float[Array, "..."] | None = None,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, " tokens"]:
    r"""The load balancing loss of a mixture of experts, one term for each token; its mean is the loss.

    .. math:: \ell_t = N_E \sum_i \bar f_i\, p_{t,i}, \qquad \tfrac1T \sum_t \ell_t = N_E \sum_i \bar f_i\, \bar p_i

    with :math:`\bar f_i` the share of the tokens that went to expert :math:`i`, which has no gradient. The tokens are
    coupled through :math:`\bar f` alone, which decides what is balanced: the micro-batch of one device, and then every
    few sequences must use all experts alike (what most code does, without noticing), or the global batch, which leaves
    experts free to specialise. The mean is 1 for even routing and at most :math:`N_E`; it may fall below 1 where
    :math:`f` and :math:`p` disagree.

    Under ``jit`` with sharded tokens this is the global batch. Inside ``jax.shard_map`` give ``axis_name``: the
    frequencies are added up, and the mean over devices of the local means (and of their gradients) is that of the whole.

    Args:
      router_probs: ``(tokens, experts)``, probabilities of the router.
      expert_mask: ``(tokens, experts)``, 1 where a token goes to an expert (k ones in a row), else 0.
      num_groups: balances this many consecutive groups of tokens each by itself: the micro-batch loss, to compare.
      axis_name: mesh axes over which the global batch is spread.
      frequency: :math:`\bar f` from elsewhere (gradient accumulation: :func:`accumulate_frequency`).
      where: ``(tokens,)``, False for padding, which is not counted and gets 0; divide by the number of valid tokens.

    Returns:
      ``(tokens,)`` in the dtype of the probabilities.

    Raises:
      ValueError: shapes that disagree, tokens that do not divide into groups, or two sources of frequencies.

    Source: Qiu, Huang, Zheng et al. (2025), arXiv 2501.11873.

    >>> mask = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])  # two micro-batches, one expert each
    >>> [float(load_balance_loss(mask, mask, num_groups=g).mean()) for g in (1, 2)]
    [1.0, 2.0]
    """
    name = "load_balance_loss"
    _check_mask(name, expert_mask, where)
    if router_probs.shape != expert_mask.shape:
        raise ValueError(f"{name}: router_probs {router_probs.shape} and expert_mask {expert_mask.shape} disagree")
    tokens, experts = router_probs.shape
    if num_groups < 1 or tokens % num_groups:
        raise ValueError(f"{name}: {tokens} tokens do not divide into num_groups={num_groups}")
    if (num_groups > 1) + (axis_name is not None) + (frequency is not None) > 1:
        raise ValueError(f"{name}: num_groups, axis_name and frequency exclude each other; give one")
    if frequency is not None and frequency.shape != (experts,):
        raise ValueError(f"{name}: frequency {frequency.shape} for {experts} experts")
    valid = jnp.ones(tokens, bool) if where is None else where
    p = widened(router_probs).reshape(num_groups, -1, experts)
    if frequency is None:
        masks, valids = expert_mask.reshape(p.shape), valid.reshape(num_groups, -1)
        f = jax.vmap(lambda m, w: expert_frequency(m, where=w, axis_name=axis_name))(masks, valids)
    else:
        f = jax.lax.stop_gradient(widened(frequency))[None]
    loss = experts * jnp.einsum("gte,ge->gt", p, f.astype(p.dtype), precision="highest").reshape(tokens)
    return jnp.where(valid, loss, 0).astype(router_probs.dtype)


def expert_specialization(
    frequency_by_domain: Float[Array, "..."], *, weights: Float[Array, "..."] | None = None
) -> Float[Array, ""]:
    r"""How much the expert says about the domain: the mutual information of both, in nats.

    .. math:: H\Big(\sum_d w_d f_d\Big) - \sum_d w_d\, H(f_d)

    This is the Jensen-Shannon divergence of the rows: 0 where all domains use experts alike, at most the logarithm of
    the smaller of the two numbers.

    Args:
      frequency_by_domain: ``(domains, experts)``, :func:`expert_frequency` of each domain.
      weights: ``(domains,)`` shares of the domains, of sum 1; default: equal.

    Returns:
      A scalar, ≥ 0 up to rounding.

    Raises:
      ValueError: shapes that disagree.

    Source: the mutual information; Qiu, Huang, Zheng et al. (2025), arXiv 2501.11873, show the frequencies themselves.

    >>> round(float(expert_specialization(jnp.eye(4))), 4)  # log 4
    1.3863
    """
    f = widened(jnp.asarray(frequency_by_domain))
    if f.ndim != 2:
        raise ValueError(f"expert_specialization: frequencies must be (domains, experts), got {f.shape}")
    w = jnp.full(len(f), 1 / len(f), f.dtype) if weights is None else jnp.asarray(weights, f.dtype)
    if w.shape != f.shape[:1]:
        raise ValueError(f"expert_specialization: weights {w.shape} for {len(f)} domains")
    entropy = jnp.sum(jax.scipy.special.entr(f), axis=1)
    return jnp.sum(jax.scipy.special.entr(w @ f)) - w @ entropy
