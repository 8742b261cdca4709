"""Break-A-Scene: several concepts from one image, by masks on the denoising loss and on the attention of their tokens."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxtrain.core import Key, Number, check_finite_number, check_key
from jaxtrain.core.numerics import static_int
from jaxtrain.losses._logits import widened


def masked_denoising_loss(
    pred: Float[Array, "batch *space channels"], target: Float[Array, "..."], mask: Array
) -> Float[Array, " batch"]:
    r"""The mean square error where a mask is, :math:`\mathrm{mean}\,(M \odot \hat\epsilon - M \odot \epsilon)^2`.

    The mean is over all elements, so a small mask gives a small loss. A mask of ones is the ordinary loss, as in the
    term that preserves the prior on images of the class.

    Args:
      pred: ``(batch, ..., channels)`` predicted noise, or velocity.
      target: of the same shape.
      mask: ``(batch, ..., 1)``, 0 and 1 (or bool): the union of the concepts that the prompt names.

    Returns:
      ``(batch,)``, in the dtype of ``pred``.

    Raises:
      ValueError: shapes that disagree.

    Source: Avrahami et al. (2023), arXiv 2305.16311, and its released code.

    >>> pred, target = jnp.array([[[1.0], [5.0]]]), jnp.zeros((1, 2, 1))
    >>> masked_denoising_loss(pred, target, jnp.array([[[1.0], [0.0]]])).tolist()
    [0.5]
    """
    if target.shape != pred.shape or pred.ndim < 2:
        raise ValueError(f"masked_denoising_loss: pred {pred.shape} and target {target.shape} disagree")
    if mask.shape != (*pred.shape[:-1], 1):
        raise ValueError(
            f"masked_denoising_loss: mask {mask.shape} for pred {pred.shape}; give {(*pred.shape[:-1], 1)}"
        )
    m = mask.astype(jnp.promote_types(pred.dtype, jnp.float32))
    square = (m * (widened(pred) - widened(target))) ** 2
    return square.mean(axis=tuple(range(1, square.ndim))).astype(pred.dtype)


def attention_mask_loss(
    attn_maps: Float[Array, "batch concepts height width"],
    masks: Array,
    *,
    normalize: str = "max",
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, " batch"]:
    r"""How far the attention to each concept's token is from its mask, summed over concepts.

    .. math:: \sum_i \mathrm{mean}\Big(\frac{A_i}{\max A_i} - M_i\Big)^2

    The gradient flows through the maximum too, as in the release: only the shape of a map counts, not its height.

    Args:
      attn_maps: ``(batch, concepts, height, width)`` cross-attention averaged over heads and layers, ≥ 0.
      masks: of the same shape, 0 and 1 (or bool).
      normalize: ``"max"``, or ``"none"`` for maps whose height is to be 1.
      where: ``(batch, concepts)`` the concepts that each prompt names; default all.

    Returns:
      ``(batch,)``, in the dtype of the maps. A map without a positive entry is taken as it is.

    Raises:
      ValueError: shapes that disagree, or an unknown ``normalize``.

    Source: Avrahami et al. (2023), arXiv 2305.16311, and its released code.

    >>> mask = jnp.array([[[[1.0, 0.0]]]])
    >>> [attention_mask_loss(a, mask).tolist() for a in (0.3 * mask, jnp.full((1, 1, 1, 2), 0.3))]
    [[0.0], [0.5]]
    """
    name = "attention_mask_loss"
    if attn_maps.ndim != 4 or masks.shape != attn_maps.shape:
        raise ValueError(
            f"{name}: attn_maps {attn_maps.shape} and masks {masks.shape} must agree in (batch, concepts, height, width)"
        )
    if normalize not in ("max", "none"):
        raise ValueError(f"{name}: normalize must be 'max' or 'none', got {normalize!r}")
    if where is not None and where.shape != attn_maps.shape[:2]:
        raise ValueError(f"{name}: where {where.shape} for attn_maps {attn_maps.shape}; give {attn_maps.shape[:2]}")
    a = widened(attn_maps)
    if normalize == "max":
        # first by a constant, so that the gradient of the maximum is taken at 1: at 1e-20 its square would underflow
        highest = jax.lax.stop_gradient(a.max(axis=(2, 3), keepdims=True))
        a = a / jnp.where(highest > 0, highest, 1.0)
        a = a / jnp.where(highest > 0, a.max(axis=(2, 3), keepdims=True), 1.0)
    apart = ((a - masks.astype(a.dtype)) ** 2).mean(axis=(2, 3))
    if where is not None:
        apart = jnp.where(where, apart, 0.0)
    return apart.sum(axis=1).astype(attn_maps.dtype)


def union_sample(key: Key, n_concepts: int) -> Bool[Array, " concepts"]:
    r"""The concepts that the next prompt names: their number even in 1 … N, then any as many of them.

    A subset S has the probability :math:`1 / \big(N \binom{N}{|S|}\big)`, a concept :math:`(N + 1) / 2N`.

    Args:
      key: a typed key; ``vmap`` over keys for a batch.
      n_concepts: N ≥ 1.

    Returns:
      ``(concepts,)``, never all False.

    Raises:
      TypeError, ValueError: no key; no concept.

    Source: Avrahami et al. (2023), arXiv 2305.16311, and its released code.

    >>> union_sample(jax.random.key(0), 1).tolist()
    [True]
    """
    check_key(key, where="union_sample")
    n = static_int("n_concepts", n_concepts, low=1)
    size, which = jax.random.split(key)
    return jax.random.permutation(which, n) < jax.random.randint(size, (), 1, n + 1)


def _nearest(masks: Array, height: int, width: int) -> Array:
    """Masks at another resolution: the pixel at the upper left of where the new one lies."""
    rows, columns = (np.arange(new) * old // new for new, old in zip((height, width), masks.shape[2:], strict=True))
    return masks[:, :, rows[:, None], columns]


def break_a_scene_loss(
    pred: Float[Array, "batch height width channels"],
    target: Float[Array, "..."],
    attn: Float[Array, "batch concepts rows columns"],
    masks: Array,
    *,
    lambda_attn: Number = 1e-2,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, " batch"]:
    r"""Denoising inside the union of the named concepts, plus the attention of each to its own mask.

    :func:`masked_denoising_loss` + :math:`\lambda` :func:`attention_mask_loss`, with masks brought to both resolutions by
    their nearest pixels. Train the new tokens alone at a high rate first (5e-4), then all weights at a low one (2e-6).

    Args:
      pred: ``(batch, height, width, channels)`` predicted noise, or velocity.
      target: of the same shape.
      attn: ``(batch, concepts, rows, columns)`` cross-attention of the concepts' tokens, ≥ 0.
      masks: ``(batch, concepts, ...)`` of any height and width, 0 and 1 (or bool).
      lambda_attn: :math:`\lambda` ≥ 0; may be traced.
      where: ``(batch, concepts)`` the concepts that each prompt names (:func:`union_sample`); default all.

    Returns:
      ``(batch,)``, in the dtype of ``pred``.

    Raises:
      ValueError: shapes that disagree, or a weight out of range.

    Source: Avrahami et al. (2023), arXiv 2305.16311, and its released code.

    >>> pred, target = jnp.ones((1, 2, 2, 1)), jnp.zeros((1, 2, 2, 1))
    >>> masks = jnp.eye(2)[None, None]
    >>> break_a_scene_loss(pred, target, jnp.ones((1, 1, 2, 2)), masks, lambda_attn=1.0).tolist()  # 1/2 + 1/2
    [1.0]
    """
    check_finite_number("lambda_attn", lambda_attn, low=0.0)
    if pred.ndim != 4 or attn.ndim != 4 or masks.ndim != 4 or masks.shape[:2] != attn.shape[:2]:
        raise ValueError(
            f"break_a_scene_loss: pred {pred.shape}, attn {attn.shape} and masks {masks.shape} must be (batch, height, "
            "width, channels) and twice (batch, concepts, rows, columns)"
        )
    if where is not None and where.shape != masks.shape[:2]:
        raise ValueError(f"break_a_scene_loss: where {where.shape} for masks {masks.shape}; give {masks.shape[:2]}")
    fine = _nearest(masks, *pred.shape[1:3])
    if where is not None:
        fine = fine * where[:, :, None, None].astype(fine.dtype)
    denoising = masked_denoising_loss(widened(pred), target, fine.max(axis=1)[..., None])
    attention = attention_mask_loss(widened(attn), _nearest(masks, *attn.shape[2:]), where=where)
    return (denoising + lambda_attn * attention).astype(pred.dtype)
