"""Task arithmetic, TIES and AdaMerging: mergekit's values, NumPy loops written from papers and released code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from jaxtrain.averaging import (
    adamerging_fit,
    adamerging_loss,
    clip_coefficients,
    merge_task_vectors,
    soup,
    task_arithmetic,
    task_vectors,
    ties,
    ties_trim,
    ties_trim_elect,
)
from jaxtrain.testing import check_aggregator

GOLDEN = f"{__file__.rsplit('/', 2)[0]}/golden/mergekit.npz"
elect = jax.jit(ties_trim_elect, static_argnames="granularity")


def _tree(matrix):
    """A matrix of members as a tree."""
    m = len(matrix)
    return {
        "a": jnp.asarray(matrix[:, :6]).reshape(m, 2, 3),
        "b": [jnp.asarray(matrix[:, 6:-1]), jnp.asarray(matrix[:, -1])],
    }


def _flat(tree, m=1):
    return np.concatenate([np.asarray(x, np.float64).reshape(m, -1) for x in jax.tree.leaves(tree)], axis=1)


def elected_by_the_paper(tau, keep):
    """Trim and elect in float64, from algorithm 1 and the released code's rule for sums of zero."""
    m, n = tau.shape
    trimmed = np.zeros_like(tau)
    for k in range(m):
        largest = np.argsort(-np.abs(tau[k]), kind="stable")[: int(keep * n)]
        trimmed[k, largest] = tau[k, largest]
    sign = np.sign(trimmed.sum(axis=0))
    sign[sign == 0] = np.sign(sign.sum())
    return np.where(np.sign(trimmed) == sign, trimmed, 0.0)


@pytest.mark.parametrize("density, normalize, scale", [(0.2, True, 1.0), (0.5, True, 0.7), (0.5, False, 1.0)])
def test_ties_and_mergekit_agree(density, normalize, scale, x64):
    golden = np.load(GOLDEN)
    got = ties(
        jnp.asarray(golden["models"]),
        jnp.asarray(golden["base"]),
        keep=density,
        scale=scale,
        weights=golden["weights"],
        mode="mean" if normalize else "sum",
        granularity="leaf",
    )
    np.testing.assert_allclose(got, golden[f"ties_{density}_{normalize}_{scale}"], rtol=1e-13, atol=1e-15)  # float64


def test_task_arithmetic_and_mergekit_agree(x64):
    golden = np.load(GOLDEN)
    got = task_arithmetic(jnp.asarray(golden["models"]), jnp.asarray(golden["base"]), 0.4 * golden["weights"])
    np.testing.assert_allclose(got, golden["task_arithmetic"], rtol=1e-13, atol=1e-15)  # float64


@pytest.mark.parametrize("m, keep", [(1, 0.5), (2, 0.2), (5, 0.2), (5, 0.55), (4, 1.0)])
def test_trim_and_elect_equal_the_paper(m, keep, x64):
    tau = np.random.default_rng(m).normal(size=(m, 23)) * np.exp(np.random.default_rng(9).normal(size=(m, 1)))
    expected = elected_by_the_paper(tau, keep)
    np.testing.assert_array_equal(_flat(elect(_tree(tau), keep=keep), m), expected)
    # the disjoint mean, and the sum, of what is left
    base = np.random.default_rng(1).normal(size=23)
    stacked, tree = _tree(tau + base), jax.tree.map(lambda x: x[0], _tree(base[None]))
    mean = expected.sum(axis=0) / np.maximum((expected != 0).sum(axis=0), 1)
    for mode, vector in (("mean", mean), ("sum", expected.sum(axis=0))):
        got = jax.jit(lambda s, b, k=keep, o=mode: ties(s, b, keep=k, scale=0.3, mode=o))(stacked, tree)
        np.testing.assert_allclose(_flat(got)[0], base + 0.3 * vector, rtol=1e-14, atol=1e-14)


def test_sums_of_zero_elect_the_sign_of_the_majority(x64):
    tau = np.array([[3.0, -1.0, 2.0, 1.0], [-3.0, 4.0, 1.0, -5.0]])
    # elected: 0, +, +, -: the first takes +
    np.testing.assert_array_equal(elect(jnp.asarray(tau), keep=1.0), [[3, 0, 2, 0], [0, 4, 1, -5]])
    np.testing.assert_array_equal(elect(jnp.asarray(tau), keep=1.0), elected_by_the_paper(tau, 1.0))


def test_trimming_keeps_the_largest_of_any_size():
    rng = np.random.default_rng(2)
    x = (rng.normal(size=(3, 1000)) * 10.0 ** rng.integers(-30, 30, size=(3, 1000))).astype(np.float32)
    for keep in (1e-9, 0.001, 0.37, 0.999, 1.0):
        number = max(1, int(keep * 1000))
        smallest = np.sort(np.abs(x), axis=1)[:, -number]
        expected = np.where(np.abs(x) >= smallest[:, None], x, 0)
        np.testing.assert_array_equal(ties_trim(jnp.asarray(x), keep=keep), expected)
    # a traced share: one program for a grid; in float32 37 of 100 and 0.37 mean the same
    grid = jax.jit(jax.vmap(lambda k: jnp.sum(ties_trim(jnp.asarray(x[:, :100]), keep=k) != 0, axis=1)))
    assert grid(jnp.array([0.01, 0.375, 1.0])).tolist() == [[1] * 3, [37] * 3, [100] * 3]
    # a share that is an array but not traced, inside a traced function
    share = jnp.float32(0.5)
    assert jax.jit(lambda v: ties_trim(v, keep=share))(jnp.array([[1.0, 2.0]])).tolist() == [[0.0, 2.0]]
    # equal magnitudes stay together; of a leaf at least one entry stays
    assert ties_trim(jnp.array([[1.0, -1.0, 0.5, 1.0]]), keep=0.5).tolist() == [[1.0, -1.0, 0.0, 1.0]]
    leaves = ties_trim({"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([0.1])}, keep=0.4, granularity="leaf")
    assert leaves["a"].tolist() == [[0.0, 2.0]] and np.allclose(leaves["b"], 0.1)


def test_task_vectors_of_zero_and_of_nan():
    base = jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(ties(jnp.stack([base, base]), base), base)
    bad = jnp.stack([base + 1, base.at[1].set(jnp.nan)])
    got = np.asarray(ties(bad, base, keep=1.0))
    assert np.isnan(got[1]) and np.isfinite(got[[0, 2]]).all()


def test_merging_with_coefficients_of_layers(x64):
    rng = np.random.default_rng(3)
    tau, base = rng.normal(size=(4, 23)), rng.normal(size=(1, 23))
    vectors, tree = _tree(tau), jax.tree.map(lambda x: x[0], _tree(base))
    lam = rng.random((3, 4))
    coeffs = {"a": jnp.asarray(lam[0]), "b": [jnp.asarray(lam[1]), jnp.asarray(lam[2])]}
    part = np.repeat([0, 1, 2], [6, 16, 1])
    expected = base[0] + np.einsum("nk,kn->n", lam[part], tau)
    np.testing.assert_allclose(_flat(merge_task_vectors(vectors, tree, coeffs))[0], expected, atol=1e-14)
    # a prefix: one for a whole subtree, and one for everything
    two = {"a": jnp.asarray(lam[0]), "b": 0.3}
    expected = base[0] + np.where(part == 0, lam[0] @ tau, 0.3 * tau.sum(axis=0))
    np.testing.assert_allclose(_flat(merge_task_vectors(vectors, tree, two))[0], expected, atol=1e-14)
    # one model, coefficient 1: that model; coefficients that sum to 1: the soup
    models = jax.tree.map(jnp.add, vectors, tree)
    one = jax.tree.map(lambda x: x[:1], models)
    np.testing.assert_allclose(_flat(task_arithmetic(one, tree, 1.0)), _flat(one), atol=1e-15)
    np.testing.assert_allclose(_flat(task_arithmetic(models, tree, 0.25)), _flat(soup(models)), atol=1e-14)
    np.testing.assert_allclose(_flat(task_vectors(models, tree), 4), tau, atol=1e-14)


# AdaMerging


@pytest.fixture
def merging():
    rng = np.random.default_rng(4)
    base = {"w": jnp.asarray(rng.normal(size=(5, 4))), "b": jnp.asarray(rng.normal(size=4))}
    vectors = {"w": jnp.asarray(rng.normal(size=(3, 5, 4))), "b": jnp.asarray(rng.normal(size=(3, 4)))}
    heads = [rng.normal(size=(4, c)) for c in (2, 3, 5)]
    inputs = [rng.normal(size=(n, 5)) for n in (7, 9, 4)]
    fns = [lambda p, x, h=h: jnp.tanh(x @ p["w"] + p["b"]) @ h for h in heads]
    return base, vectors, heads, inputs, fns


def entropy_by_numpy(lam_w, lam_b, base, vectors, heads, inputs):
    lam_w, lam_b = np.clip(lam_w, 0, 1), np.clip(lam_b, 0, 1)
    w = np.asarray(base["w"]) + np.einsum("k,kij->ij", lam_w, vectors["w"])
    b = np.asarray(base["b"]) + lam_b @ np.asarray(vectors["b"])
    total = 0.0
    for head, x in zip(heads, inputs, strict=True):
        logits = np.tanh(x @ w + b) @ head
        total += -(softmax(logits, axis=1) * log_softmax(logits, axis=1)).sum(axis=1).mean()
    return total


def test_adamerging_loss_and_its_gradient(x64, merging):
    base, vectors, heads, inputs, fns = jax.tree.map(lambda x: x, merging)
    lam_w, lam_b = np.array([0.3, 1.4, 0.8]), np.array([0.1, 0.5, -0.2])
    batches = [jnp.asarray(x) for x in inputs]
    loss = jax.jit(jax.value_and_grad(lambda c: adamerging_loss(c, vectors, base, fns, batches)))
    value, grad = loss({"w": jnp.asarray(lam_w), "b": jnp.asarray(lam_b)})
    np.testing.assert_allclose(value, entropy_by_numpy(lam_w, lam_b, base, vectors, heads, inputs), rtol=1e-13)

    def numeric(which, i):
        h = np.zeros(3)
        h[i] = 1e-6
        ends = [
            entropy_by_numpy(
                lam_w + s * h * (which == "w"), lam_b + s * h * (which == "b"), base, vectors, heads, inputs
            )
            for s in (1, -1)
        ]
        return (ends[0] - ends[1]) / 2e-6

    for which in ("w", "b"):
        # central differences of step 1e-6 in float64: about 1e-10; zero outside [0, 1]
        np.testing.assert_allclose(grad[which], [numeric(which, i) for i in range(3)], atol=1e-8)
    assert float(grad["w"][1]) == 0.0 and float(grad["b"][2]) == 0.0
    ends = jax.grad(lambda c: jnp.sum(clip_coefficients(c)))(jnp.array([0.0, 1.0, 1.1]))
    assert ends.tolist() == [1.0, 1.0, 0.0]  # as torch.clamp


def adam_by_numpy(lam, gradient, steps, rate):
    m, v = np.zeros_like(lam), np.zeros_like(lam)
    for t in range(1, steps + 1):
        g = gradient(lam)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        lam = lam - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return np.clip(lam, 0, 1)


@pytest.mark.parametrize("granularity", ["task", "layer"])
def test_adamerging_fit_is_adam_on_the_entropy(granularity, x64, merging):
    base, vectors, heads, inputs, fns = merging
    batches = [jnp.asarray(x) for x in inputs]
    coeffs, losses = jax.jit(
        lambda k: adamerging_fit(
            k,
            vectors,
            base,
            fns,
            batches,
            granularity=granularity,
            init=0.4,
            learning_rate=0.05,
            steps=12,
            batch_size=None,
        )
    )(jax.random.key(0))

    def gradient(lam):
        """Of the float64 loss of NumPy, by central differences."""
        found = np.zeros_like(lam)
        for i in np.ndindex(lam.shape):
            h = np.zeros_like(lam)
            h[i] = 1e-6
            ends = [
                entropy_by_numpy(*(np.broadcast_to(lam + s * h, (2, 3))), base, vectors, heads, inputs) for s in (1, -1)
            ]
            found[i] = (ends[0] - ends[1]) / 2e-6
        return found

    start = np.full((1, 3) if granularity == "task" else (2, 3), 0.4)
    expected = adam_by_numpy(start, gradient, 12, 0.05)
    got = np.stack([coeffs["w"], coeffs["b"]]) if granularity == "layer" else np.asarray(coeffs)[None]
    # Adam divides by the size of gradients known to 1e-9
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(
        losses[0], entropy_by_numpy(*np.full((2, 3), 0.4), base, vectors, heads, inputs), rtol=1e-12
    )


def test_adamerging_draws_batches_and_takes_trimmed_vectors(merging):
    base, vectors, _, inputs, fns = merging
    fit = jax.jit(
        lambda k, v: adamerging_fit(
            k, v, base, fns, [jnp.asarray(x) for x in inputs], granularity="task", steps=3, batch_size=2
        )
    )
    base, vectors = jax.tree.map(lambda x: x.astype(jnp.float32), (base, vectors))
    first, losses = fit(jax.random.key(0), ties_trim_elect(vectors))
    again, _ = fit(jax.random.key(0), ties_trim_elect(vectors))
    other, _ = fit(jax.random.key(1), ties_trim_elect(vectors))
    np.testing.assert_array_equal(first, again)
    assert losses.shape == (3,) and not np.array_equal(first, other)
    # three steps of Adam move a coefficient by at most its rate each
    assert np.abs(np.asarray(first) - 0.3).max() <= 3.001e-3


def test_certain_answers_have_no_entropy_and_finite_gradients():
    fn = lambda p, x: jnp.stack([x * p, jnp.full_like(x, -jnp.inf)], axis=-1)  # noqa: E731
    loss, grad = jax.value_and_grad(adamerging_loss)(0.5, jnp.ones(1), jnp.zeros(()), fn, [jnp.array([1e4, 1.0])])
    assert float(loss) == 0.0 and float(grad) == 0.0


def test_keep_the_laws_of_aggregators():
    def around_zero(stacked, **options):
        return ties(stacked, jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), stacked), **options)

    check_aggregator(jax.jit(lambda x: around_zero(x, keep=1.0)))
    check_aggregator(jax.jit(lambda x: around_zero(x, keep=0.4)), laws=["dtype", "pytree"])
    check_aggregator(
        jax.jit(lambda x: task_arithmetic(x, jax.tree.map(lambda y: jnp.zeros(y.shape[1:], y.dtype), x), 0.2)),
        laws=["shape", "dtype", "bad_input", "linear_under_scaling"],
    )


def test_sharded_over_members_and_parameters():
    mesh = jax.make_mesh((4, 2), ("member", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rng = np.random.default_rng(7)
    stacked, base = jnp.asarray(rng.normal(size=(8, 6, 5)), jnp.float32), jnp.zeros((6, 5), jnp.float32)
    spread = jax.device_put(stacked, jax.NamedSharding(mesh, jax.sharding.PartitionSpec("member", "fsdp")))
    fn = jax.jit(ties)
    # float32, summed in another order; the thresholds are integers, hence the same
    np.testing.assert_allclose(fn(spread, base), fn(stacked, base), rtol=2e-6, atol=1e-6)


def test_clear_errors():
    models, base = {"a": jnp.zeros((2, 3))}, {"a": jnp.zeros(3)}
    with pytest.raises(ValueError, match=r"ties: the base against one model .*\['a'\] is float32\[4\]"):
        ties(models, {"a": jnp.zeros(4)})
    with pytest.raises(ValueError, match=r"task_vectors: .*\['a'\] is missing; \['b'\] is not expected"):
        task_vectors(models, {"b": jnp.zeros(3)})
    with pytest.raises(ValueError, match="keep must be above 0"):
        ties_trim(models, keep=0.0)
    with pytest.raises(ValueError, match=r"keep must lie in \[0.0, 1.0\], got 20"):
        ties_trim(models, keep=20)
    with pytest.raises(ValueError, match="mode must be one of"):
        ties(models, base, mode="max")
    with pytest.raises(ValueError, match="granularity must be one of"):
        ties(models, base, granularity="layer")
    with pytest.raises(ValueError, match=r"a coefficient has shape \(3,\), the stack holds 2 models"):
        task_arithmetic(models, base, jnp.ones(3))
    with pytest.raises(ValueError, match="coeffs must be a number, an array"):
        task_arithmetic(models, base, {"b": 0.3})
    fn = lambda p, x: x[:, None] * p["a"]  # noqa: E731
    key, inputs = jax.random.key(0), [jnp.ones(4)] * 2
    with pytest.raises(ValueError, match="3 apply_fns for 2 task vectors"):
        adamerging_loss(0.3, models, base, [fn] * 3, inputs)
    with pytest.raises(ValueError, match="1 batches for 2 task vectors"):
        adamerging_loss(0.3, models, base, fn, inputs[:1])
    with pytest.raises(ValueError, match="inputs of 1 tasks for 2"):
        adamerging_fit(key, models, base, fn, inputs[:1])
    with pytest.raises(ValueError, match="the unlabeled inputs is empty"):
        adamerging_fit(key, models, base, fn, [jnp.ones(4), jnp.ones(0)])
    with pytest.raises(ValueError, match="steps must be at least 1"):
        adamerging_fit(key, models, base, fn, inputs, steps=0)
    with pytest.raises(ValueError, match="granularity must be one of"):
        adamerging_fit(key, models, base, fn, inputs, granularity="leaf")
    with pytest.raises(TypeError, match="key"):
        adamerging_fit(jnp.zeros(2, jnp.uint32), models, base, fn, inputs)
