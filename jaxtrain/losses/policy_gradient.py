"""Policy gradients for sequences: rewards of several parts, REINFORCE and PPO's clipped ratio."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import widened

_TINY = float(np.finfo(np.float32).tiny)


def _check_alike(caller: str, first: str, x: Array, /, **others: Array) -> None:
    for name, other in others.items():
        if other.shape != x.shape:
            raise ValueError(f"{caller}: {first} {x.shape} and {name} {other.shape} disagree")


def sequence_policy_gradient_loss(
    token_logprobs: Float[Array, "batch tokens"],
    reward: Float[Array, "..."],
    *,
    where: Bool[Array, "..."] | None = None,
    baseline: Float[Array, "..."] | Number = 0.0,
) -> Float[Array, " batch"]:
    r"""REINFORCE: a sequence's log-probability times what it earned beyond a baseline.

    .. math:: \ell = -(R - b) \sum_t \log \pi(a_t | s_t).

    Rewards and baseline are constants. Averaged over sequences from the policy its gradient is that of the expected
    reward, whatever the baseline, as long as that does not depend on the sequence's own actions.

    Args:
      token_logprobs: ``(batch, tokens)`` log-probabilities of what was chosen.
      reward: ``(batch,)`` of whole sequences.
      where: ``(batch, tokens)`` which tokens the policy chose; default all.
      baseline: ``(batch,)`` or a number.

    Returns:
      ``(batch,)``, sums over tokens and not means, in the dtype of the log-probabilities.

    Raises:
      ValueError: shapes that disagree.

    Source: Juneja et al. (2023), arXiv 2310.18338; Williams (1992).

    >>> logp = jnp.log(jnp.array([[0.5, 0.25]]))
    >>> round(float(sequence_policy_gradient_loss(logp, jnp.array([3.0]), baseline=1.0)[0]), 4)  # 2 log 8
    4.1589
    """
    if reward.shape != token_logprobs.shape[:1]:
        raise ValueError(
            f"sequence_policy_gradient_loss: reward {reward.shape} for {token_logprobs.shape[0]} sequences"
        )
    log_p = widened(token_logprobs)
    if where is not None:
        _check_alike("sequence_policy_gradient_loss", "token_logprobs", token_logprobs, where=where)
        log_p = jnp.where(where, log_p, 0.0)
    gain = jax.lax.stop_gradient(widened(reward) - baseline)
    return (-gain * jnp.sum(log_p, axis=1)).astype(token_logprobs.dtype)


def ppo_clip_loss(
    logp: Float[Array, "*batch"], logp_old: Float[Array, "..."], advantage: Float[Array, "..."], *, clip: Number = 0.2
) -> Float[Array, "*batch"]:
    r"""PPO's loss: the ratio of policies times the advantage, without reward for going further than the clip.

    .. math:: \ell = -\min\big(\rho A,\; \operatorname{clip}(\rho, 1 - c, 1 + c)\, A\big), \qquad
       \rho = \frac{\pi}{\pi_{old}}.

    Args:
      logp: ``(...)`` log-probabilities of the chosen tokens.
      logp_old: ``(...)`` the same under the policy that chose; constants.
      advantage: ``(...)``, constants; usually of mean 0 and variance 1 in a batch.
      clip: c in [0, 1]; may be traced.

    Returns:
      ``(...)``, one loss for each token, in the dtype of ``logp``. Where the ratio overflows, it is cut off at e^30.

    Raises:
      ValueError: shapes that disagree; a clip out of range.

    Source: Schulman et al. (2017), arXiv 1707.06347; used by arXiv 2310.18338.

    >>> logp = jnp.log(jnp.array([0.9, 0.9]))
    >>> loss = ppo_clip_loss(logp, jnp.log(jnp.array([0.6, 0.6])), jnp.array([1.0, -1.0]))
    >>> [round(float(x), 4) for x in loss]
    [-1.2, 1.5]
    """
    check_finite_number("clip", clip, low=0.0, high=1.0)
    _check_alike("ppo_clip_loss", "logp", logp, logp_old=logp_old, advantage=advantage)
    ratio = jnp.exp(jnp.minimum(widened(logp) - jax.lax.stop_gradient(widened(logp_old)), 30.0))
    gain = jax.lax.stop_gradient(widened(advantage))
    # a where instead of a minimum, whose gradient would be halved at equality: inside of the clip both are the same
    outside = jnp.where(gain >= 0, ratio > 1 + clip, ratio < 1 - clip)
    kept = jnp.where(outside, jnp.clip(jax.lax.stop_gradient(ratio), 1 - clip, 1 + clip), ratio)
    return (-kept * gain).astype(logp.dtype)


def kl_shaped_reward(
    reward: Float[Array, " batch"],
    logp: Float[Array, "batch tokens"],
    logp_ref: Float[Array, "..."],
    *,
    beta: Number,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "batch tokens"]:
    r"""A reward for each token: the price of leaving a reference policy, and at the last token what the sequence earned.

    .. math:: r_t = -\beta \log\frac{\pi(a_t)}{\pi_{ref}(a_t)} + R\, [t = T].

    Args:
      reward: ``(batch,)`` of whole sequences.
      logp: ``(batch, tokens)`` log-probabilities of the chosen tokens.
      logp_ref: ``(batch, tokens)`` the same under the reference.
      beta: the price, ≥ 0; may be traced.
      where: ``(batch, tokens)`` which tokens count; the last of them earns the reward. Default all.

    Returns:
      ``(batch, tokens)``, constants, in the dtype of ``logp``; 0 where tokens do not count.

    Raises:
      ValueError: shapes that disagree; a price out of range.

    Source: Juneja et al. (2023), arXiv 2310.18338; Ziegler et al. (2019), arXiv 1909.08593.

    >>> logp, ref = jnp.array([[-1.0, -1.0]]), jnp.array([[-1.0, -3.0]])
    >>> kl_shaped_reward(jnp.array([1.0]), logp, ref, beta=0.25).tolist()
    [[0.0, 0.5]]
    """
    check_finite_number("beta", beta, low=0.0)
    _check_alike("kl_shaped_reward", "logp", logp, logp_ref=logp_ref)
    if reward.shape != logp.shape[:1]:
        raise ValueError(f"kl_shaped_reward: reward {reward.shape} for {logp.shape[0]} sequences")
    if where is None:
        where = jnp.ones(logp.shape, bool)
    _check_alike("kl_shaped_reward", "logp", logp, where=where)
    later = jnp.cumsum(where[:, ::-1], axis=1)[:, ::-1]
    price = jnp.where(where, beta * (widened(logp) - widened(logp_ref)), 0.0)
    earned = jnp.where(where & (later == 1), widened(reward)[:, None], 0.0)
    return jax.lax.stop_gradient(earned - price).astype(logp.dtype)


def composite_reward(parts: Float[Array, "*batch parts"], weights: Float[Array, "..."]) -> Float[Array, "*batch"]:
    r"""A weighted sum of the parts of a reward: :math:`R = \sum_k w_k R_k`.

    The paper adds coverage of the question's entities, consistency of answers with sub-questions, order of operations,
    consistency of reasoning and correctness of the final answer.

    Args:
      parts: ``(..., parts)``, the parts last.
      weights: ``(parts,)``.

    Returns:
      ``(...)``, in the dtype of the parts.

    Raises:
      ValueError: not one weight for each part.

    Source: Juneja et al. (2023), arXiv 2310.18338.

    >>> composite_reward(jnp.array([[1.0, 0.5], [0.0, 1.0]]), jnp.array([1.0, 0.5])).tolist()
    [1.25, 0.5]
    """
    if weights.shape != parts.shape[-1:]:
        raise ValueError(f"composite_reward: weights {weights.shape} for {parts.shape[-1]} parts")
    return jnp.sum(widened(parts) * weights, axis=-1).astype(parts.dtype)
