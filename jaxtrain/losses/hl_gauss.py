"""Regression by classification: histograms of a number, their loss and the way back."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import widened

_TINY = float(np.finfo(np.float32).tiny)


def _grid(where: str, name: str, grid: Array, count: int | None = None) -> Array:
    """The grid in float32 at least; raises unless it is an increasing row of two numbers or more."""
    grid = jnp.asarray(grid, jnp.result_type(float, grid))
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"{where}: {name} must be a row of at least 2 numbers, got shape {grid.shape}")
    if count is not None and len(grid) != count:
        raise ValueError(f"{where}: {count} {name} are needed, got {len(grid)}")
    if not isinstance(grid, jax.core.Tracer) and not np.all(np.diff(np.asarray(grid)) > 0):
        raise ValueError(f"{where}: {name} must increase, got {np.asarray(grid)}")
    return widened(grid)


def hl_gauss_probs(
    targets: Float[Array, "*batch"], bin_edges: Float[Array, "..."], *, sigma: Number | None = None,
    sigma_ratio: Number = 0.75,
) -> Float[Array, "*batch bins"]:  # fmt: skip
    r"""A number as a histogram: what a normal distribution around it, cut off at the ends, puts into each bin.

    .. math:: p_i(y) = \frac{\Phi\big(\frac{l_{i+1} - y}{\sigma}\big) - \Phi\big(\frac{l_i - y}{\sigma}\big)}
       {\Phi\big(\frac{l_m - y}{\sigma}\big) - \Phi\big(\frac{l_0 - y}{\sigma}\big)}.

    Targets outside of the edges are moved to the nearer end. The mean of the histogram is the target up to the width
    of the bins, as long as the target lies some :math:`\sigma` inside. No gradient flows into the targets.

    Args:
      targets: ``(...)`` numbers :math:`y`.
      bin_edges: ``(m + 1,)`` increasing edges :math:`l_0 \ldots l_m`.
      sigma: the width of the normal distribution, > 0; may be traced. Default: from ``sigma_ratio``.
      sigma_ratio: the same in units of the mean bin width, > 0; may be traced.

    Returns:
      ``(..., m)`` probabilities, in float32 at least.

    Raises:
      ValueError: edges that do not increase; a width that is not positive.

    Source: Farebrother et al. (2024), arXiv 2403.03950; Imani, White (2018), arXiv 1806.04613.

    >>> p = hl_gauss_probs(jnp.array(1.5), jnp.array([0.0, 1.0, 2.0, 3.0]), sigma=0.5)
    >>> [round(x, 4) for x in p.tolist()]
    [0.1577, 0.6845, 0.1577]
    """
    edges = _grid("hl_gauss_probs", "bin_edges", bin_edges)
    if sigma is None:
        check_finite_number("sigma_ratio", sigma_ratio, low=_TINY)
        sigma = sigma_ratio * (edges[-1] - edges[0]) / (len(edges) - 1)
    else:
        check_finite_number("sigma", sigma, low=_TINY)
    y = jax.lax.stop_gradient(jnp.clip(widened(jnp.asarray(targets)), edges[0], edges[-1]))
    z = (edges - y[..., None]) / sigma
    below, above = z[..., :-1], z[..., 1:]
    # right of the target the upper tails are subtracted, which are small there: no cancellation on either side
    right = below + above > 0
    low, high = jnp.where(right, -above, below), jnp.where(right, -below, above)
    mass = jax.scipy.special.ndtr(high) - jax.scipy.special.ndtr(low)
    # at least 1/2 (a target at an end) unless both ends are within sigma
    return mass / jnp.sum(mass, axis=-1, keepdims=True)


def two_hot_probs(targets: Float[Array, "*batch"], bin_centers: Float[Array, "..."]) -> Float[Array, "*batch bins"]:
    r"""A number as a histogram: linear weights on the two nearest centers, so that the mean is the number.

    Targets outside of the centers are moved to the nearer end. No gradient flows into the targets.

    Args:
      targets: ``(...)`` numbers.
      bin_centers: ``(m,)`` increasing numbers, in any distances.

    Returns:
      ``(..., m)`` probabilities, in float32 at least.

    Raises:
      ValueError: centers that do not increase.

    Source: Farebrother et al. (2024), arXiv 2403.03950; Schrittwieser et al. (2020), arXiv 1911.08265.

    >>> two_hot_probs(jnp.array([0.25, 9.0]), jnp.array([0.0, 1.0, 3.0])).tolist()
    [[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]]
    """
    centers = _grid("two_hot_probs", "bin_centers", bin_centers)
    y = jax.lax.stop_gradient(widened(jnp.asarray(targets)))[..., None]
    # how far each gap has been crossed: 1, …, 1, the fraction, 0, …; its decrements are the weights
    crossed = jnp.clip((y - centers[:-1]) / jnp.diff(centers), 0.0, 1.0)
    ends = [(0, 0)] * (crossed.ndim - 1)
    return jnp.pad(crossed, [*ends, (1, 0)], constant_values=1.0) - jnp.pad(crossed, [*ends, (0, 1)])


def categorical_value(probs: Float[Array, "*batch bins"], bin_centers: Float[Array, "..."]) -> Float[Array, "*batch"]:
    r"""The way back: the mean :math:`\sum_i p_i z_i` of a histogram.

    Args:
      probs: ``(..., m)`` probabilities; of logits, take the softmax before.
      bin_centers: ``(m,)`` increasing numbers; of edges, ``(edges[1:] + edges[:-1]) / 2``.

    Returns:
      ``(...)``, in the dtype of the probabilities.

    Raises:
      ValueError: centers that do not increase or are not one for each bin.

    Source: Farebrother et al. (2024), arXiv 2403.03950.

    >>> float(categorical_value(jnp.array([0.25, 0.75]), jnp.array([-1.0, 1.0])))
    0.5
    """
    centers = _grid("categorical_value", "bin_centers", bin_centers, count=probs.shape[-1])
    return jnp.sum(widened(probs) * centers, axis=-1).astype(probs.dtype)


def hl_gauss_loss(
    logits: Float[Array, "*batch bins"], targets: Float[Array, "..."], bin_edges: Float[Array, "..."], *,
    sigma: Number | None = None, sigma_ratio: Number = 0.75,
) -> Float[Array, "*batch"]:  # fmt: skip
    r"""Cross-entropy from :func:`hl_gauss_probs` of a number to the softmax of logits.

    .. math:: \ell = -\sum_i p_i(y) \log \operatorname{softmax}_i(h).

    Args:
      logits: ``(..., m)``, the bins last.
      targets: ``(...)`` numbers; constants.
      bin_edges: ``(m + 1,)`` increasing edges.
      sigma: the width of the normal distribution, > 0; may be traced. Default: from ``sigma_ratio``.
      sigma_ratio: the same in units of the mean bin width, > 0; may be traced.

    Returns:
      ``(...)``, one loss for each example, in the dtype of the logits.

    Raises:
      ValueError: shapes that disagree; edges that do not increase; a width that is not positive.

    Source: Farebrother et al. (2024), arXiv 2403.03950.

    >>> edges = jnp.array([0.0, 1.0, 2.0])
    >>> round(float(hl_gauss_loss(jnp.array([[0.0, 0.0]]), jnp.array([0.3]), edges)[0]), 4)  # log 2
    0.6931
    """
    targets = jnp.asarray(targets)
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"hl_gauss_loss: targets {targets.shape} for logits {logits.shape}; give {logits.shape[:-1]}")
    _grid("hl_gauss_loss", "bin_edges", bin_edges, count=logits.shape[-1] + 1)
    p = hl_gauss_probs(targets, bin_edges, sigma=sigma, sigma_ratio=sigma_ratio)
    return -jnp.sum(p * jax.nn.log_softmax(widened(logits), axis=-1), axis=-1).astype(logits.dtype)


def td_classification_loss(
    q_logits: Float[Array, "*batch bins"], next_q: Float[Array, "*batch actions"], rewards: Float[Array, "..."],
    discounts: Float[Array, "..."], bin_edges: Float[Array, "..."], *, sigma: Number | None = None,
    sigma_ratio: Number = 0.75,
) -> Float[Array, "*batch"]:  # fmt: skip
    r""":func:`hl_gauss_loss` towards a one-step target: :math:`y = r + \gamma \max_a Q(x', a)`.

    The target is a number before it becomes a histogram, unlike that of :func:`c51_project`.

    Args:
      q_logits: ``(..., m)`` of the action that was taken.
      next_q: ``(..., actions)`` values of the next state from the target network, by :func:`categorical_value`.
      rewards: ``(...)``.
      discounts: ``(...)``, 0 where the episode ended.
      bin_edges: ``(m + 1,)`` increasing edges of returns.
      sigma: as in :func:`hl_gauss_loss`.
      sigma_ratio: as in :func:`hl_gauss_loss`.

    Returns:
      ``(...)``, one loss for each transition, in the dtype of the logits.

    Raises:
      ValueError: as in :func:`hl_gauss_loss`.

    Source: Farebrother et al. (2024), arXiv 2403.03950.

    >>> edges, one = jnp.array([0.0, 1.0, 2.0]), jnp.ones(1)
    >>> loss = td_classification_loss(jnp.array([[0.0, 99.0]]), jnp.array([[0.3, 0.4]]), one, one, edges, sigma=0.1)
    >>> round(float(loss[0]), 4)  # 1.4 lies four sigma inside the second bin: Phi(-4) times 99
    0.0031
    """
    y = jnp.asarray(rewards) + jnp.asarray(discounts) * jnp.max(next_q, axis=-1)
    return hl_gauss_loss(q_logits, y, bin_edges, sigma=sigma, sigma_ratio=sigma_ratio)


def c51_project(
    next_probs: Float[Array, "*batch atoms"], rewards: Float[Array, "..."], discounts: Float[Array, "..."],
    atoms: Float[Array, "..."],
) -> Float[Array, "*batch atoms"]:  # fmt: skip
    r"""The distribution of :math:`r + \gamma Z'` brought back to the atoms: each moved atom shared by its neighbours.

    Args:
      next_probs: ``(..., m)`` probabilities of the next return.
      rewards: ``(...)``.
      discounts: ``(...)``, 0 where the episode ended.
      atoms: ``(m,)`` increasing returns.

    Returns:
      ``(..., m)`` probabilities, in float32 at least; no gradient flows into the rewards or discounts.

    Raises:
      ValueError: atoms that do not increase or are not one for each probability.

    Source: Bellemare, Dabney, Munos (2017), arXiv 1707.06887, algorithm 1.

    >>> c51_project(jnp.array([0.0, 1.0]), jnp.array(0.25), jnp.array(0.5), jnp.array([0.0, 1.0])).tolist()
    [0.25, 0.75]
    """
    z = _grid("c51_project", "atoms", atoms, count=next_probs.shape[-1])
    moved = jnp.asarray(rewards)[..., None] + jnp.asarray(discounts)[..., None] * z
    return jnp.sum(widened(next_probs)[..., None] * two_hot_probs(moved, z), axis=-2)
