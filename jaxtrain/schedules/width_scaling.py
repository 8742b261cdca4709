"""AdamW's rate and decay carried over from a narrow model to a wide one, and what tells whether they fit."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxtrain.core import Number, Params, Scalar, check_finite_number, check_key
from jaxtrain.core.numerics import accumulator_dtype, static_int

TINY = 1e-38
HIGHEST = jax.lax.Precision.HIGHEST


def _positive(**numbers: Number) -> None:
    for name, value in numbers.items():
        check_finite_number(name, value, low=TINY)


def mup_wd_scaling(
    base_lr: Number, base_wd: Number, *, width: Number, base_width: Number
) -> dict[str, tuple[Number, Number]]:
    r"""Rates and decays of AdamW for another width: the rate falls like 1/m, the decay grows like √m.

    With :math:`m = d / d_{\text{base}}`, matrices (maps between hidden layers) get
    :math:`(\eta/m, \lambda\sqrt m)` and vectors (embeddings, gains, biases, the head with its :math:`1/m` multiplier)
    :math:`(\eta, 0)`.

    In AdamW's steady state the largest singular value of a matrix goes like :math:`\sqrt{\eta/\lambda}\, d^{3/4}`
    (:func:`predict_top_sv`), which these keep constant. The decay is the one that is multiplied by the rate,
    :math:`\theta \leftarrow \theta - \eta\lambda\theta`, as in ``optax.adamw``.

    Args:
      base_lr: :math:`\eta` of the narrow model.
      base_wd: :math:`\lambda` of the narrow model's matrices, ≥ 0.
      width: :math:`d`, > 0.
      base_width: :math:`d_{\text{base}}`, > 0.

    Returns:
      ``{"matrix": (rate, decay), "vector": (rate, decay)}``.

    Raises:
      ValueError: a number out of range.

    Source: Fan, Liu, Zhao, Yuan, Gu (2025), arXiv 2510.15262.

    >>> mup_wd_scaling(0.01, 0.1, width=1024, base_width=64)
    {'matrix': (0.000625, 0.4), 'vector': (0.01, 0.0)}
    """
    check_finite_number("base_lr", base_lr, low=0.0)
    check_finite_number("base_wd", base_wd, low=0.0)
    _positive(width=width, base_width=base_width)
    m = width / base_width
    return {"matrix": (base_lr / m, base_wd * m**0.5), "vector": (base_lr, 0.0)}


def label_params_matrix_vector(
    params: Params, *, vector_patterns: Sequence[str] = ("embed", "head", "readout"), stacked_axes: int = 0
) -> Any:
    """Which parameters are maps between hidden layers (``"matrix"``) and which are not (``"vector"``).

    Vectors are those with fewer than two axes, and those whose path holds one of the patterns: their input or output
    does not grow with the width.

    Args:
      params: a tree.
      vector_patterns: regular expressions, searched for in paths such as ``"block/mlp/kernel"``.
      stacked_axes: so many leading axes of every parameter only stack layers, and do not count.

    Returns:
      A tree of labels like the parameters.

    Raises:
      TypeError: ``stacked_axes`` is not an integer.

    Source: Fan, Liu, Zhao, Yuan, Gu (2025), arXiv 2510.15262.

    >>> label_params_matrix_vector({"embed": jnp.ones((4, 2)), "mlp": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}})
    {'embed': 'vector', 'mlp': {'bias': 'vector', 'kernel': 'matrix'}}
    """
    stacked = static_int("stacked_axes", stacked_axes, low=0)

    def label(path, p):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        outer = any(re.search(pattern, name) for pattern in vector_patterns)
        return "vector" if outer or jnp.ndim(p) - stacked < 2 else "matrix"

    return jax.tree_util.tree_map_with_path(label, params)


def layerwise_adamw(
    base_lr: optax.ScalarOrSchedule,
    base_wd: Number,
    *,
    width_mult: Number,
    param_labels: Any = label_params_matrix_vector,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
) -> optax.GradientTransformation:
    r"""AdamW with the rates and decays of :func:`mup_wd_scaling`.

    Matrices: ``optax.adamw`` with rate :math:`\eta/m` and decay :math:`\lambda\sqrt m`; vectors: ``optax.adam`` with
    :math:`\eta`. Gradients of matrices shrink like 1/m: ``eps`` must stay far below them.

    Args:
      base_lr: :math:`\eta` of the narrow model, a number or a schedule.
      base_wd: :math:`\lambda` of the narrow model, ≥ 0.
      width_mult: :math:`m`, the width over the narrow model's, > 0; may be traced.
      param_labels: a tree of ``"matrix"`` and ``"vector"``, or a function from the parameters to one.
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: as in ``optax.adamw``.

    Returns:
      A transformation with Adam's state; its update needs ``params``.

    Raises:
      ValueError: a number out of range.

    Source: Fan, Liu, Zhao, Yuan, Gu (2025), arXiv 2510.15262.

    >>> params = {"hidden": jnp.ones((2, 2)), "gain": jnp.ones(2)}
    >>> tx = layerwise_adamw(0.1, 0.5, width_mult=4.0)
    >>> updates, _ = tx.update(params, tx.init(params), params)  # -0.025 (1 + 0.5 · 2), and -0.1
    >>> round(float(updates["hidden"][0, 0]), 5), round(float(updates["gain"][0]), 5)
    (-0.05, -0.1)
    """
    check_finite_number("base_wd", base_wd, low=0.0)
    _positive(width_mult=width_mult)
    for name, value in {"b1": b1, "b2": b2}.items():
        check_finite_number(name, value, low=0.0, high=float(np.nextafter(1, 0)))
    check_finite_number("eps", eps, low=0.0)
    if callable(base_lr):

        def rate(count):
            return base_lr(count) / width_mult

    else:
        check_finite_number("base_lr", base_lr, low=0.0)
        rate = base_lr / width_mult
    matrix = optax.adamw(rate, b1=b1, b2=b2, eps=eps, weight_decay=base_wd * width_mult**0.5)
    return optax.partition({"matrix": matrix, "vector": optax.adam(base_lr, b1=b1, b2=b2, eps=eps)}, param_labels)


def predict_top_sv(eta: Number, lam: Number, d: Number) -> Array:
    r"""What the largest singular value of a matrix is proportional to after long training by AdamW.

    .. math:: \sigma_{\max} \propto \sqrt{\eta / \lambda}\; d^{3/4}.

    The exponent was measured, not derived: entries that are independent would give 1/2, a matrix of rank one 1.

    Args:
      eta: rate > 0.
      lam: decay > 0, multiplied by the rate.
      d: width > 0.

    Returns:
      The right-hand side, for ratios between widths.

    Raises:
      ValueError: a number out of range.

    Source: Fan, Liu, Zhao, Yuan, Gu (2025), arXiv 2510.15262.

    >>> float(predict_top_sv(0.04, 0.01, 16.0))
    16.0
    """
    _positive(eta=eta, lam=lam, d=d)
    return jnp.sqrt(eta / lam) * jnp.asarray(d) ** 0.75


def top_singular_value(W: Float[Array, "..."], key: Any, *, iters: int = 50) -> Float[Array, "..."]:
    r"""The largest singular value by power iteration on :math:`W^\top W`, from a random vector.

    The result is never too large; with a gap :math:`\sigma_2/\sigma_1` it is short by a factor of about
    :math:`1 - O((\sigma_2/\sigma_1)^{4 k})` after k iterations. Costs 2 k products with vectors; exact but dearer:
    the first of :func:`singular_spectrum`.

    Args:
      W: a matrix, or many with leading axes.
      key: one typed key.
      iters: k ≥ 1, a Python integer.

    Returns:
      One number for each matrix, in float32 at least.

    Raises:
      ValueError: fewer than two axes, or no iterations.
      TypeError: the key is not a typed key.

    Source: Fan, Liu, Zhao, Yuan, Gu (2025), arXiv 2510.15262, whose diagnostic needs it.

    >>> round(float(top_singular_value(jnp.diag(jnp.array([3.0, 1.0])), jax.random.key(0))), 5)
    3.0
    """
    check_key(key, where="top_singular_value")
    count = static_int("iters", iters, low=1)
    if W.ndim < 2:
        raise ValueError(f"top_singular_value needs a matrix, got shape {W.shape}")
    W = W.astype(accumulator_dtype(W))
    # in units of the largest entry, so that no square overflows or vanishes; NaN stays NaN
    largest = jnp.max(jnp.abs(W), axis=(-2, -1), initial=0.0)
    largest = jnp.where(largest == 0, 1, largest)
    W = W / largest[..., None, None]

    def unit(v):
        return v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), jnp.finfo(v.dtype).tiny)

    def apply(v):
        return jnp.einsum("...mn,...n->...m", W, v, precision=HIGHEST)

    def round_(_, v):
        return unit(jnp.einsum("...mn,...m->...n", W, unit(apply(v)), precision=HIGHEST))

    start = unit(jax.random.normal(key, (*W.shape[:-2], W.shape[-1]), W.dtype))
    return largest * jnp.linalg.norm(apply(jax.lax.fori_loop(0, count, round_, start)), axis=-1)


def singular_spectrum(W: Float[Array, "*layers m n"]) -> Float[Array, "*layers k"]:
    """All singular values, the largest first, in float32 at least.

    Args:
      W: a matrix, or many with leading axes.

    Returns:
      ``min(m, n)`` numbers for each matrix.

    Source: Fan, Liu, Zhao, Yuan, Gu (2025), arXiv 2510.15262.

    >>> singular_spectrum(jnp.diag(jnp.array([1.0, 3.0]))).round(5).tolist()
    [3.0, 1.0]
    """
    return jnp.linalg.svd(W.astype(accumulator_dtype(W)), compute_uv=False)


def sublayer_gain(W: Float[Array, "n_in n_out"], x: Float[Array, "*batch n_in"]) -> Scalar:
    r"""How much a linear layer enlarges what it is given: :math:`\mathrm{rms}(x W) / \mathrm{rms}(x)`.

    Args:
      W: a kernel ``(in, out)``, as flax has it.
      x: its inputs.

    Returns:
      A number, in float32 at least; NaN where all inputs are zero.

    Source: Fan, Liu, Zhao, Yuan, Gu (2025), arXiv 2510.15262.

    >>> round(float(sublayer_gain(2 * jnp.eye(3), jnp.array([[1.0, -5.0, 2.0]]))), 5)
    2.0
    """
    x, W = x.astype(accumulator_dtype(x)), W.astype(accumulator_dtype(W))
    y = jnp.matmul(x, W, precision=HIGHEST)
    return jnp.sqrt(jnp.mean(y**2) / jnp.mean(x**2))
