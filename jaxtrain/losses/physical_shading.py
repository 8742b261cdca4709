"""Shading that follows physics: the GGX reflectance, light of spherical Gaussians, and a lit sphere to try them on."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.core import Number, check_finite_number
from jaxtrain.core.numerics import static_int
from jaxtrain.losses._logits import widened

_TINY = float(np.finfo(np.float32).tiny)
_SMOOTHEST = 0.01  # D is 1/(π a²) = 3e7 then; its square is a number in float32 still


def _dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=-1, keepdims=True)


def ggx_brdf(
    n: Float[Array, "... 3"],
    v: Float[Array, "... 3"],
    l: Float[Array, "... 3"],  # noqa: E741
    *,
    albedo: Float[Array, "... 3"],
    roughness: Float[Array, "..."],
    metallic: Float[Array, "..."],
) -> Float[Array, "... 3"]:
    r"""How much of the light from one direction a surface sends into another (GGX, Smith-Schlick, Schlick's Fresnel).

    With :math:`h = (v + l) / \|v + l\|`, :math:`a = r^2`, :math:`k = a / 2`,
    :math:`F_0 = 0.04\,(1 - m) + m\,\rho`,

    .. math:: f = \frac{D G F}{4\, (n v)(n l)} + (1 - m)(1 - F) \frac{\rho}{\pi}, \qquad
       D = \frac{a^2}{\pi ((n h)^2 (a^2 - 1) + 1)^2},

    .. math:: G = \frac{(n v)}{(n v)(1 - k) + k} \cdot \frac{(n l)}{(n l)(1 - k) + k}, \qquad
       F = F_0 + (1 - F_0)(1 - v h)^5.

    It is reciprocal, :math:`f(v, l) = f(l, v)`. A metal sends back no more light than it gets; a white dielectric seen
    at 80 degrees sends back up to 1.2 times that, since the diffuse part knows the Fresnel term of one half vector
    only. What arrives is the sum of :math:`f L (n l)` over the lights.

    Args:
      n: ``(..., 3)`` unit normals, or 0 where there is no surface: dark, without a slope.
      v: ``(..., 3)`` unit vectors to the viewer.
      l: ``(..., 3)`` unit vectors to the light; all shapes are broadcast.
      albedo: :math:`\rho`, ``(..., 3)`` in [0, 1].
      roughness: :math:`r`, ``(..., 1)`` in [0, 1]; below 0.01 it counts as 0.01.
      metallic: :math:`m`, ``(..., 1)`` in [0, 1].

    Returns:
      ``(..., 3)``, per steradian, in the dtype of ``n``; 0 where viewer or light are below the surface.

    Raises:
      ValueError: vectors without three components, or a roughness or metallicity without one.

    Source: Walter, Marschner, Li and Torrance (2007); as in MatDecompSDF (2025), arXiv 2507.04749.

    >>> up = jnp.array([0.0, 0.0, 1.0])
    >>> f = ggx_brdf(up, up, up, albedo=jnp.ones(3), roughness=jnp.ones(1), metallic=jnp.ones(1))
    >>> round(float(4 * jnp.pi * f[0]), 4)  # D = 1/π, G = F = 1
    1.0
    """
    for name, x, size in (
        ("n", n, 3),
        ("v", v, 3),
        ("l", l, 3),
        ("albedo", albedo, 3),
        ("roughness", roughness, 1),
        ("metallic", metallic, 1),
    ):
        if x.ndim == 0 or x.shape[-1] != size:
            raise ValueError(f"ggx_brdf: {name} of shape {x.shape}; its last axis must have size {size}")
    dtype = n.dtype
    n, v, l, rho, r, m = (widened(x) for x in (n, v, l, albedo, roughness, metallic))  # noqa: E741
    nv, nl = _dot(n, v), _dot(n, l)
    seen = (nv > 0) & (nl > 0)
    between = jnp.where(seen, v + l, 1)  # whatever has a length and a slope
    h = between / jnp.sqrt(_dot(between, between))
    a = jnp.maximum(r, _SMOOTHEST) ** 2
    # (n h)² (a² - 1) + 1 would cancel for shiny surfaces
    across = jnp.cross(n, h)
    spread = jnp.where(seen, (a * _dot(n, h)) ** 2 + _dot(across, across), 1)
    k = a / 2
    nv, nl = jnp.maximum(nv, 0), jnp.maximum(nl, 0)
    visible = 1 / (4 * (nv * (1 - k) + k) * (nl * (1 - k) + k))  # G over 4 (n v)(n l), without a division by 0
    f0 = 0.04 * (1 - m) + m * rho
    fresnel = f0 + (1 - f0) * (1 - jnp.clip(_dot(v, h), 0, 1)) ** 5
    specular = (a / spread) ** 2 / jnp.pi * visible * fresnel
    diffuse = (1 - m) * (1 - fresnel) * rho / jnp.pi
    return jnp.where(seen, specular + diffuse, 0).astype(dtype)


class SphericalGaussians(NamedTuple):
    """Light from all around as a sum of soft spots.

    Attributes:
      axis: ``(lobes, 3)`` directions of the spots; of any length but 0.
      sharpness: ``(lobes,)`` ≥ 0; 0 is light from everywhere.
      amplitude: ``(lobes, 3)`` colours at the centres.
    """

    axis: Float[Array, "lobes 3"]
    sharpness: Float[Array, " lobes"]
    amplitude: Float[Array, "lobes 3"]


def spherical_gaussian_light(dirs: Float[Array, "*batch 3"], lobes: SphericalGaussians) -> Float[Array, "*batch 3"]:
    r"""The light that comes from a direction.

    .. math:: L(d) = \sum_k \mu_k\, e^{\lambda_k (\langle d, \xi_k \rangle - 1)}.

    A lobe sends :math:`\mu\, 2 \pi (1 - e^{-2 \lambda}) / \lambda` in all.

    Args:
      dirs: ``(..., 3)`` unit vectors.
      lobes: axes (made unit vectors here), sharpnesses and amplitudes.

    Returns:
      ``(..., 3)`` radiances in the dtype of ``dirs``.

    Raises:
      ValueError: shapes that disagree.

    Source: Wang, Ren, Gong, Snyder and Guo (2009); as in MatDecompSDF (2025), arXiv 2507.04749.

    >>> lobes = SphericalGaussians(jnp.array([[0.0, 0.0, 2.0]]), jnp.array([3.0]), jnp.array([[1.0, 0.5, 0.25]]))
    >>> spherical_gaussian_light(jnp.array([0.0, 0.0, 1.0]), lobes).tolist()
    [1.0, 0.5, 0.25]
    """
    count = lobes.sharpness.shape
    if dirs.ndim == 0 or dirs.shape[-1] != 3 or lobes.axis.shape != (*count, 3) or lobes.amplitude.shape != (*count, 3):
        raise ValueError(
            f"spherical_gaussian_light: dirs {dirs.shape}, axis {lobes.axis.shape}, sharpness {count}, amplitude "
            f"{lobes.amplitude.shape}; give (..., 3), (lobes, 3), (lobes,) and (lobes, 3)"
        )
    d, axis, sharpness, amplitude = (widened(x) for x in (dirs, *lobes))
    axis = axis / jnp.sqrt(_dot(axis, axis))
    # products one by one: a matrix product may be rounded to half precision on accelerators, which the exponent shows
    cosine = jnp.sum(d[..., None, :] * axis, axis=-1)
    weight = jnp.exp(sharpness * (cosine - 1))
    return jnp.sum(weight[..., None] * amplitude, axis=-2).astype(dirs.dtype)


def sphere_render(
    radius: Number,
    light_dirs: Float[Array, "lights 3"],
    light_rgb: Float[Array, "..."],
    *,
    albedo: Float[Array, "3"],
    roughness: Number,
    metallic: Number,
    size: int = 32,
    sharpness: Number = 64.0,
) -> Float[Array, "size size 4"]:
    r"""A sphere of one material as it looks from far along the z axis, to fit parameters to pixels.

    .. math:: I = \sum_i f(n, e_z, l_i)\, L_i \max(\langle n, l_i \rangle, 0), \qquad
       \alpha = \sigma(s\, (r - \sqrt{x^2 + y^2})).

    The soft outline lets the radius be differentiated.

    Args:
      radius: :math:`r` > 0; the image spans [-1, 1]²; may be traced, as all numbers here but ``size``.
      light_dirs: ``(lights, 3)`` unit vectors.
      light_rgb: ``(lights, 3)`` radiance times solid angle.
      albedo: ``(3,)``.
      roughness, metallic: numbers in [0, 1].
      size: pixels of a side; static.
      sharpness: :math:`s` > 0 of the outline.

    Returns:
      ``(size, size, 4)`` colours and, last, alpha; rows run along y from -1, columns along x. Not multiplied.

    Raises:
      ValueError: shapes that disagree; a number out of range.

    Source: a test scene for MatDecompSDF (2025), arXiv 2507.04749.

    >>> light = jnp.array([[0.0, 0.0, 1.0]])
    >>> image = sphere_render(0.5, light, jnp.pi * jnp.ones((1, 3)), albedo=jnp.ones(3), roughness=1.0, metallic=0.0, size=3)
    >>> image.shape, round(float(image[1, 1, 0]), 4)  # 0.96 of diffuse and a quarter of 0.04 of specular light
    ((3, 3, 4), 0.97)
    """
    check_finite_number("radius", radius, low=_TINY)
    check_finite_number("sharpness", sharpness, low=_TINY)
    check_finite_number("roughness", roughness, low=0.0, high=1.0)
    check_finite_number("metallic", metallic, low=0.0, high=1.0)
    if light_dirs.ndim != 2 or light_dirs.shape[-1] != 3 or light_rgb.shape != light_dirs.shape:
        raise ValueError(
            f"sphere_render: light_dirs {light_dirs.shape} and light_rgb {light_rgb.shape}; give (lights, 3)"
        )
    size = static_int("size", size, low=1)
    at = (2 * jnp.arange(size, dtype=jnp.promote_types(albedo.dtype, jnp.float32)) + 1) / size - 1
    x, y = at[None, :], at[:, None]
    far = jnp.sqrt(jnp.maximum(x**2 + y**2, _TINY))
    # outside, the rim's normal goes on; the floor bounds the slope there
    scale = 1 / jnp.maximum(far, radius)
    z = jnp.sqrt(jnp.maximum(1 - (far * scale) ** 2, 1e-4))
    n = jnp.stack([x * scale, y * scale, z], axis=-1)
    n = n / jnp.sqrt(_dot(n, n))
    material = {
        "albedo": albedo,
        "roughness": jnp.reshape(jnp.asarray(roughness, n.dtype), (1,)),
        "metallic": jnp.reshape(jnp.asarray(metallic, n.dtype), (1,)),
    }
    each = n[:, :, None]
    reflected = ggx_brdf(each, jnp.array([0.0, 0.0, 1.0], n.dtype), light_dirs, **material)
    colour = jnp.sum(reflected * light_rgb * jnp.maximum(_dot(each, light_dirs), 0), axis=2)
    alpha = jax.nn.sigmoid(sharpness * (radius - far))
    return jnp.concatenate([colour, alpha[..., None]], axis=-1)
