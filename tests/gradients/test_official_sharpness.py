"""Training steps of AWP, AMP and IGNITE against the authors' files."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxtrain.core import Aux
from jaxtrain.gradients import IgniteState, amp, awp, ignite, ignite2, value_and_grad
from jaxtrain.losses import trades_loss

GOLDEN_FILES = Path(__file__).parents[1] / "golden"
KEY = jax.random.key(0)


def run(grad_fn, tx, params, batches, flatten, model_state=()):
    """The parameters after each step, in the order of the golden file, and loss and model state."""

    def step(carry, batch):
        params, opt_state, model_state = carry
        (loss, aux), grads = grad_fn(params, model_state, batch, KEY)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return (params, opt_state, aux.model_state), (flatten(params), loss, aux.model_state)

    start = params, tx.init(params), model_state
    return jax.jit(lambda start: jax.lax.scan(step, start, batches))(start)[1]


def cross_entropy(logits, labels):
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)


@pytest.mark.parametrize("name", ["at", "trades"])
def test_awp(name, x64):
    golden = np.load(GOLDEN_FILES / "awp.npz")
    order = [(layer, part) for layer in ("0", "2") for part in ("weight", "bias")]
    params = {layer: {"weight": None, "bias": None} for layer in ("0", "2")}
    for layer, part in order:
        params[layer][part] = jnp.asarray(golden[f"start_{layer}_{part}"])

    def model(p, x):
        hidden = jnp.tanh(x @ p["0"]["weight"].T + p["0"]["bias"])
        return hidden @ p["2"]["weight"].T + p["2"]["bias"]

    def objective(p, state, batch, key):
        adv = model(p, batch["x_adv"])
        if name == "at":
            return cross_entropy(adv, batch["y"]).mean(), Aux(state, {})
        losses = trades_loss(model(p, batch["x"]), adv, batch["y"], beta=float(golden["beta"]))
        return losses.mean(), Aux(state, {})

    iterates, losses, _ = run(
        awp(value_and_grad(objective), gamma=float(golden["gamma"])),
        optax.sgd(0.1, momentum=0.9),
        params,
        {k: jnp.asarray(golden[k]) for k in ("x", "y", "x_adv")},
        lambda p: jnp.concatenate([p[layer][part].ravel() for layer, part in order]),
    )
    # four float64 steps; theirs adds and takes off the perturbation in place
    np.testing.assert_allclose(iterates, golden[f"{name}_iterates"], rtol=0, atol=1e-13)
    np.testing.assert_allclose(losses, golden[f"{name}_losses"], rtol=1e-13)  # at the perturbed weights


@pytest.mark.parametrize("inner_steps", [1, 2, 3])
def test_amp(inner_steps, x64):
    golden = np.load(GOLDEN_FILES / "amp.npz")

    def objective(p, state, batch, key):
        return cross_entropy(batch["x"] @ p["w"].T + p["b"], batch["y"]).mean(), Aux(state, {})

    rates = dict(epsilon=float(golden["epsilon"]), inner_rate=float(golden["inner_rate"]))
    iterates, _, _ = run(
        amp(value_and_grad(objective), inner_steps=inner_steps, **rates),
        optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(0.3, momentum=0.9, nesterov=True)),
        {"w": jnp.asarray(golden["w"]), "b": jnp.asarray(golden["b"])},
        {"x": jnp.asarray(golden["x"]), "y": jnp.asarray(golden["y"])},
        lambda p: jnp.concatenate([p["w"].ravel(), p["b"]]),
    )
    # theirs divides by the norm + 1e-12
    np.testing.assert_allclose(iterates, golden[f"iterates_{inner_steps}"], rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["ignite", "ignite2"])
def test_ignite(name, x64):
    golden = np.load(GOLDEN_FILES / "ignite.npz")
    order = ("w1", "b1", "w2", "log_scale")

    def mean(p, x):
        return jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"]

    def fit(p, state, batch, key):
        z = (batch["y"] - mean(p, batch["x"])) / jnp.exp(p["log_scale"])
        return jnp.mean(0.5 * z**2 + p["log_scale"] + 0.5 * jnp.log(2 * jnp.pi)), Aux(state, {})

    def prediction(p, state, batch, key):
        return mean(p, batch["x"]).mean(), Aux(state, {})

    numbers = {k: float(golden[k]) for k in ("rho", "r", "epsilon", "dual_rate", "multiplier")}
    multiplier = numbers.pop("multiplier")
    if name == "ignite":
        grad_fn, state = ignite(value_and_grad(fit), prediction, **numbers), IgniteState(jnp.asarray(multiplier), ())
    else:
        shape = dict(rho=numbers["rho"], r=numbers["r"])
        grad_fn, state = ignite2(value_and_grad(fit), prediction, weight=multiplier, **shape), ()
    iterates, _, states = run(
        grad_fn,
        optax.sgd(float(golden["rate"])),
        {k: jnp.asarray(golden[k]) for k in order},
        {"x": jnp.asarray(golden["x"]), "y": jnp.asarray(golden["y"])},
        lambda p: jnp.concatenate([p[k].ravel() for k in order]),
        state,
    )
    np.testing.assert_allclose(iterates, golden[f"{name}_iterates"], rtol=0, atol=1e-13)  # five float64 steps
    if name == "ignite":
        np.testing.assert_allclose(states.multiplier, golden["multipliers"], rtol=1e-13)
