"""Binary codes for retrieval, from one view of an item or several: losses, weights of views, fusion of codes."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import widened

_TINY = float(np.finfo(np.float32).tiny)


def pairwise_hash_loss(
    codes: Float[Array, "batch bits"], sim: Array, *, margin: Number | None = None
) -> Float[Array, " batch"]:
    r"""Likelihood of who is similar to whom, from inner products of codes.

    .. math:: \ell_i = \frac{1}{N - 1} \sum_{j \ne i} \log(1 + e^{\theta_{ij}}) - s_{ij} \theta_{ij}, \qquad
       \theta_{ij} = \tfrac12 u_i^\top u_j

    With a margin m a similar pair is only content at :math:`\theta \gg m`, a dissimilar one at :math:`\theta \ll -m`:
    :math:`s \log(1 + e^{m - \theta}) + (1 - s) \log(1 + e^{m + \theta})`. The examples of a batch are coupled. Between codes
    of :math:`\pm 1` of b bits at the Hamming distance h, :math:`\theta = b/2 - h`.

    Args:
      codes: ``(batch, bits)`` relaxed codes u, as of a hyperbolic tangent; 2 at least.
      sim: ``(batch, batch)`` 1 or true for similar pairs, else 0; also soft, in [0, 1].
      margin: m ≥ 0; may be traced. Default: 0.

    Returns:
      ``(batch,)``, one loss for each example, in the dtype of the codes.

    Raises:
      ValueError: shapes that disagree, a single code, or a margin out of range.

    Source: Yan, Gong, Wei, Gao (2020), arXiv 2002.00169; Li, Wang, Kang (2016), arXiv 1511.03855.

    >>> loss = pairwise_hash_loss(jnp.array([[1.0, 1.0], [1.0, -1.0]]), jnp.eye(2))  # theta = 0
    >>> [round(float(x), 4) for x in loss]
    [0.6931, 0.6931]
    """
    if codes.ndim != 2 or len(codes) < 2 or sim.shape != (len(codes), len(codes)):
        raise ValueError(
            f"pairwise_hash_loss: codes {codes.shape} and sim {sim.shape}; give (batch, bits), 2 codes at least, and "
            f"(batch, batch)"
        )
    margin = 0.0 if margin is None else margin
    check_finite_number("margin", margin, low=0.0)
    u = widened(codes)
    s = sim.astype(u.dtype)
    theta = 0.5 * jnp.matmul(u, u.T, precision=jax.lax.Precision.HIGHEST)
    pairs = s * jax.nn.softplus(margin - theta) + (1 - s) * jax.nn.softplus(margin + theta)
    others = ~jnp.eye(len(u), dtype=bool)
    return (jnp.sum(jnp.where(others, pairs, 0.0), axis=1) / (len(u) - 1)).astype(codes.dtype)


def quantization_loss(codes: Float[Array, "*batch bits"]) -> Float[Array, "*batch"]:
    r"""How far a relaxed code is from being binary: :math:`\sum_k (|u_k| - 1)^2`.

    The gradient at exactly 0 is 0.

    Args:
      codes: ``(..., bits)``.

    Returns:
      ``(...)`` in the dtype of the codes.

    Raises:
      ValueError: codes without an axis.

    Source: Yan, Gong, Wei, Gao (2020), arXiv 2002.00169.

    >>> quantization_loss(jnp.array([[1.0, -1.0], [0.5, 0.0]])).tolist()
    [0.0, 1.25]
    """
    if codes.ndim == 0:
        raise ValueError("quantization_loss: codes without an axis; give (..., bits)")
    return jnp.sum((jnp.abs(widened(codes)) - 1) ** 2, axis=-1).astype(codes.dtype)


def view_stability_weights(
    view_codes: Float[Array, "views batch bits"],
    image_codes: Float[Array, "..."] | None = None,
    *,
    temperature: Number = 1.0,
) -> Float[Array, " views"]:
    r"""How much each view is to count: the more, the closer and the more evenly it keeps to the code of the image.

    With :math:`d_{vi} = \frac12 (1 - \frac1b u_{vi}^\top u_i)`, the share of bits in which the codes of view and image
    differ where both are binary,

    .. math:: w = \mathrm{softmax}_v\Big({-\frac1\tau} \big(\mathrm{mean}_i\, d_{vi} + \mathrm{std}_i\, d_{vi}\big)\Big).

    Args:
      view_codes: ``(views, batch, bits)``.
      image_codes: ``(batch, bits)``. Default: the mean of the views.
      temperature: :math:`\tau` > 0; may be traced. A tenth prefers clearly.

    Returns:
      ``(views,)`` with the sum 1, in float32 at least; constants.

    Raises:
      ValueError: shapes that disagree, or a temperature out of range.

    Source: the idea of Yan, Gong, Wei, Gao (2020), arXiv 2002.00169; the formula is ours.

    >>> image = jnp.array([[1.0, 1.0], [1.0, -1.0]])
    >>> weights = view_stability_weights(jnp.stack([image, -image]), image)
    >>> round(float(weights[0]), 4)  # 1 / (1 + 1/e)
    0.7311
    """
    check_finite_number("temperature", temperature, low=_TINY)
    _check_views("view_stability_weights", view_codes, image_codes, same_bits=True)
    v = jax.lax.stop_gradient(widened(view_codes))
    image = v.mean(0) if image_codes is None else jax.lax.stop_gradient(widened(image_codes))
    d = 0.5 * (1 - jnp.mean(v * image, axis=-1))
    return jax.nn.softmax(-(d.mean(1) + d.std(1)) / temperature)


def _check_views(caller: str, view_codes: Array, image_codes: Array | None, *, same_bits: bool) -> None:
    if view_codes.ndim != 3 or 0 in view_codes.shape:
        raise ValueError(f"{caller}: view_codes of shape {view_codes.shape}; give (views, batch, bits)")
    if image_codes is not None:
        rows = view_codes.shape[1:] if same_bits else (view_codes.shape[1], *image_codes.shape[1:])
        if image_codes.ndim != 2 or image_codes.shape != rows:
            raise ValueError(f"{caller}: image codes {image_codes.shape} and view_codes {view_codes.shape} disagree")


def fuse_codes(
    image_code: Float[Array, "..."],
    view_codes: Float[Array, "views batch bits"],
    weights: Float[Array, "..."],
    *,
    mode: str = "replication",
) -> Float[Array, "batch fused"]:
    r"""One code of an image's own and those of its views.

    With V views and :math:`v_k = V w_k`, which is 1 for equal weights:

    - ``replication``: the image's code, then all views', each times :math:`\sqrt{v_k}`, so that inner products are
      :math:`u^\top u' + \sum_k v_k u_k^\top u_k'`. V + 1 times as long. After taking signs the weights are gone.
    - ``view_code``: the image's code, then the weighted mean :math:`\sum_k w_k u_k` of the views', which may be shorter.
    - ``pooling``: in every bit the one of image and views with the largest :math:`|u|` or :math:`v_k |u_k|`. As long as one.

    Args:
      image_code: ``(batch, bits)``.
      view_codes: ``(views, batch, bits)``; with ``view_code`` of another number of bits if you like.
      weights: ``(views,)`` as :func:`view_stability_weights` gives them.
      mode: ``replication``, ``view_code`` or ``pooling``.

    Returns:
      ``(batch, fused)``, in the dtype of the image's code.

    Raises:
      ValueError: shapes that disagree, or an unknown mode.

    Source: the three fusions of Yan, Gong, Wei, Gao (2020), arXiv 2002.00169; details are ours.

    >>> image, views = jnp.array([[0.5, -0.9]]), jnp.array([[[-0.8, 0.7]]])
    >>> fuse_codes(image, views, jnp.ones(1), mode="pooling")
    Array([[-0.8, -0.9]], dtype=float32)
    """
    if mode not in ("replication", "view_code", "pooling"):
        raise ValueError(f"fuse_codes: mode must be 'replication', 'view_code' or 'pooling', got {mode!r}")
    _check_views("fuse_codes", view_codes, image_code, same_bits=mode != "view_code")
    if weights.shape != view_codes.shape[:1]:
        raise ValueError(f"fuse_codes: weights of shape {weights.shape}; give {view_codes.shape[:1]}")
    image, views, w = widened(image_code), widened(view_codes), widened(weights)
    if mode == "view_code":
        fused = jnp.concatenate([image, jnp.tensordot(w, views, 1, precision="highest")], axis=-1)
    elif mode == "replication":
        scaled = jnp.sqrt(len(w) * w)[:, None, None] * views
        fused = jnp.concatenate([image, *scaled], axis=-1)
    else:
        every = jnp.concatenate([image[None], views])
        force = jnp.abs(every) * jnp.concatenate([jnp.ones(1, w.dtype), len(w) * w])[:, None, None]
        fused = jnp.take_along_axis(every, jnp.argmax(force, axis=0)[None], axis=0)[0]
    return fused.astype(image_code.dtype)
