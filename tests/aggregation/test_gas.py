"""Gradient splitting against the authors' server loop, and Bulyan as its base against NumPy."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.aggregation import bulyan, coordinate_median, gas, multi_krum, splitting_scores, trimmed_mean

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "robust.npz")
F = int(GOLDEN["f"])


@pytest.mark.parametrize(
    "name, base",
    [
        ("median", coordinate_median),
        ("rbtm", lambda x: trimmed_mean(x, num_byzantine=F)),
        ("krum", lambda x: multi_krum(x, num_byzantine=F)),
    ],
)
def test_scores_equal_the_authors(name, base, x64):
    x = jnp.asarray(GOLDEN["x_9"][:, GOLDEN["gas_order"]])
    got = jax.jit(lambda x: splitting_scores(x, num_groups=int(GOLDEN["gas_groups"]), base=base))(x)
    np.testing.assert_allclose(got, GOLDEN[f"gas_{name}"], rtol=1e-13)  # float64


def test_the_whole_of_it(x64):
    """Algorithm 1 in NumPy, with the permutation that the key gives, on a tree; the base Bulyan over groups."""
    rng, key, f = np.random.default_rng(0), jax.random.key(5), 2
    x = rng.normal(size=(11, 10))
    x[:f] += 1.5
    order = np.asarray(jax.random.permutation(key, 10))
    scores = np.zeros(11)
    for part in np.array_split(order, [4, 8]):  # ⌈10/3⌉ = 4 each, the last shorter
        group = x[:, part]
        centre = np.asarray(bulyan(jnp.asarray(group), num_byzantine=f, selection="multi_krum"))
        scores += np.linalg.norm(group - centre, axis=1)
    chosen = np.sort(np.argsort(scores)[: 11 - f])
    tree = {"a": jnp.asarray(x[:, :4]).reshape(11, 2, 2), "b": jnp.asarray(x[:, 4:])}
    run = jax.jit(lambda k, t: gas(k, t, num_byzantine=f, num_groups=3, base="bulyan"))
    result, selected = run(key, tree)
    np.testing.assert_array_equal(np.flatnonzero(selected), chosen)
    flat = np.concatenate([np.ravel(result["a"]), result["b"]])
    np.testing.assert_allclose(flat, x[chosen].mean(0), atol=1e-14)


def test_limits(x64):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(9, 6)))
    key = jax.random.key(0)
    # no Byzantine worker: the mean
    np.testing.assert_allclose(gas(key, x, num_byzantine=0, num_groups=2, base="median")[0], x.mean(0), atol=1e-15)
    # one group: the rows nearest to the base rule's result on whole rows
    _, selected = gas(key, x, num_byzantine=3, num_groups=1, base="median")
    far = np.argsort(np.linalg.norm(np.asarray(x) - np.median(x, axis=0), axis=1))[6:]
    assert not np.asarray(selected)[far].any() and int(selected.sum()) == 6
    # honest workers that agree, and three huge ones: exactly theirs
    same = jnp.concatenate([jnp.tile(x[:1], (6, 1)), jnp.full((3, 6), 1e30)])
    for base in ("median", "trimmed_mean", "krum"):
        np.testing.assert_allclose(gas(key, same, num_byzantine=3, num_groups=3, base=base)[0], x[0], rtol=1e-15)


def test_clear_errors():
    x, key = jnp.ones((4, 3)), jax.random.key(0)
    for arguments, message in (
        ({"num_groups": 4}, r"num_groups must lie in \[1, 3\] for 3 coordinates, got 4"),
        ({"num_byzantine": 2}, r"gas needs n ≥ 2 f \+ 1 workers, 5 for f = 2"),
        ({"base": "mode"}, "base is a function or one of median, trimmed_mean, krum, bulyan, got 'mode'"),
    ):
        with pytest.raises(ValueError, match=message):
            gas(key, x, **({"num_byzantine": 1, "num_groups": 2, "base": "median"} | arguments))
    with pytest.raises(ValueError, match="needs 3 workers, got 2"):
        gas(key, x[:2], num_byzantine=0, num_groups=1, base="krum")
