"""Magnitude-preserving layers: inputs of unit magnitude give outputs of unit magnitude, before and during training.

The magnitude of an array is the root of the mean of its squares. Kernels are laid out as Flax has them, the outputs on
the last axis: ``(in, out)`` or ``(height, width, in, out)``.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number


def mp_normalize(x: Float[Array, "..."], *, axis: int | Sequence[int] | None = None, eps: Number = 1e-4) -> Array:
    r"""Scales to unit magnitude: :math:`x / (\mathrm{rms}(x) + \epsilon)`, for a kernel over the inputs of each output.

    Args:
      x: a kernel with the outputs on the last axis, or any array.
      axis: axes over which the magnitude is taken; default: all but the last.
      eps: :math:`\epsilon` > 0, which keeps zeros zero.

    Returns:
      An array of the shape and dtype of ``x``.

    Source: Karras et al. (2023), arXiv 2312.02696, equation 66.

    >>> [[round(float(x), 2) for x in row] for row in mp_normalize(jnp.array([[3.0, 0.0], [4.0, 0.0]]))]
    [[0.85, 0.0], [1.13, 0.0]]
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = tuple(range(x.ndim - 1)) if axis is None else axis
    mean = jnp.mean(wide**2, axis=axes, keepdims=True)
    # the root has no derivative at zero
    rms = jnp.where(mean > 0, jnp.sqrt(jnp.where(mean > 0, mean, 1.0)), 0.0)
    return (wide / (rms + eps)).astype(x.dtype)


def mp_weight(kernel: Float[Array, "..."], *, gain: Number = 1.0, eps: Number = 1e-4) -> Array:
    r"""The kernel that a magnitude-preserving layer applies: each output's weights have norm ``gain``.

    .. math:: \hat w = g\,\frac{w}{\|w\| + \epsilon\sqrt{n}}, \qquad n \text{ inputs of each output.}

    Uncorrelated inputs of unit magnitude give outputs of magnitude :math:`g`, whatever the scale of the stored weights,
    so that their gradient is orthogonal to them: an update lengthens the stored weights, and slows the next down, unless
    :func:`forced_weight_normalization` holds their length.

    Args:
      kernel: any layout with the outputs on the last axis, for a dense layer or a convolution.
      gain: :math:`g`.
      eps: :math:`\epsilon` > 0.

    Source: Karras et al. (2023), arXiv 2312.02696, equation 47.

    >>> jnp.linalg.norm(mp_weight(jnp.array([[3.0, 5.0], [4.0, 12.0]])), axis=0).round(3)
    Array([1., 1.], dtype=float32)
    """
    fan_in = max(1, math.prod(kernel.shape[:-1]))
    return (mp_normalize(kernel, eps=eps) * (gain / math.sqrt(fan_in))).astype(kernel.dtype)


def mp_dense(
    x: Float[Array, "*batch n"], kernel: Float[Array, "n m"], *, gain: Number = 1.0
) -> Float[Array, "*batch m"]:
    """A dense layer without bias, with :func:`mp_weight` of its kernel.

    Source: Karras et al. (2023), arXiv 2312.02696, equation 47.

    >>> kernel = jax.random.normal(jax.random.key(0), (512, 64)) * 7
    >>> y = mp_dense(jax.random.normal(jax.random.key(1), (256, 512)), kernel)
    >>> round(float(jnp.std(y)), 1)
    1.0
    """
    return x @ mp_weight(kernel, gain=gain).astype(x.dtype)


def mp_silu(x: Float[Array, "..."]) -> Array:
    r"""SiLU over its magnitude for a standard normal input: :math:`x\,\sigma(x) / 0.596`.

    Source: Karras et al. (2023), arXiv 2312.02696, equation 81.

    >>> round(float(mp_silu(jnp.array(1.0))), 4)
    1.2266
    """
    return jax.nn.silu(x) / 0.596


def mp_sum(a: Float[Array, "..."], b: Float[Array, "..."], t: Number = 0.5) -> Array:
    r"""A weighted sum of two uncorrelated arrays of unit magnitude:
    :math:`\frac{(1 - t)\,a + t\,b}{\sqrt{(1 - t)^2 + t^2}}`.

    Source: Karras et al. (2023), arXiv 2312.02696, equation 88.

    >>> float(mp_sum(jnp.array(1.0), jnp.array(3.0), t=0.0)), round(float(mp_sum(jnp.array(1.0), jnp.array(1.0))), 4)
    (1.0, 1.4142)
    """
    check_finite_number("t", t, low=0.0, high=1.0)
    t = jnp.asarray(t, a.dtype)
    return ((1 - t) * a + t * b) / jnp.sqrt((1 - t) ** 2 + t**2)


def mp_cat(a: Float[Array, "..."], b: Float[Array, "..."], t: Number = 0.5, *, axis: int = -1) -> Array:
    r"""Concatenates two arrays so that the parts contribute as :math:`1 - t` and :math:`t`, whatever their lengths.

    .. math:: C\,\Bigl[\frac{1 - t}{\sqrt{N_a}}\,a,\ \frac{t}{\sqrt{N_b}}\,b\Bigr], \qquad
       C = \sqrt{\frac{N_a + N_b}{(1 - t)^2 + t^2}}

    Source: Karras et al. (2023), arXiv 2312.02696, equation 103.

    >>> [round(float(x), 3) for x in mp_cat(jnp.ones(1), jnp.ones(3))]
    [1.414, 0.816, 0.816, 0.816]
    """
    check_finite_number("t", t, low=0.0, high=1.0)
    n_a, n_b, t = a.shape[axis], b.shape[axis], jnp.asarray(t, a.dtype)
    c = jnp.sqrt((n_a + n_b) / ((1 - t) ** 2 + t**2))
    return jnp.concatenate([c * (1 - t) / math.sqrt(n_a) * a, c * t / math.sqrt(n_b) * b], axis=axis)


def forced_weight_normalization(*, eps: Number = 1e-4) -> optax.GradientTransformationExtraArgs:
    r"""Puts every kernel back to unit magnitude after its update: behind an optimizer, before averages.

    .. math:: \Delta \leftarrow \mathrm{normalize}(w + \Delta) - w

    Leaves of fewer than two axes (gains, biases) pass; for other exceptions use ``optax.masked``. With :func:`mp_weight`
    in the forward pass the function of the model does not change, but the size of a step relative to the weights no
    longer shrinks as they grow.

    Args:
      eps: of :func:`mp_normalize`.

    Returns:
      A stateless transformation. Its update raises ``ValueError`` without ``params``.

    Source: Karras et al. (2023), arXiv 2312.02696, section 2.3, equation 66; the released layer normalises at the start
    of the next forward pass instead.

    >>> tx = optax.chain(optax.sgd(0.1), forced_weight_normalization())
    >>> w = jnp.array([[1.0], [1.0]])
    >>> updates, _ = tx.update(jnp.array([[10.0], [-20.0]]), tx.init(w), w)
    >>> [round(float(x), 3) for x in optax.apply_updates(w, updates)[:, 0]]
    [0.0, 1.414]
    """
    check_finite_number("eps", eps, low=0.0)

    def update(updates, state, params=None, **extra_args):
        del extra_args
        if params is None:
            raise ValueError("forced_weight_normalization needs the parameters: call tx.update(updates, state, params)")

        def project(u, p):
            return u if p.ndim < 2 else (mp_normalize(p + u, eps=eps) - p).astype(u.dtype)

        return jax.tree.map(project, updates, params), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
