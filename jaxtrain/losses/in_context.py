"""In-context regression with an uncertain noise: the tasks, and the loss of a predicted mean and variance."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Key, Number, check_finite_number, check_key
from jaxtrain.core.numerics import static_int
from jaxtrain.losses._logits import widened
from jaxtrain.losses.bayes_linear import check_noise, log_weights

_TINY = float(np.finfo(np.float32).tiny)


def gaussian_nll_loss(
    mean: Float[Array, "*batch"], log_var: Float[Array, "..."], target: Float[Array, "..."], *, floor: Number = -20.0
) -> Float[Array, "*batch"]:
    r"""Surprise under a normal distribution whose mean and variance are both predicted, less :math:`\frac12 \log 2\pi`.

    .. math:: \tfrac12 \log \sigma^2 + \frac{(y - \mu)^2}{2 \sigma^2}

    Args:
      mean: ``(...)`` predicted means :math:`\mu`.
      log_var: ``(...)`` predicted :math:`\log \sigma^2`.
      target: ``(...)`` values :math:`y`.
      floor: smaller ``log_var`` counts as this one and gets no gradient; a far miss would overflow. May be traced.

    Returns:
      ``(...)``, one loss for each prediction, in the dtype of the means.

    Raises:
      ValueError: shapes that disagree; a floor that is not finite.

    Source: Liu, Cai, Chen, Li (2024), arXiv 2405.15115.

    >>> zero = jnp.zeros(1)
    >>> float(gaussian_nll_loss(zero, zero, zero + 2.0)[0])
    2.0
    """
    check_finite_number("floor", floor)
    for name, other in (("log_var", log_var), ("target", target)):
        if other.shape != mean.shape:
            raise ValueError(f"gaussian_nll_loss: mean {mean.shape} and {name} {other.shape} disagree")
    log_sigma2 = jnp.maximum(widened(log_var), floor)
    miss = widened(target) - widened(mean)
    return (0.5 * (log_sigma2 + miss**2 * jnp.exp(-log_sigma2))).astype(mean.dtype)


def in_context_regression_tasks(
    key: Key,
    *,
    num_tasks: int,
    seq_len: int,
    dim: int,
    prior_var: Number,
    noise_prior: tuple[Array, Array | None],
    input_scale: Number = 1.0,
) -> dict[str, Array]:
    r"""Linear tasks of one sequence each, with weights and a noise level of their own.

    .. math:: w \sim \mathcal N(0, v I), \quad \sigma \sim p, \quad x_t \sim \mathcal N(0, c^2 I), \quad
       y_t = w^\top x_t + \sigma \epsilon_t

    Args:
      key: decides all.
      num_tasks: 1 or more.
      seq_len: pairs of each, 1 or more.
      dim: :math:`d`, 1 or more.
      prior_var: :math:`v` > 0; may be traced.
      noise_prior: ``(K,)`` standard deviations and ``(K,)`` their probabilities up to a factor (None: all alike).
      input_scale: :math:`c` > 0, for other inputs than a model was trained on; may be traced.

    Returns:
      ``x`` of ``(tasks, seq_len, dim)``, ``y`` of ``(tasks, seq_len)``, ``w`` of ``(tasks, dim)``, ``sigma`` of ``(tasks,)``.

    Raises:
      TypeError: a key that is not one.
      ValueError: a number out of range; levels that are not a vector, or weights of another shape or all 0.

    Source: Liu, Cai, Chen, Li (2024), arXiv 2405.15115.

    >>> tasks = in_context_regression_tasks(
    ...     jax.random.key(0), num_tasks=2, seq_len=3, dim=4, prior_var=1.0, noise_prior=(jnp.array([0.5]), None)
    ... )
    >>> {name: value.shape for name, value in tasks.items()}
    {'x': (2, 3, 4), 'y': (2, 3), 'w': (2, 4), 'sigma': (2,)}
    """
    check_key(key, where="in_context_regression_tasks")
    num_tasks, seq_len = static_int("num_tasks", num_tasks, low=1), static_int("seq_len", seq_len, low=1)
    dim = static_int("dim", dim, low=1)
    grid, weights = noise_prior
    check_noise("in_context_regression_tasks", grid, weights, prior_var)
    check_finite_number("input_scale", input_scale, low=_TINY)
    to_w, to_sigma, to_x, to_y = jax.random.split(key, 4)
    w = jnp.sqrt(prior_var) * jax.random.normal(to_w, (num_tasks, dim))
    sigma = grid[jax.random.categorical(to_sigma, log_weights(grid, weights), shape=(num_tasks,))]
    x = input_scale * jax.random.normal(to_x, (num_tasks, seq_len, dim))
    noise = sigma[:, None] * jax.random.normal(to_y, (num_tasks, seq_len))
    return {"x": x, "y": jnp.einsum("ntd,nd->nt", x, w) + noise, "w": w, "sigma": sigma}
