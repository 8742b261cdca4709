"""Halpern's iteration against its deterministic self in NumPy, linear systems and enumerated expectations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.optimizers import vr_forb_resolvent, vr_halpern, vr_halpern_monotone

RNG = np.random.default_rng(0)


def affine(n, d, curvature):
    """``F_i(u) = A_i u - b_i`` with A_i = positive semidefinite + skew."""
    a = RNG.normal(size=(n, d, d)) / np.sqrt(d)
    matrices = curvature * np.einsum("nij,nkj->nik", a, a) + (a - np.swapaxes(a, 1, 2)) / 2
    shifts = RNG.normal(size=(n, d))
    m, b = jnp.asarray(matrices), jnp.asarray(shifts)
    return (lambda u, i: jnp.mean(m[i] @ u - b[i], axis=0)), matrices, shifts


def cocoercivity(matrices):
    """The least L with mean ‖A_i x‖² ≤ L ⟨A x, x⟩."""
    mean = matrices.mean(0)
    root = np.linalg.inv(np.linalg.cholesky((mean + mean.T) / 2))
    return np.linalg.eigvalsh(root @ np.einsum("nij,nik->jk", matrices, matrices) @ root.T / len(matrices))[-1]


def test_without_noise_it_is_the_deterministic_iteration(x64):
    n = 7
    operator, matrices, shifts = affine(n, 4, 1.0)
    big = cocoercivity(matrices)
    u0 = RNG.normal(size=4)
    u, norms = u0.copy(), []
    for k in range(50):
        f = matrices.mean(0) @ u - shifts.mean(0)
        norms.append(np.linalg.norm(f))
        lam = 2 / (k + 4)
        u = lam * u0 + (1 - lam) * u - f / (4 * big)
    found = jax.jit(
        lambda key: vr_halpern(key, operator, jnp.asarray(u0), n=n, smoothness=big, num_steps=50, full=True)
    )(jax.random.key(0))
    np.testing.assert_allclose(found.u, u, rtol=1e-12)  # fifty steps of float64
    np.testing.assert_allclose(found.measured, norms, rtol=1e-12)
    np.testing.assert_array_equal(found.evaluations, 7 * np.arange(1, 51))


def test_every_random_step_is_the_papers(x64):
    """Forty steps of PAGE and of the resolvent in NumPy, with the coins and indices that the keys give."""
    n, root, count = 8, np.sqrt(8), 40
    operator, matrices, shifts = affine(n, 4, 1.0)
    u0, big, eta = RNG.normal(size=4), cocoercivity(matrices), 0.7
    key = jax.random.key(3)

    @jax.jit
    def draws(key):
        coin, pick = jax.random.split(key)
        batch, one = (jax.random.randint(pick, (b,), 0, n) for b in (3, 1))  # ⌈√8⌉, and one
        return jax.random.uniform(coin), batch, one[0]

    coins, batches, single = zip(*map(draws, jax.random.split(key, count)), strict=True)

    def full(u):
        return matrices.mean(0) @ u - shifts.mean(0)

    u = before = u0
    norms, spent, evaluations = [], 0, []
    for k in range(count):
        if k == 0 or coins[k] < 4 / (min(k, root) + 5):
            estimate, spent = full(u), spent + n
        else:
            estimate, spent = estimate + (matrices[np.asarray(batches[k])] @ (u - before)).mean(0), spent + 2 * 3
        norms.append(np.linalg.norm(estimate))
        evaluations.append(spent)
        before, u = u, 2 / (k + 4) * u0 + (1 - 2 / (k + 4)) * u - estimate / (4 * big)
    found = jax.jit(lambda u: vr_halpern(key, operator, u, n=n, smoothness=big, num_steps=count))(jnp.asarray(u0))
    # an estimate is a sum of up to some ten differences
    np.testing.assert_allclose(found.u, u, rtol=1e-12)
    np.testing.assert_allclose(found.measured, norms, rtol=1e-12)
    np.testing.assert_array_equal(found.evaluations, evaluations)

    tau = (1 - np.sqrt(1 - 1 / n)) / (2 * eta * big)
    z = w = w_before = u0
    for k in range(count):
        v = z - tau * eta * (full(w) + matrices[int(single[k])] @ (z - w_before))
        w_before = w
        z = (v + tau * u0) / (1 + tau)
        w = z if coins[k] < 1 / n else w
    got = jax.jit(lambda c: vr_forb_resolvent(key, operator, c, n=n, smoothness=big, eta=eta, num_steps=count))(
        jnp.asarray(u0)
    )
    np.testing.assert_allclose(got, z, rtol=1e-12)


def test_random_steps_are_right_on_average_and_are_counted(x64):
    """Given u_1 the estimate is unbiased, so that u_2 of an affine operator is on average the deterministic one."""
    operator, matrices, _ = affine(9, 3, 1.0)
    big = cocoercivity(matrices)
    u0 = jnp.asarray(RNG.normal(size=3))

    def run(key, full=False):
        return vr_halpern(key, operator, u0, n=9, smoothness=big, num_steps=2, batch_size=2, full=full)

    found = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), 2000))
    want = run(jax.random.key(0), full=True).u
    error = np.std(found.u, axis=0) / np.sqrt(2000)
    assert np.all(np.abs(np.mean(found.u, axis=0) - want) < 4 * error) and np.all(error > 0)
    # one full pass, then with probability 4/6 another one, else two batches of two
    assert set(np.unique(found.evaluations[:, 1])) == {13, 18}
    assert abs(np.mean(found.evaluations[:, 1] == 18) - 2 / 3) < 4 * np.sqrt(2 / 9 / 2000)


def test_converges_to_the_solution_like_one_over_k(x64):
    operator, matrices, shifts = affine(50, 6, 1.0)
    big = cocoercivity(matrices)
    solution = np.linalg.solve(matrices.mean(0), shifts.mean(0))
    mean, shift = jnp.asarray(matrices.mean(0)), jnp.asarray(shifts.mean(0))
    start = {"x": jnp.zeros(2), "y": jnp.zeros(4)}

    def on_tree(u, i):
        f = operator(jnp.concatenate([u["x"], u["y"]]), i)
        return {"x": f[:2], "y": f[2:]}

    def measure(u):
        return jnp.linalg.norm(mean @ jnp.concatenate([u["x"], u["y"]]) - shift)

    found = jax.jit(lambda key: vr_halpern(key, on_tree, start, n=50, smoothness=big, num_steps=2000, measure=measure))(
        jax.random.key(0)
    )
    k = np.arange(1, 2001)
    # the constant of the deterministic iteration is 4 at the rate 1/(4L); noise adds little
    assert np.all(found.measured * k < 8 * big * np.linalg.norm(solution))
    assert measure(found.u) < 2e-2 * found.measured[0]


def test_resolvent_solves_its_linear_system(x64):
    operator, matrices, shifts = affine(10, 5, 0.0)  # skew: monotone, and cocoercive with no constant
    centre, eta = RNG.normal(size=5), 1.5
    lipschitz = np.sqrt(np.linalg.eigvalsh(np.einsum("nij,nik->jk", matrices, matrices) / 10)[-1])
    want = np.linalg.solve(np.eye(5) + eta * matrices.mean(0), centre + eta * shifts.mean(0))
    got = jax.jit(
        lambda key: vr_forb_resolvent(
            key, operator, jnp.asarray(centre), n=10, smoothness=lipschitz, eta=eta, num_steps=4000
        )
    )(jax.random.key(0))
    np.testing.assert_allclose(got, want, rtol=1e-12)  # linear convergence: 4,000 steps are more than enough


def test_monotone_version_on_a_bilinear_saddle(x64):
    operator, matrices, shifts = affine(4, 4, 0.0)
    lipschitz = np.sqrt(np.linalg.eigvalsh(np.einsum("nij,nik->jk", matrices, matrices) / 4)[-1])
    u0 = RNG.normal(size=4)
    found = jax.jit(
        lambda key: vr_halpern_monotone(
            key, operator, jnp.asarray(u0), n=4, smoothness=lipschitz, num_outer=20, num_inner=900
        )
    )(jax.random.key(0))
    eta = 2 / lipschitz
    u = u0
    for k in range(20):
        j = np.linalg.solve(np.eye(4) + eta * matrices.mean(0), u + eta * shifts.mean(0))
        residual = np.linalg.norm(u - j) / eta
        u = u0 / (k + 2) + (k + 1) / (k + 2) * j
    # the resolvents were solved to some 1e-14
    np.testing.assert_allclose(found.u, u, rtol=1e-11)
    np.testing.assert_allclose(found.measured[-1], residual, rtol=1e-11)
    np.testing.assert_array_equal(found.evaluations, (4 + 3 * 900) * np.arange(1, 21))
    # ‖F(J_k)‖ ≤ 2 ‖u_0 - u*‖ / (η (k + 1))
    assert residual < 2 * np.linalg.norm(u0 - np.linalg.solve(matrices.mean(0), shifts.mean(0))) / eta / 20


def test_points_keep_their_precision_and_counts_do_not_overflow():
    operator = lambda u, i: jnp.mean(u - jnp.array([1.0, 3.0])[i])  # noqa: E731

    def run(u0):
        u = vr_halpern(jax.random.key(0), operator, u0, n=2, smoothness=1.0, num_steps=50).u
        return u, vr_forb_resolvent(jax.random.key(0), operator, u0, n=2, smoothness=1.0, eta=1.0, num_steps=100)

    assert [x.dtype for x in jax.eval_shape(run, jnp.zeros((), jnp.bfloat16))] == [jnp.bfloat16] * 2
    u, z = jax.jit(run)(0)
    # the anchor at 0 still has a weight of some 4/54 and more; z + (z - 2) = 0 to float32
    assert abs(u - 2) < 0.4 and abs(z - 1) < 1e-5
    many = jax.jit(
        lambda key: vr_halpern(key, lambda u, i: u, jnp.ones(()), n=2**20, smoothness=1.0, num_steps=4000, full=True)
    )(jax.random.key(0))
    assert float(many.evaluations[-1]) == 4000 * 2.0**20  # beyond int32


def test_clear_errors():
    operator = lambda u, i: u  # noqa: E731
    with pytest.raises(ValueError, match="smoothness must be positive, got 0.0"):
        vr_halpern(jax.random.key(0), operator, jnp.ones(2), n=2, smoothness=0.0, num_steps=3)
    with pytest.raises(ValueError, match=r"shaped like the point, got \(3,\) for \(2,\)"):
        vr_halpern(jax.random.key(0), lambda u, i: jnp.ones(3), jnp.ones(2), n=2, smoothness=1.0, num_steps=3)
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        vr_halpern(jax.random.key(0), operator, jnp.ones(2), n=0, smoothness=1.0, num_steps=3)
    with pytest.raises(ValueError, match="eta must be positive"):
        vr_forb_resolvent(jax.random.key(0), operator, jnp.ones(2), n=2, smoothness=1.0, eta=0.0, num_steps=3)
