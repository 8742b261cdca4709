"""SAM, ASAM and ImbSAM against loops written from the papers on a linear model, their limits and their cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.core import Aux
from jaxtrain.gradients import imbsam, jacobian_descent, microbatch, sam, tail_classes, value_and_grad

KEY = jax.random.key(0)


@pytest.fixture
def data(x64):
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=(12, 5)), "y": rng.integers(0, 3, 12)}, rng.normal(size=(5, 3)), rng.normal(size=3)


def _losses(params, state, batch, key):
    logits = batch["x"] @ params["w"] + params["b"]
    losses = jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, batch["y"][:, None], 1)[:, 0]
    return losses, Aux({"seen": state["seen"] + 1}, {})


def _objective(params, state, batch, key):
    losses, aux = _losses(params, state, batch, key)
    return jnp.mean(losses), aux


def _numpy_grad(w, b, batch, weights):
    """Gradient of Σ weights · cross-entropy of a linear model, by hand."""
    logits = batch["x"] @ w + b
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(p)), batch["y"]] -= 1
    p *= weights[:, None]
    return batch["x"].T @ p, p.sum(0)


def _params(w, b):
    return {"w": jnp.asarray(w), "b": jnp.asarray(b)}


def _ascended(w, b, gw, gb, rho):
    size = np.sqrt((gw**2).sum() + (gb**2).sum())
    return w + rho * gw / size, b + rho * gb / size


def test_sam_is_the_gradient_at_the_perturbed_point(data):
    batch, w, b = data
    uniform = np.full(12, 1 / 12)
    want = _numpy_grad(*_ascended(w, b, *_numpy_grad(w, b, batch, uniform), 0.7), batch, uniform)
    (loss, aux), grads = jax.jit(sam(value_and_grad(_objective), rho=0.7))(_params(w, b), {"seen": 0}, batch, KEY)
    np.testing.assert_allclose(grads["w"], want[0], atol=1e-14)  # float64
    np.testing.assert_allclose(grads["b"], want[1], atol=1e-14)
    assert int(aux.model_state["seen"]) == 1  # of the first pass
    np.testing.assert_allclose(loss, _objective(_params(w, b), {"seen": 0}, batch, KEY)[0])


def test_asam_perturbs_relative_to_the_parameters(data):
    batch, w, b = data
    uniform, eta, rho = np.full(12, 1 / 12), 0.01, 0.5
    gw, gb = _numpy_grad(w, b, batch, uniform)
    tw, tb = np.abs(w) + eta, np.abs(b) + eta
    size = np.sqrt(((tw * gw) ** 2).sum() + ((tb * gb) ** 2).sum())
    want = _numpy_grad(w + rho * tw**2 * gw / size, b + rho * tb**2 * gb / size, batch, uniform)
    _, grads = sam(value_and_grad(_objective), rho=rho, adaptive=True)(_params(w, b), {"seen": 0}, batch, KEY)
    np.testing.assert_allclose(grads["w"], want[0], atol=1e-14)


@pytest.mark.parametrize("tail_weight", [1.0, 2.0])
def test_imbsam_equals_its_four_steps(data, tail_weight):
    batch, w, b = data
    tail = batch["y"] == 2
    head_weights, tail_weights = np.where(tail, 0, 1 / 12), np.where(tail, tail_weight / 12, 0)
    head = _numpy_grad(w, b, batch, head_weights)
    moved = _ascended(w, b, *_numpy_grad(w, b, batch, tail_weights), 0.3)
    want = [h + t for h, t in zip(head, _numpy_grad(*moved, batch, tail_weights), strict=True)]
    grad_fn = imbsam(_losses, lambda batch: batch["y"] == 2, rho=0.3, tail_weight=tail_weight)
    (loss, aux), grads = jax.jit(grad_fn)(_params(w, b), {"seen": 0}, batch, KEY)
    np.testing.assert_allclose(grads["w"], want[0], atol=1e-14)
    np.testing.assert_allclose(grads["b"], want[1], atol=1e-14)
    losses = _losses(_params(w, b), {"seen": 0}, batch, KEY)[0]
    np.testing.assert_allclose(loss, np.sum(losses * (head_weights + tail_weights)))
    assert int(aux.model_state["seen"]) == 1


def test_imbsam_limits(data):
    batch, w, b = data
    params = _params(w, b)
    plain = value_and_grad(_objective)(params, {"seen": 0}, batch, KEY)[1]

    def close(a, b):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-14), a, b)

    nobody = imbsam(_losses, lambda batch: batch["y"] > 9, rho=0.3)
    close(nobody(params, {"seen": 0}, batch, KEY)[1], plain)
    everybody = imbsam(_losses, lambda batch: batch["y"] >= 0, rho=0.3, tail_weight=1.0)
    close(
        everybody(params, {"seen": 0}, batch, KEY)[1],
        sam(value_and_grad(_objective), rho=0.3)(params, {"seen": 0}, batch, KEY)[1],
    )
    flat = imbsam(_losses, lambda batch: batch["y"] == 2, rho=0.0, tail_weight=1.0)
    close(flat(params, {"seen": 0}, batch, KEY)[1], plain)
    close(sam(value_and_grad(_objective), rho=0.0)(params, {"seen": 0}, batch, KEY)[1], plain)


def test_a_zero_gradient_is_not_perturbed():
    """optax divides by zero here (issue 1743)."""
    grad_fn = sam(value_and_grad(lambda w, s, x, k: (jnp.sum(w**2), Aux(s, {}))), rho=0.1)
    np.testing.assert_array_equal(grad_fn(jnp.zeros(3), {}, None, KEY)[1], np.zeros(3))


@pytest.mark.parametrize("kind, passes", [("plain", 1), ("sam", 2), ("imbsam", 2), ("sam of microbatch", 2)])
def test_cost_in_forward_passes(kind, passes, data):
    calls = []
    batch, w, b = data

    def counted(params, state, batch, key):
        calls.append(1)
        return _losses(params, state, batch, key)

    def mean(*args):
        losses, aux = counted(*args)
        return jnp.mean(losses), aux

    grad_fn = {
        "plain": lambda: value_and_grad(mean),
        "sam": lambda: sam(value_and_grad(mean)),
        "imbsam": lambda: imbsam(counted, lambda batch: batch["y"] == 2),
        "sam of microbatch": lambda: sam(microbatch(value_and_grad(mean), 3)),
    }[kind]()
    grad_fn(_params(w, b), {"seen": jnp.array(0)}, jax.tree.map(jnp.asarray, batch), KEY)
    # a scan over parts traces its body once, whatever their number
    assert len(calls) == passes


def test_sam_of_microbatches_is_sam_of_the_batch(data):
    batch, w, b = data
    batch = jax.tree.map(jnp.asarray, batch)
    state = {"seen": jnp.array(0)}
    whole = sam(value_and_grad(_objective), rho=0.4)(_params(w, b), state, batch, KEY)[1]
    parts = sam(microbatch(value_and_grad(_objective), 4), rho=0.4)(_params(w, b), state, batch, KEY)[1]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-14), whole, parts)


def test_rho_may_be_traced_and_bfloat16_is_kept():
    grad_fn = value_and_grad(lambda w, s, x, k: (jnp.sum(w.astype(jnp.float32) ** 2) / 2, Aux(s, {})))
    grads = jax.vmap(lambda rho: sam(grad_fn, rho=rho)(jnp.array([3.0, 4.0]), {}, None, KEY)[1])(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(grads, [[3.0, 4.0], [3.6, 4.8]], rtol=1e-6)
    half = sam(grad_fn, rho=0.1)(jnp.array([3.0, 4.0], jnp.bfloat16), {}, None, KEY)[1]
    assert half.dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="rho must lie in"):
        sam(grad_fn, rho=-1.0)


def test_tail_classes_and_shape_errors(data):
    assert tail_classes(jnp.array([100, 19, 20])).tolist() == [False, True, False]
    batch, w, b = data
    with pytest.raises(ValueError, match=r"losses have shape \(12,\), is_tail\(batch\) has \(3,\)"):
        imbsam(_losses, lambda batch: jnp.zeros(3, bool))(_params(w, b), {"seen": 0}, batch, KEY)


def test_jacobian_descent_rows_are_the_gradients_of_the_losses(data):
    batch, w, b = data
    seen = []

    def mean(stack):
        seen.append(stack)
        return jax.tree.map(lambda x: jnp.mean(x, 0), stack)

    (loss, _), grads = jacobian_descent(_losses, mean)(_params(w, b), {"seen": 0}, batch, KEY)
    (plain_loss, _), plain = value_and_grad(_objective)(_params(w, b), {"seen": 0}, batch, KEY)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-15), (loss, grads), (plain_loss, plain))
    one = np.zeros(12)
    one[4] = 1.0
    np.testing.assert_allclose(seen[0]["w"][4], _numpy_grad(w, b, batch, one)[0], atol=1e-14)
    with pytest.raises(ValueError, match="needs a vector of losses"):
        jacobian_descent(_objective, mean)(_params(w, b), {"seen": 0}, batch, KEY)
