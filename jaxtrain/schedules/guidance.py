"""Weights of classifier-free guidance that change while a sample is denoised."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number

# of the time t, 1 at the noise and 0 at the data; all but the last have mean 1
_SHAPES = {
    "constant": lambda t, s: jnp.ones_like(t),
    "linear": lambda t, s: 2 * (1 - t),
    "cosine": lambda t, s: 1 + jnp.cos(jnp.pi * t),
    "inv_linear": lambda t, s: 2 * t,
    "sine": lambda t, s: 1 + jnp.sin(jnp.pi * t - jnp.pi / 2),
    "v_shape": lambda t, s: 2 * jnp.abs(1 - 2 * t),
    "lambda_shape": lambda t, s: 2 * (1 - jnp.abs(1 - 2 * t)),
    "pcs": lambda t, s: 0.5 * (1 - jnp.cos(jnp.pi * (1 - t) ** s)),
}


def cfg_schedule(
    name: str,
    *,
    scale: Number,
    s: Number = 1.0,
    clamp: Number | None = None,
    interval: tuple[Number, Number] = (0.0, 1.0),
) -> Callable[[Number], Float[Array, "..."]]:
    r"""A guidance weight as a function of the time of a diffusion sampler.

    With :math:`t` from 1 (noise) to 0 (data) and the scale :math:`w`:

    =================  ===================================================  =====================================
    name               :math:`w(t)`                                         while a sample is denoised
    =================  ===================================================  =====================================
    ``constant``       :math:`w`
    ``linear``         :math:`2(1 - t)\,w`                                  increases
    ``cosine``         :math:`(1 + \cos \pi t)\,w`                          increases
    ``inv_linear``     :math:`2t\,w`                                        decreases
    ``sine``           :math:`(1 + \sin(\pi t - \frac\pi2))\,w`             decreases
    ``v_shape``        :math:`2\,|1 - 2t|\,w`                               decreases, then increases
    ``lambda_shape``   :math:`2(1 - |1 - 2t|)\,w`                           increases, then decreases
    ``pcs``            :math:`\frac12 (1 - \cos(\pi (1 - t)^s))\,w`         increases
    =================  ===================================================  =====================================

    All but ``pcs`` (mean :math:`w/2` for :math:`s = 1`) have mean :math:`w`. ``clamp`` makes it
    :math:`\max(\text{clamp}, w(t))`, and outside of ``interval`` it is 0. The weights are those of
    :func:`guided_score`, where 0 is the conditional model; libraries that write
    :math:`\epsilon_u + g(\epsilon_c - \epsilon_u)` have :math:`g = 1 + w`.

    The authors find increasing weights better than a constant, and these better than decreasing ones. The best ``clamp``
    and ``s`` of one model are not those of another.

    Args:
      name: the shape.
      scale: :math:`w`, ≥ 0.
      s: the power of ``pcs``, > 0.
      clamp: the least weight; None: no limit.
      interval: the times ``(low, high)`` between which there is guidance (limited interval guidance).

    Returns:
      A function of :math:`t` in [0, 1], a number or an array.

    Raises:
      ValueError: an unknown name or a number out of range.

    Source: Wang, Dufour, Andreou, Cani, Fernández Abrevaya, Picard, Kalogeiton (2024), arXiv 2404.13040; interval:
    Kynkäänniemi, Aittala, Karras, Laine, Aila, Lehtinen (2024), arXiv 2404.07724.

    >>> [float(cfg_schedule("linear", scale=3.0, clamp=1.0)(t)) for t in (1.0, 0.5, 0.0)]
    [1.0, 3.0, 6.0]
    """
    if name not in _SHAPES:
        raise ValueError(f"name must be one of {', '.join(_SHAPES)}, got {name!r}")
    check_finite_number("scale", scale, low=0.0)
    check_finite_number("s", s, low=1e-30)
    if clamp is not None:
        check_finite_number("clamp", clamp)
    low, high = interval
    check_finite_number("interval", low, low=0.0, high=1.0)
    check_finite_number("interval", high, low=0.0, high=1.0)
    if not any(isinstance(x, jax.core.Tracer) for x in interval) and np.any(np.asarray(low) > np.asarray(high)):
        raise ValueError(f"interval must be (low, high) with low <= high, got {interval}")

    def weight(t: Number) -> Float[Array, "..."]:
        t = jnp.asarray(t, jnp.result_type(float))
        value = scale * _SHAPES[name](t, s)
        if clamp is not None:
            value = jnp.maximum(clamp, value)
        return jnp.where((t >= low) & (t <= high), value, 0.0)

    return weight


def guided_score(cond: Array, uncond: Array, weight: Number) -> Array:
    r"""Classifier-free guidance: the conditional prediction, moved away from the unconditional one.

    .. math:: \hat\epsilon = \epsilon_c + w\,(\epsilon_c - \epsilon_u)

    It serves scores, noise, velocities and denoised images alike, since all are linear in the score. A weight of 0 is
    the conditional model, -1 the unconditional one.

    Args:
      cond: the prediction with the condition.
      uncond: the one without, of the same shape.
      weight: :math:`w`, a number or an array that broadcasts against them.

    Returns:
      The guided prediction, in the dtype of ``cond``.

    Raises:
      ValueError: predictions of different shapes.

    Source: Ho, Salimans (2022), arXiv 2207.12598.

    >>> guided_score(jnp.array([1.0, 2.0]), jnp.array([0.0, 2.0]), 3.0).tolist()
    [4.0, 2.0]
    """
    if cond.shape != uncond.shape:
        raise ValueError(f"guided_score: predictions of one shape are needed, got {cond.shape} and {uncond.shape}")
    return (cond + weight * (cond - uncond)).astype(cond.dtype)
