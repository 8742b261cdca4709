"""The rules of several objectives: against torchjd, against their papers in float64, and what they promise in float32."""

import functools
import importlib
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize, nnls

from jaxtrain import aggregation as a
from jaxtrain.aggregation._gramians import unit_gramian
from tests._agreement import Difference
from tests.aggregation.objectives import RULES, SCALES, stacks

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "torchjd_rules.npz")
CAGRAD_WEIGHTS = jax.jit(a.cagrad_weights)
TINY = 1e-12
"""A regularisation that float64 does not see in the results compared here."""


@functools.cache
def compiled(name, **options):
    return jax.jit(functools.partial(getattr(a, name), **options))


def test_where_torchjd_is_wrong(x64):
    """Each of them needs nothing but gradients that are small, large, or of different lengths."""
    small = jnp.asarray(1e-3 * GOLDEN["jacobian_documentation"])
    # trace below 1e-4: DualProj becomes the mean, which conflicts; CAGrad becomes zero, and training stops
    np.testing.assert_allclose(GOLDEN["dualproj_small"], small.mean(0), rtol=1e-9)
    assert (small @ GOLDEN["dualproj_small"]).min() < 0 and not GOLDEN["cagrad_small"].any()
    np.testing.assert_allclose(compiled("cagrad")(1e3 * small), 1e3 * compiled("cagrad")(small), rtol=1e-9)
    np.testing.assert_allclose(compiled("dualproj")(1e3 * small), 1e3 * compiled("dualproj")(small), rtol=1e-9)
    # sums of weights below 1e-12 are taken for zero: gradients of norm 1e13
    assert not GOLDEN["imtl_g_large"].any()
    assert np.asarray(compiled("imtl_g")(1e13 * jnp.asarray(GOLDEN["jacobian_gaussian_5x20"]))).any()
    # norms from 1e-2 to 10: far from w G w = 1
    wide = jnp.asarray(GOLDEN["jacobian_wide"])
    best = np.asarray(compiled("nash_mtl", max_norm=1.0, reg_eps=TINY)(wide))
    got = GOLDEN["nash_mtl_wide"]
    assert got @ best / np.linalg.norm(got) < 0.8
    # two gradients that are opposed: the result 0 is not within c |g_0| of g_0; the mean serves the worst as well
    opposed = GOLDEN["jacobian_opposed"]
    assert not GOLDEN["cagrad_opposed"].any()
    got = compiled("cagrad")(jnp.asarray(opposed), c=0.5)
    np.testing.assert_allclose(got, opposed.mean(0), atol=1e-3)


def distance(got, want):
    return Difference(np.linalg.norm(np.asarray(got, np.float64) - want) / np.linalg.norm(want), got)


@pytest.mark.parametrize(
    "name, options, golden, tolerance",
    [
        ("config", {}, "config", 1e-13),  # float64 rounding, of condition about 10
        ("aligned_mtl", {}, "aligned_mtl_min", 1e-13),
        ("aligned_mtl", {"scale_mode": "median"}, "aligned_mtl_median", 1e-13),
        ("aligned_mtl", {"scale_mode": "rmse"}, "aligned_mtl_rmse", 1e-13),
        ("imtl_g", {}, "imtl_g", 1e-13),
        ("fairgrad", {"alpha": 1.0, "reg_eps": TINY}, "fairgrad_1", 1e-9),  # SciPy stops at 1e-8 of the cost
        ("fairgrad", {"alpha": 2.0, "reg_eps": TINY}, "fairgrad_2", 1e-9),
        ("nash_mtl", {"max_norm": 1.0, "reg_eps": TINY}, "nash_mtl", 1e-7),  # ECOS, 100 times
        ("cagrad", {"c": 0.5, "reg_eps": TINY}, "cagrad_0.5", 1e-4),  # Clarabel stops at 1e-8 of the cost, flat here
        ("cagrad", {"c": 2.0, "reg_eps": TINY}, "cagrad_2", 1e-4),
    ],
)
def test_equals_torchjd(name, options, golden, tolerance, x64):
    cases = ["conflicting_8x12", "lengths_6x30"]
    # of dependent gradients no bargain exists (0 is a combination of them), IMTL-G's equations have no solution
    if golden in ("config", "aligned_mtl_min", "cagrad_0.5"):
        cases.append("rank_deficient_6x10")
    for case in cases:
        got = compiled(name, **options)(jnp.asarray(GOLDEN[f"jacobian_{case}"]))
        assert distance(got, GOLDEN[f"{golden}_{case}"]) < tolerance, case


def test_dualproj_equals_torchjd_and_nnls(x64):
    weights = jax.jit(functools.partial(a.dualproj_weights, scaling="trace", norm_eps=1e-4))
    for case in ("conflicting_8x12", "rank_deficient_6x10"):
        jacobian = GOLDEN[f"jacobian_{case}"]
        got = weights(jnp.asarray(jacobian @ jacobian.T)) @ jacobian
        assert distance(got, GOLDEN[f"dualproj_{case}"]) < 1e-11, case  # quadprog's rounding
    jacobian = GOLDEN["jacobian_lengths_6x30"] * np.array([1e3, 1, 1, 1e-3, 1, 1])[:, None]
    # min |Jᵀ(p + z)|, z ≥ 0, each gradient's regularisation in its own length
    lengths = np.linalg.norm(jacobian, axis=1)
    rows = np.concatenate([jacobian.T, np.diag(np.sqrt(6e-4) * lengths)])
    want = jacobian.T @ (1 / 6 + nnls(rows, -rows @ np.full(6, 1 / 6))[0])
    assert distance(compiled("dualproj")(jnp.asarray(jacobian)), want) < 1e-10


def test_documented_values_of_torchjd():
    jacobian = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    vaccine = a.gradvac(2, jax.random.key(0))
    wanted = {
        "dualproj": (lambda j: a.dualproj_weights(j @ j.T, scaling="trace") @ j, [0.5563, 1.1109, 1.1109]),
        "aligned_mtl": (a.aligned_mtl, [0.2133, 0.9673, 0.9673]),
        "mgda": (a.mgda, [0.0, 1.0, 1.0]),
        "pcgrad": (lambda j: a.pcgrad(jax.random.key(0), j), [0.5848, 3.8012, 3.8012]),
        "gradvac": (lambda j: vaccine.update(j, vaccine.init(None))[0], [0.5848, 3.8012, 3.8012]),
        "imtl_g": (a.imtl_g, [0.0767, 1.0, 1.0]),
        "cagrad": (lambda j: a.cagrad(j, c=0.5), [0.1835, 1.2041, 1.2041]),
        "nash_mtl": (lambda j: a.nash_mtl(j, max_norm=1.0), [0.0542, 0.7061, 0.7061]),
        "fairgrad": (lambda j: a.fairgrad(j, alpha=1.0), [0.0766, 0.9985, 0.9985]),
        "config": (a.config, [0.1588, 2.0706, 2.0706]),
    }
    found = jax.jit(lambda j: {name: rule(j) for name, (rule, _) in wanted.items()})(jacobian)
    for name, (_, want) in wanted.items():
        # printed to four digits, single precision; regularised by 1e-5
        np.testing.assert_allclose(found[name], want, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("case", ["conflicting_8x12", "rank_deficient_6x10"])
def test_random_rules_equal_torchjd_for_what_it_drew(case, x64):
    pcgrad, graddrop = (importlib.import_module(f"jaxtrain.aggregation.{n}") for n in ("pcgrad", "graddrop"))
    jacobian = jnp.asarray(GOLDEN[f"jacobian_{case}"])
    cosines, lengths, _ = unit_gramian(jacobian @ jacobian.T)
    got = pcgrad._projected(cosines, lengths, jnp.asarray(GOLDEN[f"pcgrad_orders_{case}"])) @ jacobian
    assert distance(got, GOLDEN[f"pcgrad_{case}"]) < 1e-13
    targets = jnp.zeros_like(cosines)
    vaccinated = jax.jit(pcgrad._vaccinated)
    for t in range(3):
        moved = jacobian * (1 + t) - t
        cosines, lengths, _ = unit_gramian(moved @ moved.T)
        weights, targets = vaccinated(cosines, lengths, targets, 0.5, jnp.asarray(GOLDEN[f"gradvac_orders_{case}"][t]))
        # torchjd adds 1e-8 to its denominators
        assert distance(weights @ moved, GOLDEN[f"gradvac_{case}"][t]) < 1e-7, t
    u = jnp.asarray(GOLDEN[f"graddrop_uniform_{case}"])
    for leak, golden in ((None, "graddrop"), (jnp.linspace(0, 0.5, len(jacobian)), "graddrop_leak")):
        got = graddrop._dropped(jacobian, u, None, leak)
        np.testing.assert_allclose(got, GOLDEN[f"{golden}_{case}"], atol=1e-13)


def shortest_in_hull(jacobian):
    """By trying every set of gradients that may carry weight: the shortest combination with weights that sum to 1."""
    best = None
    for k in range(1, len(jacobian) + 1):
        for chosen in itertools.combinations(range(len(jacobian)), k):
            rows = jacobian[list(chosen)]
            v = np.linalg.pinv(rows @ rows.T, rcond=1e-12) @ np.ones(k)
            if v.sum() > 0 and (v >= -1e-12).all():
                x = rows.T @ v / v.sum()
                if best is None or x @ x < best @ best:
                    best = x
    return best


def test_mgda_is_the_shortest_vector_of_the_hull(x64):
    rng = np.random.default_rng(0)
    for lengths in (np.ones(6), 10.0 ** rng.uniform(-3, 3, 6)):
        jacobian = (rng.normal(size=(6, 9)) + 0.2) * lengths[:, None]
        got = np.asarray(compiled("mgda", reg_eps=TINY)(jnp.asarray(jacobian)))
        assert distance(got, shortest_in_hull(jacobian)) < 1e-8  # squares: half the digits of float64
    for case in (
        "conflicting_8x12",
        "lengths_6x30",
    ):  # nobody found a shorter one, and torchjd's default stops at a longer one
        jacobian = GOLDEN[f"jacobian_{case}"]
        ours = np.linalg.norm(compiled("mgda", reg_eps=TINY)(jnp.asarray(jacobian)))
        assert ours <= np.linalg.norm(GOLDEN[f"mgda_{case}"]) + 1e-9
        np.testing.assert_allclose(ours, np.linalg.norm(GOLDEN[f"mgda_{case}"]), rtol=1e-3, atol=1e-6)
    shipped = np.linalg.norm(GOLDEN["mgda_as_shipped_conflicting_8x12"])
    assert shipped > 1.009 * np.linalg.norm(GOLDEN["mgda_conflicting_8x12"])


@pytest.mark.parametrize("c", [0.1, 0.5, 1.0, 3.0])
def test_cagrad_closes_the_gap_between_the_paper_s_two_problems(c, x64):
    """The worst objective's gain bounds the dual from below, any weights bound it from above: equal means optimal."""
    rng = np.random.default_rng(1)
    for case, jacobian in enumerate(
        [
            rng.normal(size=(6, 12)),
            rng.normal(size=(6, 12)) * 10.0 ** rng.uniform(-2, 2, (6, 1)),
            rng.normal(size=(6, 12)) - 0.3,
        ]
    ):
        w = np.asarray(CAGRAD_WEIGHTS(jnp.asarray(jacobian @ jacobian.T), c=c, reg_eps=TINY))
        mean = jacobian.mean(0)
        d = jacobian.T @ w
        radius = c * np.linalg.norm(mean)
        dual = (w - 1 / len(w)) / np.sum(w - 1 / len(w))
        shadow = jacobian.T @ dual
        upper = shadow @ mean + radius * np.linalg.norm(shadow)
        lower = (jacobian @ d).min()
        scale = np.linalg.norm(jacobian[np.argmin(jacobian @ d)]) * np.linalg.norm(d)
        np.testing.assert_allclose(np.linalg.norm(d - mean), radius, rtol=1e-6)
        assert (dual >= -1e-12).all() and abs(upper - lower) < 1e-7 * scale, (case, upper, lower)


def test_bargains_maximise_the_utilities_of_their_papers(x64):
    """The direction d of length 1 with the largest Σ log⟨g_i, d⟩ (Nash), Σ ⟨g_i, d⟩^(1-α)/(1-α) (α-fair)."""
    rng = np.random.default_rng(2)
    jacobian = rng.normal(size=(4, 7)) * np.array([0.3, 1, 3, 1])[:, None]
    for alpha in (0.5, 1.0, 2.0, 4.0):

        def loss(x, alpha=alpha):
            gains = jacobian @ x / np.linalg.norm(x)
            if (gains <= 0).any():
                return 1e9
            return -np.sum(np.log(gains) if alpha == 1 else gains ** (1 - alpha) / (1 - alpha))

        start = np.linalg.pinv(jacobian) @ np.ones(4)
        best = minimize(loss, start, method="BFGS", options={"gtol": 1e-9}).x
        got = np.asarray(compiled("fairgrad", reg_eps=TINY)(jnp.asarray(jacobian), alpha=alpha))
        # BFGS with differences of 1e-8
        assert distance(got / np.linalg.norm(got), best / np.linalg.norm(best)) < 1e-4, alpha
    gramian = jacobian @ jacobian.T
    for alpha in (0.3, 1.0, 7.0):
        w = np.asarray(jax.jit(a.fairgrad_weights)(jnp.asarray(gramian), alpha=alpha, reg_eps=TINY))
        np.testing.assert_allclose(gramian @ w, w ** (-1 / alpha), rtol=1e-8)


def test_imtl_g_by_the_paper_s_formula(x64):
    jacobian = np.random.default_rng(3).normal(size=(4, 9)) * np.array([1, 2, 0.5, 1])[:, None]
    units = jacobian / np.linalg.norm(jacobian, axis=1)[:, None]
    differences, unit_differences = jacobian[:1] - jacobian[1:], units[:1] - units[1:]
    others = jacobian[0] @ unit_differences.T @ np.linalg.inv(differences @ unit_differences.T)
    want = np.array([1 - others.sum(), *others]) @ jacobian
    got = compiled("imtl_g")(jnp.asarray(jacobian))
    assert distance(got, want) < 1e-12
    np.testing.assert_allclose(np.ptp(units @ got), 0.0, atol=1e-12)
    # the formula as it stands: one gradient long, three short, near a common plane: every objective gets worse
    rng = np.random.default_rng(11)
    signs = []
    for _ in range(200):
        rows = rng.normal(size=(4, 9)) * np.array([1, 2, 0.5, 1])[:, None] - 0.5
        signs.append(np.sign(rows @ np.asarray(compiled("imtl_g")(jnp.asarray(rows)))))
    signs = np.array(signs)
    assert (np.abs(signs.sum(1)) == 4).all() and (signs < 0).all(1).any()


def test_config_and_aligned_mtl_by_numpy(x64):
    jacobian = np.random.default_rng(4).normal(size=(5, 9)) * np.array([1, 2, 0.5, 1, 30])[:, None]
    preference = np.array([1.0, 2.0, 1.0, 0.5, 3.0])
    units = jacobian / np.linalg.norm(jacobian, axis=1)[:, None]
    x = np.linalg.pinv(units) @ preference
    x /= np.linalg.norm(x)
    got = a.config(jnp.asarray(jacobian), preference=jnp.asarray(preference))
    assert distance(got, (jacobian @ x).sum() * x) < 1e-12
    u, s, v = np.linalg.svd(jacobian, full_matrices=False)
    got = a.aligned_mtl(jnp.asarray(jacobian), preference=jnp.asarray(preference))
    assert distance(got, s[-1] * (preference @ u) @ v) < 1e-11  # condition 30, squared


def surgery(jacobian, orders):
    """PCGrad's algorithm 1 on the vectors."""
    total = np.zeros(jacobian.shape[1])
    for i, order in enumerate(orders):
        g = jacobian[i].copy()
        for j in order:
            if j != i and g @ jacobian[j] < 0:
                g -= (g @ jacobian[j]) / (jacobian[j] @ jacobian[j]) * jacobian[j]
        total += g
    return total


def test_pcgrad_gives_what_some_order_gives_and_all_of_them(x64):
    jacobian = np.random.default_rng(5).normal(size=(3, 4)) - 0.8
    possible = np.stack(
        [
            surgery(jacobian, orders)
            for orders in itertools.product(*[[(1, 2), (2, 1)], [(0, 2), (2, 0)], [(0, 1), (1, 0)]])
        ]
    )
    keys = jax.random.split(jax.random.key(0), 100)
    got = np.asarray(jax.jit(jax.vmap(lambda k: a.pcgrad(k, jnp.asarray(jacobian))))(keys))
    apart = np.linalg.norm(got[:, None] - possible, axis=-1)
    assert apart.min(axis=1).max() < 1e-12
    # each of the 8 has the probability 1/8 or more: in 100 draws one is missing with 8 · 0.875^100 = 1e-5
    assert (apart.min(axis=0) < 1e-12).all()


def test_gradvac_turns_to_the_wanted_cosine_and_remembers(x64):
    rng = np.random.default_rng(6)
    jacobian = rng.normal(size=(2, 5))
    phi = jacobian[0] @ jacobian[1] / np.linalg.norm(jacobian[0]) / np.linalg.norm(jacobian[1])
    wanted = np.array([[0.0, 0.9], [phi - 0.1, 0.0]])
    weights, moved = a.gradvac_weights(
        jax.random.key(0), jnp.asarray(jacobian @ jacobian.T), jnp.asarray(wanted), beta=0.25
    )
    # only the first is turned: g_0 + w g_1 with cosine 0.9 to g_1
    turned = np.asarray(weights - np.array([0, 1])) @ jacobian
    np.testing.assert_allclose(
        turned @ jacobian[1] / np.linalg.norm(turned) / np.linalg.norm(jacobian[1]), 0.9, atol=1e-12
    )
    np.testing.assert_allclose(moved[0, 1], 0.75 * 0.9 + 0.25 * phi, atol=1e-12)
    np.testing.assert_allclose(moved[1, 0], phi - 0.1 + 0.25 * 0.1, atol=1e-12)
    assert moved[0, 0] == 0
    aggregator = a.gradvac(2, jax.random.key(0), beta=1.0)
    state = aggregator.init(None)
    _, state = aggregator.update(jnp.asarray(jacobian), state)
    np.testing.assert_allclose(state.targets, phi * (1 - np.eye(2)), atol=1e-6)  # kept in float32


def test_graddrop_keeps_a_sign_with_the_probability_of_its_purity():
    x = jnp.array([[1.0, -1.0, 2.0, 0.0], [-2.0, -3.0, 1.0, 0.0], [0.5, 0.0, -1.0, 0.0]])
    keys = jax.random.split(jax.random.key(0), 4000)
    got = np.asarray(jax.jit(jax.vmap(lambda k: a.graddrop(k, x)))(keys), np.float64)
    positive, negative = np.maximum(x, 0).sum(0), np.minimum(x, 0).sum(0)
    purity = 0.5 * (1 + np.asarray(x.sum(0)) / np.maximum(np.abs(x).sum(0), 1e-9))
    assert all(np.isin(got[:, i].round(5), np.float64([positive[i], negative[i]]).round(5)).all() for i in range(4))
    want = purity * positive + (1 - purity) * negative
    error = np.sqrt(purity * (1 - purity) / len(keys)) * (positive - negative)
    assert (np.abs(got.mean(0) - want) <= 5 * error + 1e-6).all()
    kept = a.graddrop(jax.random.key(1), x, leak=jnp.ones(3))
    np.testing.assert_allclose(kept, x.sum(0), rtol=1e-6)
    always = a.graddrop(jax.random.key(1), x, purity=jnp.ceil)
    np.testing.assert_allclose(always, [positive[0], negative[1], positive[2], 0.0])


@functools.cache
def over_many(name, m):
    """The rule over all typed matrices with m rows in single precision, and these matrices."""
    kinds = stacks(m, m + 2)
    x = np.concatenate(list(kinds.values())).astype(np.float32)
    names = np.concatenate([[kind] * len(v) for kind, v in kinds.items()])
    run = jax.jit(jax.vmap(RULES[name].aggregate))
    return run, x, names, np.asarray(run(x), np.float64)


@pytest.mark.parametrize(
    "name, m",
    [*((name, 4) for name in RULES), ("upgrad", 9), ("mgda", 9), ("cagrad_1", 9), ("nash_mtl", 9), ("config", 9)],
)
def test_promises_over_typed_matrices_in_single_precision(name, m):
    rule = RULES[name]
    run, x, kinds, got = over_many(name, m)
    rows = x.astype(np.float64)
    largest = np.linalg.norm(rows, axis=2).max(axis=1)
    assert np.isfinite(got).all()
    for scale in SCALES:
        assert np.isfinite(run(x * np.float32(scale))).all(), scale
    # a power of two changes no digit; a root of one changes the last, which matters where large weights cancel
    # and a bargain between gradients that are stationary exists only by the regularisation
    at = np.full(len(x), True) if rule.degree == 1 else kinds == "not_stationary"
    scaled = np.asarray(run(x * np.float32(2.0**30)), np.float64)
    np.testing.assert_allclose(scaled[at], (got * (2.0**30) ** rule.degree)[at], rtol=1e-3, atol=1e-30)
    if rule.non_conflicting:
        weights, epsilon = rule.non_conflicting
        gramians = np.einsum("kin,kjn->kij", rows, rows)
        w = np.asarray(jax.jit(jax.vmap(weights))(gramians.astype(np.float32)), np.float64)
        squares = np.sum(rows**2, axis=2)
        # the regularisation allows just this conflict; rounding some more
        slack = 1.05 * m * epsilon * w * squares + 1e-5 * largest[:, None] ** 2 * (1 + w.max(axis=1, keepdims=True))
        inner = np.einsum("kmn,kn->km", rows, got)
        assert (inner >= -slack).all(), (inner + slack).min()
    if rule.strongly_stationary:
        weak = np.isin(kinds, ["weakly_stationary", "not_stationary"])
        assert (np.linalg.norm(got[weak], axis=1) > 5e-3 * largest[weak]).all()
    if name != "pcgrad":
        order = np.random.default_rng(0).permutation(m)
        # singular ones are solved to the square root of rounding, whatever the order
        moved = np.linalg.norm(np.asarray(run(x[:, order]), np.float64) - got, axis=1)
        assert (moved <= 2e-3 * np.maximum(np.linalg.norm(got, axis=1), largest))[at].all(), moved.max()
