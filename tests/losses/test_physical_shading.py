"""GGX by angles, its energy by quadrature, reciprocity; lobes' integrals; surfaces with known distances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.losses import (
    SphericalGaussians,
    eikonal_loss,
    ggx_brdf,
    material_smoothness_loss,
    neus_alpha,
    sphere_render,
    spherical_gaussian_light,
)
from jaxtrain.testing import check_loss

RNG = np.random.default_rng(0)
UP = np.array([0.0, 0.0, 1.0])
GGX = jax.jit(ggx_brdf)  # eager calls compile every step


def _directions(count, upper=False):
    x = RNG.normal(size=(count, 3))
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    return x * [1, 1, 1] if not upper else np.concatenate([x[:, :2], np.abs(x[:, 2:])], -1)


def _materials(count):
    return {
        "albedo": jnp.asarray(RNG.uniform(size=(count, 3))),
        "roughness": jnp.asarray(RNG.uniform(0.1, 1.0, (count, 1))),
        "metallic": jnp.asarray(RNG.uniform(size=(count, 1))),
    }


def _hemisphere(polar=200, around=128):
    """Directions above the horizon and their solid angles times the cosine: Gauss-Legendre in the angle, even around."""
    nodes, weights = np.polynomial.legendre.leggauss(polar)
    theta, phi = (nodes + 1) * np.pi / 4, 2 * np.pi * np.arange(around) / around
    t, p = np.meshgrid(theta, phi, indexing="ij")
    d = np.stack([np.sin(t) * np.cos(p), np.sin(t) * np.sin(p), np.cos(t)], -1)
    area = np.sin(t) * np.cos(t) * (weights * np.pi / 4)[:, None] * 2 * np.pi / around
    return d.reshape(-1, 3), area.ravel()


def test_ggx_by_angles(x64):
    """Walter et al. (2007), written with tangents instead of the difference of squares, and Smith's G in full."""
    v, l, m = _directions(50, upper=True), _directions(50, upper=True), _materials(50)  # noqa: E741
    got = GGX(jnp.asarray(UP), jnp.asarray(v), jnp.asarray(l), **m)
    for i in range(50):
        r, metal, rho = float(m["roughness"][i, 0]), float(m["metallic"][i, 0]), np.asarray(m["albedo"][i])
        cos_v, cos_l = v[i, 2], l[i, 2]
        between = np.arccos(np.clip(v[i] @ l[i], -1, 1))  # twice the angle to the half vector
        h = (v[i] + l[i]) / (2 * np.cos(between / 2))
        tilt = np.arctan2(np.hypot(h[0], h[1]), h[2])
        d = 1 / (np.pi * r**4 * np.cos(tilt) ** 4 * (1 + (np.tan(tilt) / r**2) ** 2) ** 2)
        g = np.prod([c / (c * (1 - r**2 / 2) + r**2 / 2) for c in (cos_v, cos_l)])
        f0 = 0.04 + metal * (rho - 0.04)
        f = f0 + (1 - f0) * (1 - np.cos(between / 2)) ** 5
        wanted = d * g * f / (4 * cos_v * cos_l) + (1 - metal) * (1 - f) * rho / np.pi
        np.testing.assert_allclose(got[i], wanted, rtol=1e-9)  # of arccos and the tangent near grazing


def test_reciprocal_and_dark_below_the_horizon(x64):
    n, v, l = (jnp.asarray(_directions(60)) for _ in range(3))  # noqa: E741
    m = _materials(60)
    there, back = GGX(n, v, l, **m), GGX(n, l, v, **m)
    np.testing.assert_allclose(there, back, rtol=1e-12)
    above = np.asarray((jnp.sum(n * v, -1) > 0) & (jnp.sum(n * l, -1) > 0))
    assert np.all(there[above] > 0) and not np.any(there[~above]) and 5 < above.sum() < 55


def test_white_furnace(x64):
    """White metal under white light sends back no more than it gets, and nearly all if it is smooth."""
    l, weight = _hemisphere()  # noqa: E741
    angles = np.deg2rad([0.0, 30.0, 60.0, 80.0])
    v = jnp.asarray(np.stack([np.sin(angles), 0 * angles, np.cos(angles)], -1))[:, None]
    white, one = jnp.ones(3), jnp.ones(1)

    def sent(roughness, metallic):
        f = GGX(jnp.asarray(UP), v, jnp.asarray(l), albedo=white, roughness=roughness * one, metallic=metallic * one)
        return np.asarray(f[..., 0] @ weight)

    assert all(np.all(sent(roughness, 1.0) <= 1 + 1e-9) for roughness in (0.3, 0.6, 1.0))
    assert np.all(sent(0.3, 1.0)[:3] > 0.9) and sent(1.0, 1.0)[0] < 0.8  # one bounce only: rough metal is dark
    # diffuse and specular light together are not bounded: 1 - F is that of one half vector, not of all that is reflected
    assert np.all(sent(0.3, 0.0)[:2] <= 1)
    np.testing.assert_allclose(sent(0.3, 0.0)[3], 1.187, atol=1e-3)


def test_rough_dielectric_in_closed_form(x64):
    v, l = _directions(20, upper=True), _directions(20, upper=True)  # noqa: E741
    rho = RNG.uniform(size=(20, 3))
    got = GGX(
        jnp.asarray(UP),
        jnp.asarray(v),
        jnp.asarray(l),
        albedo=jnp.asarray(rho),
        roughness=jnp.ones(1),
        metallic=jnp.zeros(1),
    )
    f = 0.04 + 0.96 * (1 - np.sqrt((1 + np.sum(v * l, -1, keepdims=True)) / 2)) ** 5
    # D = 1/π and G / (4 nv nl) = 1 / ((1 + nv)(1 + nl)): Lambert's law but for the Fresnel term
    wanted = f / np.pi / ((1 + v[:, 2:]) * (1 + l[:, 2:])) + (1 - f) * rho / np.pi
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_shiny_highlights_keep_their_digits_in_single_precision():
    tilt = np.array([0.0, 1e-4, 1e-3, 1e-2])[:, None]
    l = np.concatenate([np.sin(tilt), 0 * tilt, np.cos(tilt)], -1)  # noqa: E741
    options = {"albedo": jnp.ones(3), "roughness": jnp.full(1, 0.05), "metallic": jnp.ones(1)}
    with jax.enable_x64(True):
        wanted = GGX(jnp.asarray(UP), jnp.asarray(UP), jnp.asarray(l), **options)
    got = GGX(*(jnp.asarray(x, jnp.float32) for x in (UP, UP, l)), **options)
    np.testing.assert_allclose(got, wanted, rtol=1e-4)  # the tilt of 1e-4 is rounded at 6e-8 in h
    up = jnp.asarray(UP, jnp.float32)
    slope = jax.grad(lambda r: GGX(up, up, -up, albedo=jnp.ones(3), roughness=r, metallic=r).sum())
    assert float(slope(jnp.zeros(1))[0]) == 0.0  # opposite vectors have no half vector


def test_pixels_without_a_surface_are_dark_and_have_no_slope():
    up = jnp.asarray(UP, jnp.float32)
    material = {"albedo": jnp.ones(3), "roughness": jnp.full(1, 0.5), "metallic": jnp.full(1, 0.5)}
    light = lambda n, v, l: ggx_brdf(n, v, l, **material).sum()  # noqa: E731, E741
    value, slopes = jax.jit(jax.value_and_grad(light, argnums=(0, 1, 2)))(0 * up, up, up)
    assert float(value) == 0.0 and not any(np.any(x) for x in slopes)


def test_no_points_no_loss():
    none = jnp.zeros((0, 3))
    assert eikonal_loss(lambda p: p[0], none).shape == (0,)
    assert material_smoothness_loss(lambda p: p, jax.random.key(0), none).shape == (0,)


def test_lobes(x64):
    nodes, weights = np.polynomial.legendre.leggauss(60)
    lobes = SphericalGaussians(*(jnp.asarray(x) for x in (RNG.normal(size=(1, 3)), [3.0], [[1.0, 0.5, 0.2]])))
    phi = 2 * np.pi * np.arange(40) / 40
    c, p = np.meshgrid(nodes, phi, indexing="ij")
    s = np.sqrt(1 - c**2)
    dirs = jnp.asarray(np.stack([s * np.cos(p), s * np.sin(p), c], -1))
    total = np.einsum("ijk,i->k", spherical_gaussian_light(dirs, lobes), weights * 2 * np.pi / 40)
    wanted = 2 * np.pi * (1 - np.exp(-6)) / 3 * np.array([1, 0.5, 0.2])
    np.testing.assert_allclose(total, wanted, rtol=1e-10)  # of the quadrature
    two = SphericalGaussians(*(jnp.concatenate([x, 2 * x]) for x in lobes))
    second = spherical_gaussian_light(dirs, SphericalGaussians(lobes.axis, 2 * lobes.sharpness, 2 * lobes.amplitude))
    both = spherical_gaussian_light(dirs, lobes) + second
    np.testing.assert_allclose(spherical_gaussian_light(dirs, two), both, rtol=1e-12)


def test_eikonal_of_known_surfaces(x64):
    x = jnp.asarray(RNG.normal(size=(20, 3)))
    np.testing.assert_allclose(eikonal_loss(lambda p: jnp.linalg.norm(p) - 0.7, x), 0.0, atol=1e-30)
    got = eikonal_loss(lambda p: jnp.sum(p**2) - 0.49, x)  # a slope of 2|x|
    np.testing.assert_allclose(got, (2 * np.linalg.norm(x, axis=-1) - 1) ** 2, rtol=1e-12)
    # through the parameters, by hand: (c - 1)² has slope 2 (c - 1)
    slope = jax.grad(lambda c: eikonal_loss(lambda p: c * jnp.linalg.norm(p), x).mean())(3.0)
    np.testing.assert_allclose(slope, 4.0, rtol=1e-12)
    slope = jax.grad(lambda c: eikonal_loss(lambda p: c * jnp.sum(p**2), x).sum())(0.0)
    assert float(slope) == 0.0 and float(eikonal_loss(lambda p: 0 * p[0], x)[0]) == 1.0


def test_smoothness_of_a_linear_material(x64):
    w, x = jnp.asarray(RNG.normal(size=(5, 3))), jnp.asarray(RNG.normal(size=(20_000, 3)))
    got = material_smoothness_loss(lambda p: w @ p, jax.random.key(0), x, noise=0.3)
    each = np.linalg.norm(w, axis=-1) * 0.3
    # E|w ξ| = |w| σ sqrt(2/π); five standard errors
    assert abs(got.mean() - each.sum() * np.sqrt(2 / np.pi)) < 5 * float(got.std()) / np.sqrt(20_000)
    same = material_smoothness_loss(lambda p: w @ p, jax.random.key(0), x, noise=0.6)
    np.testing.assert_allclose(same, 2 * got, rtol=1e-9)  # differences of numbers near 1


def test_opacities_telescope_and_survive_deep_inside(x64):
    f = jnp.asarray(np.sort(RNG.normal(size=9))[::-1].copy())
    alpha = neus_alpha(f[:-1], f[1:], s=4.0)
    phi = 1 / (1 + np.exp(-4 * np.asarray(f)))
    np.testing.assert_allclose(alpha, (phi[:-1] - phi[1:]) / phi[:-1], rtol=1e-10)
    np.testing.assert_allclose(jnp.prod(1 - alpha), phi[-1] / phi[0], rtol=1e-12)
    np.testing.assert_array_equal(neus_alpha(f[1:], f[:-1], s=4.0), 0.0)  # surfaces are not seen from inside
    # both Φ are exp(s f) there and less than the least number
    deep = neus_alpha(jnp.array([-20.0]), jnp.array([-20.01]), s=100.0)
    np.testing.assert_allclose(deep, 1 - np.exp(-1.0), rtol=1e-9)


def test_sphere():
    light = {"light_dirs": jnp.array([[0.0, 0.0, 1.0], [0.6, 0.0, 0.8]]), "light_rgb": jnp.ones((2, 3))}
    material = {"albedo": jnp.array([0.9, 0.5, 0.1]), "roughness": 0.5, "metallic": 0.2}

    def total(r, m):
        image = sphere_render(r, **light, **{**material, "roughness": m}, size=21)
        return image.sum(), image

    (_, image), slopes = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(0.6, 0.5)
    at = (2 * np.arange(21) + 1) / 21 - 1
    inside = np.hypot(at[:, None], at[None]) < 0.6
    assert np.all((np.asarray(image[..., 3]) > 0.5) == inside)
    edge = 64.0 * (np.hypot(at[:, None], at[None]) - 0.6)
    np.testing.assert_allclose(
        image[..., 3], 1 / (1 + np.exp(edge)), rtol=1e-4, atol=1e-30
    )  # 64 times a rounded distance
    # at two pixels, from the normal
    for row, column in ((10, 10), (7, 13)):
        x, y = at[column] / 0.6, at[row] / 0.6
        n = jnp.array([x, y, np.sqrt(1 - x**2 - y**2)])
        shared = {k: jnp.atleast_1d(v) for k, v in material.items()}
        wanted = sum(GGX(n, jnp.asarray(UP), l, **shared) * (n @ l) for l in light["light_dirs"])  # noqa: E741
        np.testing.assert_allclose(image[row, column, :3], wanted, rtol=1e-5)  # single precision
    assert all(np.isfinite(float(x)) and float(x) != 0 for x in slopes)


def test_contract():
    x, y = RNG.normal(size=(2, 6, 3))
    surface = lambda p: 2 * jnp.sqrt(jnp.sum(p**2) + 1)  # noqa: E731
    check_loss(jax.jit(lambda x, y: eikonal_loss(surface, x)), predictions=x, targets=y)
    # the noise of an example depends on its place
    paint = lambda x, y: material_smoothness_loss(jnp.sin, jax.random.key(0), x, noise=0.5)  # noqa: E731
    laws = ("shape", "dtype", "finite", "finite_gradient", "gradient")
    check_loss(jax.jit(paint), predictions=x, targets=y, laws=laws)
    check_loss(jax.jit(lambda a, b: neus_alpha(a, b, s=3.0)), predictions=x[:, 0], targets=y[:, 0], laws=laws)


def test_bad_input():
    x, one = jnp.ones((2, 3)), jnp.ones((2, 1))
    with pytest.raises(ValueError, match=r"points of shape \(3,\); give \(points, dimensions\)"):
        eikonal_loss(lambda p: p[0], x[0])
    with pytest.raises(ValueError, match=r"must give one number for a point, got shape \(3,\)"):
        eikonal_loss(lambda p: p, x)
    with pytest.raises(ValueError, match="noise must lie in"):
        material_smoothness_loss(lambda p: p, jax.random.key(0), x, noise=-1.0)
    with pytest.raises(ValueError, match=r"sdf_i \(2, 3\) and sdf_j \(3,\) disagree"):
        neus_alpha(x, x[0], s=1.0)
    with pytest.raises(ValueError, match="s must lie in"):
        neus_alpha(x, x, s=0.0)
    with pytest.raises(ValueError, match=r"roughness of shape \(2, 3\); its last axis must have size 1"):
        ggx_brdf(x, x, x, albedo=x, roughness=x, metallic=one)
    with pytest.raises(ValueError, match=r"axis \(2, 3\), sharpness \(1,\)"):
        spherical_gaussian_light(x, SphericalGaussians(x, jnp.ones(1), x))
    with pytest.raises(ValueError, match=r"light_dirs \(2, 3\) and light_rgb \(3,\)"):
        sphere_render(0.5, x, x[0], albedo=x[0], roughness=0.5, metallic=0.0)
    for name in ("roughness", "metallic"):
        with pytest.raises(ValueError, match=f"{name} must lie in"):
            sphere_render(0.5, x, x, **{"albedo": x[0], "roughness": 0.5, "metallic": 0.5, name: 1.5})
    with pytest.raises(ValueError, match="radius must lie in"):
        sphere_render(0.0, x, x, albedo=x[0], roughness=0.5, metallic=0.0)
