"""Is a class at a minimum or at a saddle? The spectrum of the Hessian of its own loss."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtrain.core import Batch, Key, Params
from jaxtrain.core.lanczos import SpectralDensity, stochastic_lanczos_quadrature


def class_hessian_spectrum(
    key: Key,
    loss_fn: Callable[[Params, Batch], Float[Array, " batch"]],
    params: Params,
    batch: Batch,
    labels: Int[Array, " batch"],
    label: int | Int[Array, ""],
    *,
    num_steps: int = 30,
    num_probes: int = 1,
) -> SpectralDensity:
    r"""The density of the eigenvalues of the Hessian of the mean loss of one class.

    .. math:: H_c = \nabla^2 \frac{1}{|\{i : y_i = c\}|} \sum_{i : y_i = c} \ell_i(\theta)

    By Lanczos quadrature from random signs. The lowest and the highest node approach the ends of the spectrum from inside.
    Costs ``num_steps * num_probes`` Hessian-vector products over the batch and, at a time, ``num_steps`` copies of the
    parameters. A class without examples has a Hessian of zeros.

    Args:
      key: one typed key.
      loss_fn: ``(params, batch) -> (batch,)``, the losses of the examples, twice differentiable where it is evaluated.
      params: :math:`\theta`, where it is evaluated.
      batch: what ``loss_fn`` takes; all examples that count.
      labels: ``(batch,)`` their classes.
      label: :math:`c`; may be traced, so that ``jax.vmap`` or ``jax.lax.map`` goes over the classes.
      num_steps: products for each probe, ≥ 1.
      num_probes: random starts, ≥ 1.

    Returns:
      :class:`SpectralDensity`: nodes and weights, ``(num_probes, num_steps)`` each.

    Raises:
      ValueError: losses that are not one for each label; a number out of range.
      TypeError: the key is not a typed key.

    Source: Rangwani, Aithal, Mishra, Babu (2022), arXiv 2212.13827; Ghorbani, Krishnan, Xiao (2019), arXiv 1901.10159.

    >>> loss_fn = lambda w, x: x * (w[0] ** 2 - w[1] ** 2) / 2
    >>> x, labels = jnp.array([1.0, 3.0, 7.0]), jnp.array([0, 0, 1])
    >>> class_hessian_spectrum(jax.random.key(0), loss_fn, jnp.zeros(2), x, labels, 0).nodes.round(4).tolist()
    [[-2.0, 2.0]]
    """
    own = labels == label

    def mean_loss(params):
        losses = loss_fn(params, batch)
        if losses.shape != own.shape:
            raise ValueError(
                f"class_hessian_spectrum: loss_fn gave losses of shape {losses.shape} for labels {own.shape}; "
                f"it must give one for each example"
            )
        return jnp.sum(jnp.where(own, losses, 0)) / jnp.maximum(jnp.sum(own), 1)

    def matvec(v):
        return jax.jvp(jax.grad(mean_loss), (params,), (v,))[1]

    return stochastic_lanczos_quadrature(key, matvec, params, num_steps=num_steps, num_probes=num_probes)


def saddle_score(spectrum: SpectralDensity) -> Float[Array, ""]:
    r"""How far from a minimum: :math:`\max(-\lambda_{\min}, 0) / \lambda_{\max}`.

    0 at a minimum, towards 1 where the steepest way down is as curved as the steepest way up, infinite where there is
    no way up. It does not change with the scale of the loss. A spectrum of zeros has the score 0, one with NaN NaN.

    Args:
      spectrum: of :func:`class_hessian_spectrum`.

    Returns:
      A number ≥ 0, or NaN.

    Source: Rangwani, Aithal, Mishra, Babu (2022), arXiv 2212.13827, which reports the ratio itself.

    >>> float(saddle_score(SpectralDensity(jnp.array([[-1.0, 0.5, 4.0]]), jnp.ones((1, 3)) / 3)))
    0.25
    """
    low, high = jnp.min(spectrum.nodes), jnp.max(spectrum.nodes)
    down = jnp.maximum(-low, 0)
    ratio = down / jnp.maximum(high, np.finfo(np.float32).tiny)
    # so asked that NaN stays NaN: a spectrum that could not be computed is no minimum
    return jnp.where(down == 0, 0.0, jnp.where(high <= 0, jnp.inf, ratio))
