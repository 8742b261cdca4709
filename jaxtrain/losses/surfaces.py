"""Surfaces as zeros of a signed distance: the eikonal loss, smooth materials, and opacity along a ray."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Key, Number, check_finite_number, check_key
from jaxtrain.losses._logits import widened

_TINY = float(np.finfo(np.float32).tiny)


def _check_points(where: str, points: Array) -> None:
    if points.ndim != 2:
        raise ValueError(f"{where}: points of shape {points.shape}; give (points, dimensions)")


def eikonal_loss(sdf_fn: Callable[[Array], Array], points: Float[Array, "n ..."]) -> Float[Array, " n"]:
    r"""A signed distance changes by one for each unit of length: its gradient must have norm one everywhere.

    .. math:: \ell(x) = (\|\nabla f(x)\| - 1)^2.

    Args:
      sdf_fn: a point ``(d,)`` to a number; bind its parameters, through which the loss is differentiated.
      points: ``(n, d)``, drawn in the whole region and near the surface.

    Returns:
      ``(n,)``, one loss for each point. Where the gradient is 0 the loss is 1 and has no slope.

    Raises:
      ValueError: points that are not a matrix, or a function whose value is not a number.

    Source: Gropp, Yariv, Haim, Atzmon and Lipman (2020), arXiv 2002.10099; as in MatDecompSDF (2025),
    arXiv 2507.04749.

    >>> eikonal_loss(lambda x: 3 * x[0] - 1, jnp.zeros((2, 3))).tolist()  # (3 - 1)²
    [4.0, 4.0]
    """
    _check_points("eikonal_loss", points)
    shape = jax.eval_shape(sdf_fn, jax.ShapeDtypeStruct(points.shape[1:], points.dtype)).shape
    if shape != ():
        raise ValueError(f"eikonal_loss: sdf_fn must give one number for a point, got shape {shape}")
    slope = widened(jax.vmap(jax.grad(sdf_fn))(points))
    square = jnp.sum(slope**2, axis=-1)
    flat = square == 0
    norm = jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, square)))
    return ((norm - 1) ** 2).astype(points.dtype)


def material_smoothness_loss(
    material_fn: Callable[[Array], Array], key: Key, points: Float[Array, "n ..."], *, noise: Number = 0.01
) -> Float[Array, " n"]:
    r"""Materials of near points should be alike, so that shading is not painted into them.

    .. math:: \ell(x) = \|m(x) - m(x + \xi)\|_1, \qquad \xi \sim \mathcal N(0, \sigma^2 I).

    Args:
      material_fn: a point ``(d,)`` to its material ``(k,)``, such as albedo, roughness and metallicity.
      key: draws the displacements.
      points: ``(n, d)`` on the surface.
      noise: :math:`\sigma` ≥ 0 in units of the points; may be traced.

    Returns:
      ``(n,)``, one loss for each point, in the dtype of ``points``.

    Raises:
      TypeError: no typed key.
      ValueError: points that are not a matrix; a noise out of range.

    Source: MatDecompSDF (2025), arXiv 2507.04749.

    >>> material_smoothness_loss(lambda x: jnp.array([0.5, 0.2]), jax.random.key(0), jnp.ones((2, 3))).tolist()
    [0.0, 0.0]
    """
    _check_points("material_smoothness_loss", points)
    check_key(key, where="material_smoothness_loss")
    check_finite_number("noise", noise, low=0.0)
    moved = points + (noise * jax.random.normal(key, points.shape, points.dtype)).astype(points.dtype)
    here, there = (widened(jax.vmap(material_fn)(x)) for x in (points, moved))
    return jnp.sum(jnp.abs(here - there), axis=tuple(range(1, here.ndim))).astype(points.dtype)


def neus_alpha(sdf_i: Float[Array, "*shape"], sdf_j: Float[Array, "..."], *, s: Number) -> Float[Array, "*shape"]:
    r"""Opacity of a piece of a ray between two signed distances (NeuS): a surface that is entered is opaque.

    .. math:: \alpha = \max\Big(\frac{\Phi(f_i) - \Phi(f_j)}{\Phi(f_i)}, 0\Big), \qquad \Phi(f) = \sigma(s f).

    As :math:`1 - \exp(\log \Phi(f_j) - \log \Phi(f_i))`, since deep inside the quotient is 0/0.

    Args:
      sdf_i: signed distances where the pieces begin, of any shape.
      sdf_j: the same where they end.
      s: sharpness > 0, one over the width of the surface; may be traced (it is often learnt).

    Returns:
      Opacities in [0, 1] in the shape and dtype of ``sdf_i``.

    Raises:
      ValueError: shapes that disagree; a sharpness that is not positive.

    Source: Wang, Liu, Liu, Theobalt, Komura and Wang (2021), arXiv 2106.10689; as in MatDecompSDF (2025),
    arXiv 2507.04749.

    >>> found = neus_alpha(jnp.array([1.0, -1.0]), jnp.array([-1.0, 1.0]), s=100.0)
    >>> [round(float(x), 4) for x in found]
    [1.0, 0.0]
    """
    check_finite_number("s", s, low=_TINY)
    if sdf_i.shape != sdf_j.shape:
        raise ValueError(f"neus_alpha: sdf_i {sdf_i.shape} and sdf_j {sdf_j.shape} disagree")
    before, after = (jax.nn.log_sigmoid(s * widened(f)) for f in (sdf_i, sdf_j))
    return (0 - jnp.expm1(jnp.minimum(after - before, 0))).astype(sdf_i.dtype)
