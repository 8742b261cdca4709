"""Two small problems with the shapes that matter: a network with BatchNorm and one with attention."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.core import Aux


def bn_net(key, width=16, inputs=8, classes=4):
    """Parameters and running statistics."""
    a, b = jax.random.split(key)
    params = {
        # no bias before BatchNorm: its gradient is zero but for rounding, which Adam would blow up to full steps
        "dense": {"kernel": jax.random.normal(a, (inputs, width)) / inputs**0.5},
        "scale": jnp.ones(width),
        "head": {"kernel": jax.random.normal(b, (width, classes)) / width**0.5, "bias": jnp.zeros(classes)},
    }
    return params, {"mean": jnp.zeros(width), "var": jnp.ones(width)}


def bn_objective(params, model_state, batch, key):
    x = batch["x"] @ params["dense"]["kernel"]
    mean, var = x.mean(0), x.var(0)
    x = jax.nn.relu((x - mean) * jax.lax.rsqrt(var + 1e-5) * params["scale"])
    x = x * jax.random.bernoulli(key, 0.9, x.shape[-1:]) / 0.9
    logits = x @ params["head"]["kernel"] + params["head"]["bias"]
    log_p = jax.nn.log_softmax(logits)
    loss = -jnp.mean(jnp.take_along_axis(log_p, batch["y"][:, None], 1))
    new = {"mean": 0.9 * model_state["mean"] + 0.1 * mean, "var": 0.9 * model_state["var"] + 0.1 * var}
    return loss, Aux(new, {"accuracy": jnp.mean((logits.argmax(-1) == batch["y"]).astype(jnp.float32))})


def bn_batch(step, size=16, inputs=8, classes=4):
    rng = np.random.default_rng(step)
    y = rng.integers(0, classes, size)
    return {"x": (rng.normal(size=(size, inputs)) + y[:, None]).astype(np.float32), "y": y.astype(np.int32)}


def attention_net(key, width=16, vocabulary=32):
    names = ("embed", "qkv", "out", "up", "down", "unembed")
    shapes = ((vocabulary, width), (width, 3 * width), (width, width), (width, 32), (32, width), (width, vocabulary))
    keys = jax.random.split(key, len(names))
    return {n: jax.random.normal(k, s) / s[0] ** 0.5 for n, k, s in zip(names, keys, shapes, strict=True)}, {}


def attention_objective(params, model_state, batch, key):
    del key
    tokens, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
    x = params["embed"][tokens]
    q, k, v = jnp.split((x @ params["qkv"]).reshape(*x.shape[:2], 4, -1), 3, axis=-1)
    x = x + jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape) @ params["out"]
    x = x + jax.nn.gelu(x @ params["up"]) @ params["down"]
    log_p = jax.nn.log_softmax(x @ params["unembed"])
    return -jnp.mean(jnp.take_along_axis(log_p, targets[..., None], -1)), Aux(model_state, {})


def attention_batch(step, size=16, length=9, vocabulary=32):
    return {"tokens": np.random.default_rng(step).integers(0, vocabulary, (size, length)).astype(np.int32)}


PROBLEMS = {
    "bn": (bn_net, bn_objective, bn_batch),
    "attention": (attention_net, attention_objective, attention_batch),
}
