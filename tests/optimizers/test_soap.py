"""SOAP against the authors' file, and the laws that the rotation must obey."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import NamedSharding, PartitionSpec

from jaxtrain.optimizers import eigenbasis_qr_update, scale_by_soap, soap
from jaxtrain.optimizers.soap import _refresh

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "soap.npz")
# the options of tests/golden/make_soap.py in our names
CASES = {
    "every_step": {"precondition_frequency": 1},
    "every_tenth": {"precondition_frequency": 10},
    "one_sided": {"precondition_frequency": 3, "max_precond_dim": 6},
    "kernel": {"precondition_frequency": 2},
    "vector": {"precondition_frequency": 2, "precondition_1d": True},
    "plain_vector": {},
    "normalized": {"precondition_frequency": 4, "normalize": True, "bias_correction": False},
    "own_rate": {"precondition_frequency": 5, "shampoo_beta": 0.8, "b1": 0.9, "b2": 0.99, "weight_decay": 0.1},
}


def run(tx, params, grads):
    """The iterates and the last state of a scanned run."""

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    (_, state), iterates = jax.jit(lambda p, g: jax.lax.scan(step, (p, tx.init(p)), g))(params, grads)
    return iterates, state


@pytest.mark.parametrize("case", CASES)
def test_equals_the_official_code(x64, case):
    params, grads = jnp.asarray(GOLDEN[f"{case}/first"]), jnp.asarray(GOLDEN[f"{case}/grads"])
    iterates, _ = run(soap(0.03, **CASES[case]), params, grads)
    # 40 float64 steps of size 0.03; QR amplifies rounding where eigenvalues lie close (measured: 6e-15)
    np.testing.assert_allclose(iterates, GOLDEN[f"{case}/iterates"], rtol=0, atol=1e-12)


def test_schedule_and_mask(x64):
    """The rate of a schedule reaches the decay too, and masked parameters do not decay."""
    grads = jax.tree.map(jnp.asarray, {"a": GOLDEN["own_rate/grads"], "b": GOLDEN["own_rate/grads"]})
    params = jax.tree.map(jnp.asarray, {"a": GOLDEN["own_rate/first"], "b": GOLDEN["own_rate/first"]})
    options = CASES["own_rate"]
    both, _ = run(soap(lambda t: 0.03 + 0.0 * t, **options, mask={"a": True, "b": False}), params, grads)
    np.testing.assert_allclose(both["a"], GOLDEN["own_rate/iterates"], rtol=0, atol=1e-12)  # as above
    without, _ = run(soap(0.03, **options | {"weight_decay": 0.0}), params["b"], grads["b"])
    np.testing.assert_allclose(both["b"], without, rtol=0, atol=1e-13)


def test_without_rotation_it_is_adam_one_step_late(x64):
    grads = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3, 4)))
    ours, state = run(optax.chain(scale_by_soap(eps=0.0, max_precond_dim=1), optax.scale(-0.1)), grads[0], grads)
    adam, _ = run(optax.adam(0.1, b1=0.95, b2=0.95, eps=0.0), grads[0], grads[1:])
    np.testing.assert_array_equal(ours[0], grads[0])  # the skipped call
    np.testing.assert_allclose(ours[1:], adam, rtol=0, atol=1e-14)  # float64, the same operations in another order
    assert jax.tree.leaves(state[0].bases) == []


def test_rotating_the_problem_rotates_the_updates(x64):
    rng = np.random.default_rng(1)
    grads = rng.normal(size=(30, 5, 5))
    u, v = (jnp.asarray(np.linalg.qr(rng.normal(size=(5, 5)))[0]) for _ in range(2))
    tx = optax.chain(scale_by_soap(precondition_frequency=3), optax.scale(-0.1))
    plain, state = run(tx, jnp.zeros((5, 5)), jnp.asarray(grads))
    turned, _ = run(tx, jnp.zeros((5, 5)), u @ jnp.asarray(grads) @ v.T)
    # equal but for rounding that 10 QR decompositions amplify; Adam itself would differ in the first digit
    np.testing.assert_allclose(u @ plain @ v.T, turned, rtol=0, atol=1e-10)
    for q in jax.tree.leaves(state[0].bases):
        np.testing.assert_allclose(q.T @ q, np.eye(5), atol=1e-14)


def test_repeated_refreshes_find_the_eigenbasis(x64):
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    p = jnp.asarray(basis @ np.diag([8.0, 4.0, 2.0, 1.0]) @ basis.T)
    q, v = jnp.eye(4), jnp.arange(4.0)
    for _ in range(60):
        q, v = eigenbasis_qr_update(p, q, v, 0)
    # orthogonal iteration converges like (1/2)^60
    np.testing.assert_allclose(np.abs(q), np.abs(basis), atol=1e-12)
    assert sorted(v.tolist()) == [0, 1, 2, 3]


def test_stacked_layers_equal_layers_apart():
    rng = np.random.default_rng(3)
    grads = jnp.asarray(rng.normal(size=(12, 3, 4, 4)), jnp.float32)
    stacked, _ = run(scale_by_soap(precondition_frequency=2, stacked_axes=1), grads[0], grads)
    for layer in range(3):
        alone, _ = run(scale_by_soap(precondition_frequency=2), grads[0, layer], grads[:, layer])
        # float32 sums of 12 updates of order one, batched linear algebra in another order
        np.testing.assert_allclose(stacked[:, layer], alone, rtol=0, atol=2e-3)
    # nothing is stacked in a number
    tx = scale_by_soap(stacked_axes=1)
    both = {"w": grads[0], "s": jnp.float32(2.0)}
    _, state = tx.update(both, tx.init(both))
    assert float(tx.update(both, state)[0]["s"]) == pytest.approx(1.0, rel=1e-5)


def test_vmapped_members_equal_members_alone_and_skip_the_refresh():
    rng = np.random.default_rng(4)
    grads = jnp.asarray(rng.normal(size=(2, 9, 4, 4)), jnp.float32)

    def final(learning_rate, grads):
        return run(soap(learning_rate, precondition_frequency=4), grads[0], grads)[0][-1]

    rates = jnp.array([0.01, 0.1])
    together = jax.vmap(final)(rates, grads)
    for i in range(2):
        # nine steps of at most 0.1 in float32, with QR amplifying the rounding
        np.testing.assert_allclose(together[i], final(rates[i], grads[i]), rtol=0, atol=1e-4)

    tx = scale_by_soap(precondition_frequency=4)
    jaxpr = jax.make_jaxpr(jax.vmap(tx.update))(grads[:, 0], jax.vmap(tx.init)(grads[:, 0])).jaxpr
    straight, looped = primitives(jaxpr)
    # decompositions stand only inside loops, which run when a member is due
    decompositions = {"eigh", "qr"}
    assert decompositions <= looped and not decompositions & straight


def primitives(jaxpr, in_loop=False):
    """Names of the primitives outside and inside while loops."""
    found = (set(), set())
    for eqn in jaxpr.eqns:
        found[in_loop].add(eqn.primitive.name)
        for inner in jaxprs_in_params(eqn.params):
            for total, more in zip(found, primitives(inner, in_loop or eqn.primitive.name == "while"), strict=True):
                total |= more
    return found


def test_one_decomposition_waits_for_the_other():
    """Independent batches of them, run at once, deadlock in the thread pool of jaxlib's CPU backend."""
    params = {"a": jnp.ones((2, 3, 3)), "b": jnp.ones((2, 4, 4))}
    tx = scale_by_soap(stacked_axes=1)
    jaxpr = jax.make_jaxpr(tx.update)(params, tx.init(params)).jaxpr

    def bodies(jaxpr):
        return [eqn.params["body_jaxpr"].jaxpr for eqn in jaxpr.eqns if eqn.primitive.name == "while"]

    (turn,) = bodies(jaxpr)
    found = [in_turn(body) for body in bodies(turn)]
    assert found == [4, 2]  # eigh of two factors of two parameters; refreshes of two parameters
    square = jnp.eye(3)
    refresh = jax.make_jaxpr(_refresh)(square, square, (square, square), (square, square)).jaxpr
    assert in_turn(refresh) == 2  # each of which has two QR


def test_bases_and_covariances_are_not_copied_at_every_step():
    """XLA would do it before the loop of the refresh, and turn them to the order in which LAPACK has matrices."""
    params = {"w": jnp.ones((3, 4)), "v": jnp.ones((5, 3))}
    tx = scale_by_soap()
    state = tx.init(params)
    text = jax.jit(tx.update, donate_argnums=1).lower(params, state).compile().as_text()
    every_step = text[text.index("ENTRY") :]
    assert "bases" in every_step and "{0,1}" not in every_step
    copies = [line for line in every_step.splitlines() if " copy(" in line]
    assert not [line for line in copies if "bases" in line or "covariances" in line]


def in_turn(jaxpr):
    """The number of decompositions, each of which must depend on all before it."""
    needs, count = {}, 0
    for eqn in jaxpr.eqns:
        before = set().union(*(needs.get(v, set()) for v in eqn.invars if not hasattr(v, "val")))
        names = {eqn.primitive.name}.union(*(primitives(j)[0] for j in jaxprs_in_params(eqn.params)))
        if names & {"eigh", "qr", "svd"}:
            assert before == set(range(count))
            before, count = before | {count}, count + 1
        needs |= dict.fromkeys(eqn.outvars, before)
    return count


def test_sharded_values_equal_unsharded_ones():
    rng = np.random.default_rng(5)
    grads = jnp.asarray(rng.normal(size=(7, 8, 8)), jnp.float32)
    mesh = jax.make_mesh((4, 2), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    tx = soap(0.1, precondition_frequency=2)
    alone, state = run(tx, grads[0], grads)
    spread = jax.device_put(grads, NamedSharding(mesh, PartitionSpec(None, "fsdp", "tensor")))
    start = jax.device_put(grads[0], NamedSharding(mesh, PartitionSpec("fsdp", "tensor")))
    sharded, _ = run(tx, start, spread)
    # seven steps of at most 0.1; partial sums of the covariances are added in another order
    np.testing.assert_allclose(sharded, alone, rtol=0, atol=1e-4)
    assert len(sharded.sharding.device_set) == 8 and state[0].bases[0].shape == (8, 8)


def test_half_precision_keeps_float32_moments_and_odd_leaves_pass():
    params = {
        "half": jnp.ones((3, 3), jnp.bfloat16),
        "scalar": jnp.float32(1.0),
        "empty": jnp.zeros((0, 3)),
        "row": jnp.ones((1, 3)),
    }
    tx = soap(0.1, precondition_frequency=1)
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(params, state, params)
    assert jax.tree.map(lambda u: u.dtype, updates) == jax.tree.map(lambda p: p.dtype, params)
    soap_state = state[0]
    assert {x.dtype for x in jax.tree.leaves(soap_state)} == {np.dtype("int32"), np.dtype("float32")}
    assert soap_state.bases["empty"] == (None, None)
    assert [q is None for q in scale_by_soap(max_precond_dim=3).init(jnp.ones((3, 4))).bases] == [False, True]
    assert soap_state.bases["row"][0] is None and soap_state.bases["row"][1].shape == (3, 3)
    assert all(bool(jnp.isfinite(u).all()) for u in jax.tree.leaves(updates))


def test_hyperparameters_may_be_injected():
    grads = jnp.asarray(np.random.default_rng(6).normal(size=(6, 3, 3)), jnp.float32)
    injected = optax.inject_hyperparams(soap, static_args=("max_precond_dim", "stacked_axes"))(learning_rate=0.1)
    # float32: injected numbers are arrays, plain ones constants of the program
    np.testing.assert_allclose(run(injected, grads[0], grads)[0], run(soap(0.1), grads[0], grads)[0], rtol=0, atol=1e-5)


def test_clear_errors():
    with pytest.raises(ValueError, match=r"b2 must lie in \[0.0, 0.99999994.*\], got 1.0"):
        scale_by_soap(b2=1.0)
    with pytest.raises(ValueError, match="max_precond_dim must be at least 1, got 0"):
        scale_by_soap(max_precond_dim=0).init(jnp.ones((2, 2)))
    with pytest.raises(TypeError, match="max_precond_dim decides shapes and must be a Python integer"):
        jax.jit(lambda n: scale_by_soap(max_precond_dim=n).init(jnp.ones((2, 2))))(5)
    with pytest.raises(ValueError, match="weight_decay must lie in .* got -0.1"):
        soap(weight_decay=-0.1)
    with pytest.raises(ValueError, match="soap decays the parameters"):
        soap().update(jnp.ones(2), soap().init(jnp.ones(2)))
