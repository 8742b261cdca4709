"""A minimal program for every law that something of optax breaks: ``(name, law) -> source``. Each prints one line."""

import contextlib
import io

_SHARED = """\
tx = {tx}
params = jnp.ones(3)
step = jax.jit(lambda p, s: tx.update(p, s, p), donate_argnums=(0, 1))
try:
    step(params, tx.init(params))
    print("fine")
except jax.errors.JaxRuntimeError as error:
    print(str(error).partition(" in Execute")[0])
"""

_DTYPE = """\
tx = {tx}
params = jnp.ones(3, jnp.bfloat16)
updates, _ = tx.update(params, tx.init(params), params)
print(params.dtype, updates.dtype)
"""

_ZERO = """\
tx = {tx}
params = jnp.ones(3)
state = tx.init(params)
for _ in range(2):
    updates, state = tx.update(jnp.zeros(3), state, params)
print({show})
"""

_RAISES = """\
try:
{body}
    print("fine")
except Exception as error:
    print(type(error).__name__)
"""


def _raises(*lines: str) -> str:
    return _RAISES.format(body="\n".join("    " + line for line in lines))


_LBFGS_PART = """\
tx = {tx}
f = lambda p: sum(jnp.sum(x ** 2) for x in jax.tree.leaves(p))
p = {{"a": jnp.ones(3), "b": jnp.ones(3)}}
g = jax.grad(f)(p)
try:
    tx.update(g, tx.init(p), p, value=f(p), grad=g, value_fn=f)
    print("fine")
except ValueError as error:
    print(str(error).partition(":")[0])
"""

_SAM = "optax.contrib.sam(optax.sgd(0.1), optax.chain(optax.contrib.normalize(), optax.sgd(0.05)))"
_SHARE = {
    "contrib.cocob": "optax.contrib.cocob()",
    "contrib.dog": "optax.contrib.dog(1.0)",
    "contrib.dowg": "optax.contrib.dowg(1.0)",
    "contrib.madgrad": "optax.contrib.madgrad(0.1)",
    "contrib.mechanize(sgd)": "optax.contrib.mechanize(optax.sgd(0.1))",
    "contrib.prodigy": "optax.contrib.prodigy()",
    "contrib.sam(sgd)": _SAM,
}

PROGRAMS: dict[tuple[str, str], str] = {
    ("adam(mu_dtype=float32)", "dtype"): _DTYPE.format(tx="optax.adam(0.1, mu_dtype=jnp.float32)"),
    ("adam(a float32 array)", "dtype"): _DTYPE.format(tx="optax.adam(jnp.float32(0.1))"),
    ("adam(mu_dtype=bfloat16)", "jit"): """\
tx = optax.adam(0.1, mu_dtype=jnp.bfloat16)
params = jnp.linspace(0.1, 1.0, 7)
grads = [params, 0.3 * params]
def run(update):
    state = tx.init(params)
    for g in grads:
        updates, state = update(g, state, params)
    return updates
print(bool(jnp.allclose(run(tx.update), run(jax.jit(tx.update)), rtol=1e-4)))
""",
    ("rprop", "non_finite"): """\
tx = optax.rprop(0.1)
params = jnp.ones(2)
state = tx.init(params)
for g in (jnp.ones(2), jnp.array([1.0, jnp.nan])):
    updates, state = tx.update(g, state, params)
print(bool(jnp.isfinite(updates).all()))
""",
    ("sm3", "scalar_leaf"): _raises("optax.sm3(0.1).update(jnp.ones(()), optax.sm3(0.1).init(jnp.ones(())))"),
    ("sm3", "empty_leaf"): _raises("optax.sm3(0.1).update(jnp.ones((0, 4)), optax.sm3(0.1).init(jnp.ones((0, 4))))"),
    ("contrib.muon", "empty_leaf"): _raises(
        "tx = optax.contrib.muon(0.1)", "p = jnp.ones((0, 4))", "tx.update(p, tx.init(p), p)"
    ),
    ("contrib.dadapt_adamw", "zero_gradients"): _ZERO.format(tx="optax.contrib.dadapt_adamw()", show="state.estim_lr"),
    ("contrib.prodigy", "zero_gradients"): _ZERO.format(tx="optax.contrib.prodigy()", show="updates[0]"),
    ("contrib.sam(sgd)", "zero_gradients"): _ZERO.format(tx=_SAM, show="updates[0]"),
    ("contrib.sam(sgd)", "extra_args"): _raises(
        f"tx = {_SAM}", "p = jnp.ones(3)", "tx.update(p, tx.init(p), p, value=0.0)"
    ),
    ("lbfgs", "extra_args"): """\
tx = optax.lbfgs()
f = lambda p: jnp.sum(p ** 2)
p = jnp.ones(3)
try:
    tx.update(2 * p, tx.init(p), p, value=f(p), grad=2 * p, value_fn=f, key=jax.random.key(0))
    print("fine")
except TypeError as error:
    print(type(error).__name__)
""",
    ("lbfgs", "no_shared_buffers"): """\
tx = optax.lbfgs(linesearch=None)
params = jnp.ones(3)
step = jax.jit(lambda g, s, p: tx.update(g, s, p), donate_argnums=1)
try:
    step(2 * params, tx.init(params), params)
    print("fine")
except jax.errors.JaxRuntimeError as error:
    print(str(error).partition(" in Execute")[0])
""",
    ("lbfgs", "no_retrace"): """\
tx = optax.lbfgs()
f = lambda p: jnp.sum((p - 1) ** 4)
traces = []
@jax.jit
def step(p, s):
    traces.append(p)
    value, grad = jax.value_and_grad(f)(p)
    updates, s = tx.update(grad, s, p, value=value, grad=grad, value_fn=f)
    return optax.apply_updates(p, updates), s
p = jnp.zeros(3)
s = tx.init(p)
for _ in range(3):
    p, s = step(p, s)
print(len(traces))
""",
    ("lbfgs", "masked"): _LBFGS_PART.format(tx='optax.masked(optax.lbfgs(), {"a": True, "b": False})'),
    ("lbfgs", "partition"): _LBFGS_PART.format(
        tx='optax.partition({"x": optax.lbfgs(), "y": optax.set_to_zero()}, {"a": "x", "b": "y"})'
    ),
    ("contrib.adopt", "inject_hyperparams"): _raises(
        "tx = optax.inject_hyperparams(optax.contrib.adopt)(learning_rate=0.1)",
        "p = jnp.ones(3)",
        "jax.jit(tx.update)(p, tx.init(p), p)",
    ),
    ("contrib.reduce_on_plateau", "inject_hyperparams"): _raises(
        "tx = optax.inject_hyperparams(optax.contrib.reduce_on_plateau)(factor=0.5)",
        "p = jnp.ones(3)",
        "jax.jit(tx.update)(p, tx.init(p), p, value=1.0)",
    ),
    ("contrib.galore", "checkpoint"): """\
state = optax.contrib.galore(0.1, rank=2).init({"kernel": jnp.ones((8, 4)), "bias": jnp.ones(8)})
print(sorted({str(x.shape) for x in jax.tree.leaves(state) if x.size == 0}))
""",
} | {(name, "no_shared_buffers"): _SHARED.format(tx=tx) for name, tx in _SHARE.items()}

HEADER = "import jax\nimport jax.numpy as jnp\nimport optax\n"


def output(source: str) -> str:
    """What a program prints."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        exec(HEADER + source, {})
    return text.getvalue().strip()
