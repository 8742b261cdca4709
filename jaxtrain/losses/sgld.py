"""Langevin sampling of a model's own density, from fresh points or from a buffer of earlier samples."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.core import Key, Number, check_finite_number, check_key
from jaxtrain.core.numerics import static_int

EnergyFn = Callable[[Array], Array]


def sgld_sample(
    key: Key,
    energy_fn: EnergyFn,
    x_init: Float[Array, "n ..."],
    *,
    steps: int = 20,
    step_size: Number = 1.0,
    noise: Number = 0.01,
) -> Float[Array, "n ..."]:
    r"""Moves points towards low energy with noise.

    .. math:: x \leftarrow x - s\, \nabla E(x) + c\, \varepsilon, \qquad \varepsilon \sim \mathcal N(0, I)

    With :math:`c^2 = 2s` it is Langevin's dynamics, whose samples follow :math:`e^{-E}` as :math:`s \to 0`. Energy-based
    models are trained with far less noise, which samples a sharper density of temperature :math:`c^2 / (2s)`. On
    :math:`E = x^2 / (2\sigma^2)` the variance settles at :math:`c^2 / (1 - (1 - s/\sigma^2)^2)`.

    Args:
      key: decides the noise.
      energy_fn: of a batch ``(n, ...)``, ``(n,)`` energies, each of its own point alone.
      x_init: ``(n, ...)`` where the chains start.
      steps: 0 or more; static.
      step_size: :math:`s` ≥ 0; may be traced.
      noise: :math:`c` ≥ 0; may be traced.

    Returns:
      ``(n, ...)`` in the dtype of ``x_init``, through which no gradient flows.

    Raises:
      TypeError: a key that is not one.
      ValueError: a number out of range.

    Source: Welling, Teh (2011) for the sampler; Sansone, Manhaeve (2024), arXiv 2401.00873; Grathwohl et al. (2020),
    arXiv 1912.03263.

    >>> square = lambda x: 0.5 * x**2
    >>> sgld_sample(jax.random.key(0), square, jnp.array([8.0]), steps=3, step_size=0.5, noise=0.0).tolist()
    [1.0]
    """
    check_key(key, where="sgld_sample")
    steps = static_int("steps", steps, low=0)
    check_finite_number("step_size", step_size, low=0.0)
    check_finite_number("noise", noise, low=0.0)
    slope = jax.grad(lambda x: jnp.sum(energy_fn(x)))

    def step(x, key):
        moved = x - step_size * slope(x) + noise * jax.random.normal(key, x.shape, x.dtype)
        return moved.astype(x.dtype), None

    x, _ = jax.lax.scan(step, jax.lax.stop_gradient(x_init), jax.random.split(key, steps))
    return jax.lax.stop_gradient(x)


def sgld_replay_sample(
    key: Key,
    energy_fn: EnergyFn,
    x_init: Float[Array, "n ..."],
    replay: Float[Array, "size ..."],
    *,
    reinit: Number = 0.05,
    steps: int = 20,
    step_size: Number = 1.0,
    noise: Number = 0.01,
) -> tuple[Float[Array, "n ..."], Float[Array, "size ..."]]:
    r""":func:`sgld_sample` that goes on from earlier samples, so that few steps do for long chains.

    Of a buffer of samples n different ones are drawn; each is replaced by a fresh point with a small probability, moved, and
    put back.

    Args:
      key: decides who is drawn, who starts anew, and the noise.
      energy_fn: as in :func:`sgld_sample`.
      x_init: ``(n, ...)`` fresh points.
      replay: ``(size, ...)`` the buffer, size ≥ n; at the start fresh points.
      reinit: the probability to start anew, in [0, 1]; may be traced.
      steps: as in :func:`sgld_sample`; ``step_size`` and ``noise`` too.
      step_size: :math:`s`.
      noise: :math:`c`.

    Returns:
      The samples ``(n, ...)`` and the buffer with them in it.

    Raises:
      TypeError: a key that is not one.
      ValueError: shapes that disagree, a buffer that is too small, or a number out of range.

    Source: Du, Mordatch (2019), arXiv 1903.08689; Grathwohl et al. (2020), arXiv 1912.03263.

    >>> square = lambda x: 0.5 * x**2
    >>> buffer = jnp.array([2.0, 4.0])
    >>> x, buffer = sgld_replay_sample(
    ...     jax.random.key(0), square, jnp.zeros(2), buffer, reinit=0.0, steps=1, step_size=0.5, noise=0.0
    ... )
    >>> buffer.tolist()
    [1.0, 2.0]
    """
    check_key(key, where="sgld_replay_sample")
    check_finite_number("reinit", reinit, low=0.0, high=1.0)
    if replay.shape[1:] != x_init.shape[1:] or len(replay) < len(x_init):
        raise ValueError(
            f"sgld_replay_sample: x_init {x_init.shape} and replay {replay.shape}; give points of one shape, and a buffer of "
            f"at least as many"
        )
    draw, anew, walk = jax.random.split(key, 3)
    chosen = jax.random.choice(draw, len(replay), (len(x_init),), replace=False)
    fresh = jax.random.bernoulli(anew, reinit, (len(x_init),)).reshape(-1, *(1,) * (x_init.ndim - 1))
    start = jnp.where(fresh, x_init.astype(replay.dtype), replay[chosen])
    x = sgld_sample(walk, energy_fn, start, steps=steps, step_size=step_size, noise=noise)
    return x, replay.at[chosen].set(x)
