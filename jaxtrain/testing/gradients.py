"""The laws of gradient functions."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxtrain.core import Aux
from jaxtrain.testing._violations import (
    Violation,
    chosen,
    demand,
    describe,
    differing_values,
    guarded,
    named_leaves,
    not_finite,
    unrefused,
)

GRAD_FN_LAWS: Mapping[str, str] = {
    "runs": "one floating loss, an Aux, and gradients with the tree and the shapes of the parameters",
    "dtype": "gradients have the dtype of the parameters, in bfloat16, float32 and float64",
    "aux": "the model state keeps its tree, shapes and dtypes and is the objective's; the objective's metrics arrive",
    "same_key": "one key gives the same bits",
    "other_key": "another key gives another gradient (only where it samples)",
    "jit": "jit gives the same",
    "vmap": "vmap over members gives what the loop gives",
    "no_retrace": "other values of the same shapes are no other program",
    "sharded": "a batch split over eight devices gives the same values",
    "zero_gradient": "a loss without slope gives finite gradients",
    "bad_batch": "leading axes that disagree, and an empty batch, raise ValueError (only where it splits the batch)",
    "evaluations": "the objective is evaluated as often as is said (only where it is said)",
    "gradient": "it is the gradient, to the tolerance that is said (only where one is)",
}
"""The laws that :func:`check_grad_fn` checks, and what each says."""

EXAMPLES = 8


def _losses(params, state, batch, key):
    del key
    error = jnp.tanh(batch["x"] @ params["kernel"] + params["bias"]) - batch["y"]
    losses = jnp.sum(error**2, axis=1)
    state = {"count": state["count"] + 1, "mean": 0.9 * state["mean"] + 0.1 * jnp.mean(batch["x"], axis=0)}
    return losses, Aux(state, {"error": jnp.mean(jnp.abs(error))})


def _flat_losses(params, state, batch, key):
    losses, aux = _losses(params, state, batch, key)
    return 0 * losses + 1, aux


def _is_abstract(tree: Any) -> bool:
    """Whether shapes are asked for, and no values."""
    return any("Dynamic" in type(x).__name__ for x in jax.tree.leaves(tree))


def find_grad_fn_violations(
    make: Callable[[Callable], Callable],
    *,
    per_example: bool = False,
    stacked: bool = False,
    samples: bool = False,
    splits_batch: bool = False,
    evaluations: int | None = None,
    tolerance: float | None = None,
    rtol: float = 1e-4,
    laws: Iterable[str] | None = None,
    except_: Iterable[str] = (),
) -> list[Violation]:
    """The laws that a gradient function breaks; arguments as in :func:`check_grad_fn`.

    >>> from jaxtrain.gradients import value_and_grad
    >>> half = lambda objective: lambda *args: jax.tree.map(lambda x: x / 2, value_and_grad(objective)(*args))
    >>> [v.law for v in find_grad_fn_violations(half, tolerance=1e-5, laws=["aux", "jit", "gradient"])]
    ['aux', 'gradient']
    """
    calls: list[int] = []

    def objective_of(losses_of):
        def objective(params, *rest):
            if not _is_abstract(params):
                calls.append(1)
            losses, aux = losses_of(params, *rest)
            return (losses if per_example else jnp.mean(losses)), aux

        return objective

    grad_fn = make(objective_of(_losses))
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 4), "bias": (4,), "x": (EXAMPLES, 3), "y": (EXAMPLES, 4)}
    members = [{name: rng.standard_normal(shape) for name, shape in shapes.items()} for _ in range(2)]
    keys = jax.random.split(jax.random.key(3), 2)

    def args(i=0, dtype=jnp.float32):
        of = {name: jnp.asarray(x, dtype) for name, x in members[i].items()}
        state = {"count": jnp.int32(4), "mean": jnp.zeros(3, dtype)}
        return {"kernel": of["kernel"], "bias": of["bias"]}, state, {"x": of["x"], "y": of["y"]}, keys[i]

    first = functools.cache(lambda: grad_fn(*args()))
    compiled = functools.cache(lambda: jax.jit(lambda *a: _traced(*a)))
    traces: list[int] = []

    def _traced(*a):
        traces.append(1)
        return grad_fn(*a)

    def shape_of(p):
        return (EXAMPLES, *p.shape) if stacked else p.shape

    def runs():
        (loss, aux), grads = first()
        if np.shape(loss) != () or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
            return [Violation("runs", "", f"the loss is {describe(loss)}")]
        if not isinstance(aux, Aux):
            return [Violation("runs", "", f"besides the loss there is a {type(aux).__name__} and no Aux")]
        wanted, got = named_leaves(args()[0]), named_leaves(grads)
        for name, p in wanted.items():
            if name not in got or np.shape(got[name]) != shape_of(p):
                return [Violation("runs", name, f"gradient {describe(got.get(name))}, parameter {describe(p)}")]
        odd = [name for name in got if name not in wanted]
        return [Violation("runs", odd[0], "a gradient without parameter")] if odd else []

    def dtype():
        with jax.enable_x64(True):
            for kind in (jnp.bfloat16, jnp.float32, jnp.float64):
                for name, g in named_leaves(jax.eval_shape(grad_fn, *args(dtype=kind))[1]).items():
                    if g.dtype != kind:
                        return [Violation("dtype", name, f"parameters of {jnp.dtype(kind).name} gave {g.dtype}")]
        return []

    def aux():
        aux = first()[0][1]
        _, old, batch, _ = args()
        for name, x in named_leaves(old).items():
            got = named_leaves(aux.model_state).get(name)
            if got is None or describe(got) != describe(x):
                return [Violation("aux", name, f"model state {describe(got)}, was {describe(x)}")]
        if set(aux.metrics) != {"error"}:
            return [Violation("aux", "", f"metrics {sorted(aux.metrics)}, the objective has ['error']")]
        # the statistics of the whole batch, moved once or (in parts) more often towards it
        wanted = np.mean(np.asarray(batch["x"]), axis=0)
        share = np.asarray(aux.model_state["mean"]) @ wanted / (wanted @ wanted)
        if not 0.05 < share < 1 or int(aux.model_state["count"]) <= 4:
            return [Violation("aux", "", f"the model state did not move with the objective: {share:.3g} of the mean")]
        return []

    def same_key():
        return differing_values("same_key", first(), grad_fn(*args()), 0.0, left="one call", right="another")

    def other_key():
        other = grad_fn(*args()[:3], keys[1])[1]
        same = not differing_values("", first()[1], other, 1e-6, left="", right="")
        return [Violation("other_key", "", "two keys gave one gradient")] if same else []

    def jit():
        return differing_values("jit", first(), compiled()(*args()), rtol, left="eager", right="jit")

    def vmap():
        loop = jax.tree.map(lambda *x: jnp.stack(x), *[compiled()(*args(i)) for i in range(2)])
        together = jax.jit(jax.vmap(grad_fn))(*jax.tree.map(lambda *x: jnp.stack(x), args(0), args(1)))
        return differing_values("vmap", loop, together, rtol, left="the loop", right="vmap")

    def no_retrace():
        for i in range(2):
            compiled()(*args(i))
        return [] if len(traces) == 1 else [Violation("no_retrace", "", f"2 calls were traced {len(traces)} times")]

    def sharded():
        mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:8]), ("data",), axis_types=(AxisType.Auto,))
        params, state, batch, key = args()
        batch = jax.device_put(batch, NamedSharding(mesh, P("data")))
        with jax.set_mesh(mesh):
            got = jax.jit(grad_fn)(params, state, batch, key)
        return differing_values("sharded", first(), got, rtol, left="one device", right="eight")

    def zero_gradient():
        _, grads = make(objective_of(_flat_losses))(*args())
        return not_finite("zero_gradient", grads, what="the gradient")

    def bad_batch():
        params, state, batch, key = args()
        uneven = batch | {"y": batch["y"][:4]}
        empty = jax.tree.map(lambda x: x[:0], batch)
        return unrefused(
            "bad_batch",
            lambda bad: grad_fn(params, state, bad, key),
            {"leading axes that disagree": uneven, "an empty batch": empty},
        )

    def count():
        calls.clear()
        with jax.disable_jit():
            grad_fn(*args())
        if len(calls) != evaluations:
            return [Violation("evaluations", "", f"{len(calls)} of the objective, said to be {evaluations}")]
        return []

    def gradient():
        def mean(params):
            return jnp.mean(_losses(params, *args()[1:])[0])

        exact = jax.grad(mean)(args()[0])
        got = first()[1]
        if stacked:
            got = jax.tree.map(lambda g: jnp.mean(g, axis=0), got)
        return differing_values("gradient", exact, got, tolerance, left="the gradient", right="the function")

    checks = {
        "runs": runs,
        "dtype": dtype,
        "aux": aux,
        "same_key": same_key,
        "other_key": other_key,
        "jit": jit,
        "vmap": vmap,
        "no_retrace": no_retrace,
        "sharded": sharded,
        "zero_gradient": zero_gradient,
        "bad_batch": bad_batch,
        "evaluations": count,
        "gradient": gradient,
    }
    asked = {
        "other_key": samples,
        "bad_batch": splits_batch,
        "evaluations": evaluations is not None,
        "gradient": tolerance is not None,
        "sharded": len(jax.devices()) >= 8,
    }
    found: list[Violation] = []
    for law in chosen(GRAD_FN_LAWS, laws, except_):
        if asked.get(law, True):
            found += guarded(law, checks[law])
            if law == "runs" and found:
                break
    return found


def check_grad_fn(make: Callable[[Callable], Callable], **options: Any) -> None:
    """Raises :class:`ContractError` unless a gradient function keeps all of :data:`GRAD_FN_LAWS`.

    Args:
      make: ``objective -> grad_fn``; the kit brings the objective, a small network without randomness whose model state
        counts its calls and has a running mean of the inputs.
      **options: ``per_example``, the objective returns the losses of the eight examples; ``stacked``, gradients have a
        leading axis of them; ``samples``, it draws by its key; ``splits_batch``, it looks at the leading axes of the
        batch itself; ``evaluations``, how often it evaluates the objective; ``tolerance``, how far from the gradient it
        may be, relative to the largest entry of a leaf; ``rtol`` between two orders of computation; ``laws``,
        ``except_``.

    Raises:
      ContractError: a law is broken; its ``violations`` list them.
      ValueError: an unknown law.

    >>> from jaxtrain.gradients import value_and_grad
    >>> check_grad_fn(value_and_grad, evaluations=1, tolerance=1e-5, laws=["runs", "dtype", "evaluations", "gradient"])
    """
    demand("the gradient function", find_grad_fn_violations(make, **options))
