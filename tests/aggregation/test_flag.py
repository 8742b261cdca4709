"""The flag aggregator against the authors' iteration, against singular vectors, and its invariances."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.aggregation import flag_aggregate, flag_weights, gramian

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "robust.npz")
X = GOLDEN["x_9"]
flag_jit = jax.jit(flag_aggregate, static_argnames=("rank", "num_iters", "normalise"))


@pytest.mark.parametrize("rank, weight", [(1, 0.0), (3, 0.0), (3, 5.0)])
def test_iterations_equal_the_authors(rank, weight, x64):
    """Their pair columns carry λ/(p(p−1)) itself where the objective has its square root: λ²/(p(p−1)) of ours."""
    reg = weight**2 / (9 * 8)
    track = np.asarray(flag_weights(gramian(jnp.asarray(unit(X))), rank=rank, reg=reg, num_iters=4).objective)
    for iteration in (1, 2, 3, 4):
        if track[iteration] == track[iteration - 1]:
            break  # theirs goes on after it has risen, ours does not
        got, _ = flag_jit(jnp.asarray(X), rank=rank, reg=reg, num_iters=iteration)
        # float64, an eigenvalue problem of squares
        np.testing.assert_allclose(got, GOLDEN[f"flag_{rank}_{weight:g}_{iteration}"], rtol=0, atol=1e-9)
    assert iteration > 1


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def slow(x, rank, reg, num_iters, eps=1e-7):
    """The iteration on the columns themselves, with all pairs written out, by singular value decompositions."""
    c, p = unit(x).T, len(x)
    pairs = [(i, j) for i in range(p) for j in range(p) if i != j]

    def sine(y, v):
        return abs(1 - np.sum((y.T @ v) ** 2))

    def objective(y):
        own = sum(np.sqrt(sine(y, c[:, i])) for i in range(p))
        return own + reg / (p * (p - 1)) * sum(np.sqrt(sine(y, c[:, i] - c[:, j])) for i, j in pairs)

    y = np.linalg.svd(c, full_matrices=False)[0][:, :rank]
    track = [objective(y)]
    for _ in range(num_iters):
        columns = [c[:, i] * (sine(y, c[:, i]) + eps) ** -0.25 for i in range(p)]
        share = np.sqrt(reg / (p * (p - 1)))
        columns += [(c[:, i] - c[:, j]) * share * (sine(y, c[:, i] - c[:, j]) + eps) ** -0.25 for i, j in pairs]
        new = np.linalg.svd(np.stack(columns, axis=1), full_matrices=False)[0][:, :rank]
        y = new if objective(new) <= objective(y) else y
        track.append(objective(y))
    return y, track


@pytest.mark.parametrize("rank, reg, shape", [(2, 0.0, (7, 30)), (4, 2.0, (7, 30)), (3, 5.0, (12, 5))])
def test_equals_the_iteration_on_the_columns(rank, reg, shape, x64):
    x = np.random.default_rng(rank).normal(size=shape) + 0.5
    y, track = slow(x, rank, reg, 5)
    got, ratios = flag_jit(jnp.asarray(x), rank=rank, reg=reg)
    np.testing.assert_allclose(got, y @ y.T @ unit(x).mean(0), atol=1e-9)
    np.testing.assert_allclose(ratios, np.sum((y.T @ unit(x).T) ** 2, axis=0), atol=1e-9)
    flag = flag_weights(gramian(jnp.asarray(unit(x))), rank=rank, reg=reg)
    np.testing.assert_allclose(flag.objective, track, rtol=1e-9)
    assert (np.diff(flag.objective) <= 1e-12).all() and flag.objective[-1] < flag.objective[0]
    raw, _ = flag_jit(jnp.asarray(x), rank=rank, reg=reg, normalise=False)
    np.testing.assert_allclose(raw, y @ y.T @ x.mean(0), atol=1e-8)


def test_limits_and_invariances(x64):
    x = np.random.default_rng(3).normal(size=(6, 9)) * np.array([1, 2, 3, 4, 5, 6])[:, None]
    # the whole span: nothing is taken away
    np.testing.assert_allclose(flag_jit(jnp.asarray(x), rank=6, normalise=False)[0], x.mean(0), atol=1e-9)
    np.testing.assert_allclose(flag_jit(jnp.asarray(x), rank=6)[0], unit(x).mean(0), atol=1e-9)
    # rotating all rotates the result
    rotation = np.linalg.qr(np.random.default_rng(4).normal(size=(9, 9)))[0]
    plain = np.asarray(flag_jit(jnp.asarray(x), rank=3)[0])
    np.testing.assert_allclose(flag_jit(jnp.asarray(x @ rotation), rank=3)[0], plain @ rotation, atol=1e-9)
    # lengths do not matter, from 1e-30 to 1e30
    scaled = x * 10.0 ** np.array([-30, 30, 0, 5, -5, 20])[:, None]
    np.testing.assert_allclose(flag_jit(jnp.asarray(scaled), rank=3)[0], plain, atol=1e-9)


def test_in_single_precision_and_with_broken_rows():
    x = np.random.default_rng(5).normal(size=(9, 40)).astype(np.float32) + 1
    with jax.enable_x64(True):
        want = np.asarray(flag_jit(jnp.asarray(x.astype(np.float64)), rank=3)[0])
    # eps 6e-8 of squares: singular vectors are exact to its root over the gaps of the singular values
    np.testing.assert_allclose(flag_jit(jnp.asarray(x), rank=3)[0], want, atol=1e-3)
    broken = x.copy()
    broken[4], broken[7, 2] = np.nan, np.inf
    zeroed = np.where(np.isfinite(broken).all(axis=1, keepdims=True), broken, 0)
    got, ratios = flag_jit(jnp.asarray(broken), rank=3)
    np.testing.assert_allclose(got, flag_jit(jnp.asarray(zeroed), rank=3)[0], atol=1e-6)
    np.testing.assert_allclose(np.asarray(ratios)[[4, 7]], 0, atol=1e-6)  # rounding of a row of zeros's coordinates


def test_outliers_have_small_ratios():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(15, 300)) * 0.3 + rng.normal(size=300)
    x[:4] = rng.normal(size=(4, 300)) * 10
    # one dimension: with more of them the subspace fits attackers, who are orthogonal to one another, before honest noise
    ratios = np.asarray(flag_jit(jnp.asarray(x, jnp.float32), rank=1)[1])
    assert ratios[:4].max() < ratios[4:].min()


def test_clear_errors():
    x = jnp.ones((4, 3))
    for arguments, message in (
        ({"rank": 5}, r"rank must lie in \[1, p = 4\], got 5"),
        ({"reg": -1.0}, r"reg must lie in \[0.0, inf\], got -1"),
        ({"num_iters": 0}, "num_iters must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            flag_aggregate(x, **arguments)
    assert np.allclose(flag_aggregate(x[:1])[0], x[0] / 3**0.5)
