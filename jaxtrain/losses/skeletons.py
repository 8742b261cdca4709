"""Skeletons of masks and of grey images, and the Betti numbers of masks."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxtrain.core import Number
from jaxtrain.core.numerics import static_int


def _neighbours(x: Array, axis: int, fill: Number) -> tuple[Array, Array]:
    """The values before and after each entry along an axis; ``fill`` beyond the border."""
    n = x.shape[axis]
    edge = jnp.full_like(jax.lax.slice_in_dim(x, 0, 1, axis=axis), fill)
    before = jnp.concatenate([edge, jax.lax.slice_in_dim(x, 0, n - 1, axis=axis)], axis)
    return before, jnp.concatenate([jax.lax.slice_in_dim(x, 1, n, axis=axis), edge], axis)


def _erode(x: Array) -> Array:
    """The least value under a cross of five pixels."""
    (up, down), (left, right) = (_neighbours(x, axis, jnp.inf) for axis in (1, 2))
    return jnp.minimum(jnp.minimum(jnp.minimum(up, down), jnp.minimum(left, right)), x)


def _open(x: Array) -> Array:
    """The largest value in a square of nine pixels, of the eroded image; row and column after each other."""
    x = _erode(x)
    for axis in (1, 2):
        before, after = _neighbours(x, axis, -jnp.inf)
        x = jnp.maximum(jnp.maximum(before, after), x)
    return x


def soft_skeletonize(images: Float[Array, "..."], *, num_iters: int = 3) -> Float[Array, "..."]:
    r"""A skeleton of grey images that can be differentiated: what erosion would lose to opening, layer by layer.

    .. math:: S \leftarrow \mathrm{relu}(I - I \circ B), \qquad \text{then } n \text{ times:} \quad
       I \leftarrow I \ominus C, \quad \delta = \mathrm{relu}(I - I \circ B), \quad
       S \leftarrow S + \mathrm{relu}(\delta - S \delta),

    where :math:`\ominus C` is the minimum over a cross of five pixels and :math:`\circ B` that erosion followed by the
    maximum over a square of nine. Pixels beyond the border are ignored.

    Args:
      images: ``(batch, height, width)``, values in [0, 1].
      num_iters: :math:`n`, at least half the width of the thickest structure; static.

    Returns:
      ``(batch, height, width)``.

    Raises:
      ValueError: images without the three axes, or ``num_iters`` below 0.

    Source: Shit, Paetzold, Sekuboyina and others (2021), arXiv 2003.07311.

    >>> bar = jnp.zeros((1, 5, 7)).at[0, 1:4].set(1.0)  # three rows thick
    >>> soft_skeletonize(bar)[0, :, 3].tolist()
    [0.0, 0.0, 1.0, 0.0, 0.0]
    """
    num_iters = static_int("num_iters", num_iters, low=0)
    if images.ndim != 3:
        raise ValueError(f"soft_skeletonize: images of shape {images.shape}; give (batch, height, width)")

    def layer(_, carry):
        image, skeleton = carry
        image = _erode(image)
        delta = jax.nn.relu(image - _open(image))
        return image, skeleton + jax.nn.relu(delta - skeleton * delta)

    return jax.lax.fori_loop(0, num_iters, layer, (images, jax.nn.relu(images - _open(images))))[1]


def skeleton_tube(masks: Array, *, dilations: int = 2) -> Bool[Array, "batch height width"]:
    r"""The skeleton of binary masks, one pixel wide, thickened again inside the mask; runs under ``jit``.

    Thinning by Zhang and Suen: until nothing changes, two passes delete every pixel that has 2 to 6 neighbours of its
    eight, exactly one change from off to on around it and, of east, south, west and north, not all of :math:`nes` nor
    of :math:`esw` on (in the second pass :math:`new`, :math:`nsw`). Components and holes stay, but for specks of two by
    two pixels, which vanish. Then :math:`d` dilations by a cross of five pixels, cut to the mask.

    Args:
      masks: ``(batch, height, width)`` of bool.
      dilations: :math:`d`; 2 in the papers, 0 for the bare skeleton; static.

    Returns:
      ``(batch, height, width)`` of bool.

    Raises:
      TypeError: masks that are not bool.
      ValueError: masks without the three axes, or ``dilations`` below 0.

    Source: Zhang, Suen (1984), Communications of the ACM 27(3); Kirchhoff and others (2024), arXiv 2404.03010.

    >>> bar = jnp.zeros((1, 5, 7), bool).at[0, 1:4].set(True)
    >>> skeleton_tube(bar, dilations=0)[0, :, 3].tolist()
    [False, False, True, False, False]
    """
    dilations = static_int("dilations", dilations, low=0)
    if masks.dtype != bool:
        raise TypeError(f"skeleton_tube: masks of dtype {masks.dtype}; give bool, such as labels > 0")
    if masks.ndim != 3:
        raise ValueError(f"skeleton_tube: masks of shape {masks.shape}; give (batch, height, width)")
    if masks.shape[1] == 0 or masks.shape[2] == 0:
        return masks

    def thinned(x: Array, second: bool) -> Array:
        north, south = _neighbours(x, 1, False)
        (nw, ne), (west, east), (sw, se) = (_neighbours(row, 2, False) for row in (north, x, south))
        around = jnp.stack([north, ne, east, se, south, sw, west, nw]).astype(jnp.int8)
        count = around.sum(0)
        rises = jnp.sum((around == 0) & (jnp.roll(around, -1, axis=0) == 1), axis=0)
        if second:
            free = ~(north & east & west) & ~(north & south & west)
        else:
            free = ~(north & east & south) & ~(east & south & west)
        return x & ~((count >= 2) & (count <= 6) & (rises == 1) & free)

    def again(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        x, _ = carry
        new = thinned(thinned(x, False), True)
        return new, jnp.any(new != x)

    x, _ = jax.lax.while_loop(lambda carry: carry[1], again, (masks, jnp.array(True)))
    for _ in range(dilations):
        (up, down), (left, right) = (_neighbours(x, axis, False) for axis in (1, 2))
        x = x | up | down | left | right
    return x & masks


def betti_numbers(mask: np.ndarray) -> tuple[int, int]:
    """Components and holes of a mask, on the host with SciPy: touching at a corner joins the mask, not its ground.

    Args:
      mask: ``(height, width)`` of bool.

    Returns:
      Components of the foreground; components of the background that do not reach the border.

    Raises:
      TypeError: a mask that is not bool.
      ValueError: a mask without the two axes.

    Source: Valverde, Koga, Otsuka and others (2025), arXiv 2503.03365.

    >>> betti_numbers(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) > 0)  # a ring of corners
    (1, 1)
    """
    from scipy.ndimage import label

    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"betti_numbers: mask of dtype {mask.dtype}; give bool")
    if mask.ndim != 2:
        raise ValueError(f"betti_numbers: mask of shape {mask.shape}; give (height, width)")
    # a frame of background joins all of it that reaches the border
    return label(mask, np.ones((3, 3)))[1], label(np.pad(~mask, 1, constant_values=True))[1] - 1


def betti_error(predicted: np.ndarray, mask: np.ndarray) -> tuple[int, int]:
    """How many components and how many holes a predicted mask has too many or too few, on the host.

    Args:
      predicted: ``(height, width)`` of bool.
      mask: the true one, of the same shape.

    Returns:
      The absolute differences of the two :func:`betti_numbers`.

    Raises:
      TypeError: masks that are not bool.
      ValueError: shapes that disagree.

    Source: Valverde, Koga, Otsuka and others (2025), arXiv 2503.03365.

    >>> line = np.ones((1, 5), bool)
    >>> betti_error(line & (np.arange(5) != 2), line)  # a gap
    (1, 0)
    """
    if np.shape(predicted) != np.shape(mask):
        raise ValueError(f"betti_error: predicted {np.shape(predicted)} and mask {np.shape(mask)} disagree")
    (a0, a1), (b0, b1) = betti_numbers(predicted), betti_numbers(mask)
    return abs(a0 - b0), abs(a1 - b1)
