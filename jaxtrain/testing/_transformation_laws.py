"""The laws of an optax gradient transformation, each a function from the subject to what it breaks."""

import functools
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxtrain.testing import _problem, _wrapper_laws
from jaxtrain.testing._subject import Subject
from jaxtrain.testing._violations import (
    Violation,
    as_numpy,
    describe,
    differing_values,
    guarded,
    named_leaves,
    not_finite,
    raised,
)

TRANSFORMATION_LAWS: Mapping[str, str] = {
    "runs": "init and update run on a matrix and a vector",
    "pure": "two calls with the same arguments give the same bits",
    "abstract_init": "init under jax.eval_shape gives the tree, shapes and dtypes that it gives on arrays",
    "stable_state": "update keeps the tree, shapes and dtypes of the state (lax.scan and lax.cond need it)",
    "dtype": "updates have the dtype of the parameters, in bfloat16, float32 and float64",
    "no_shared_buffers": "no array of the state shares memory with the parameters (donation needs it)",
    "extra_args": "extra arguments that it does not know are accepted",
    "jit": "jit(update) gives what update gives",
    "no_retrace": "a run is traced once",
    "scan": "lax.scan over steps gives what the loop gives",
    "vmap": "vmap over members gives what the loop gives",
    "sharded": "parameters split over eight devices give the same values, and the state stays split",
    "checkpoint": "Orbax restores the state bit for bit against an abstract tree",
    "inject_hyperparams": "optax.inject_hyperparams of the factory gives the same updates",
    "multi_steps": "optax.MultiSteps over two halves of a gradient gives the same update",
    "masked": "optax.masked over one leaf does to it what it does to it alone, and leaves the other",
    "partition": "optax.partition over one leaf does to it what it does to it alone",
    "scalar_leaf": "a leaf without axes is updated",
    "empty_leaf": "a leaf of size zero changes nothing for the others",
    "zero_gradients": "gradients of zero give finite updates, for parameters of zero too",
    "non_finite": "a NaN in the gradients does what is said of it",
}
"""The laws that :func:`check_gradient_transformation` checks, and what each says."""


def _runs(s: Subject):
    _ = s.eager
    return ()


def _pure(s: Subject):
    a, b = (s.update(s.params, s.tx.init(s.params), s.batch(0), 0) for _ in range(2))
    return differing_values("pure", a, b, 0.0, left="the first call", right="the second")


def _tree_differences(law, old, new, *, left, right):
    before, after = named_leaves(old), named_leaves(new)
    for name in (*before, *(n for n in after if n not in before)):
        a, b = before.get(name), after.get(name)
        if a is None or b is None or describe(a) != describe(b):
            show = lambda x: "nothing" if x is None else describe(x)  # noqa: E731
            yield Violation(law, name, f"{left} has {show(a)}, {right} {show(b)}")
            return
    if jax.tree.structure(old) != jax.tree.structure(new):
        yield Violation(law, "", f"{left} and {right} are trees of other nodes: {jax.tree.structure(new)}")


def _abstract_init(s: Subject):
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), s.params)
    abstract = jax.eval_shape(s.tx.init, shapes)
    return _tree_differences("abstract_init", s.tx.init(s.params), abstract, left="init", right="its abstract form")


def _stable_state(s: Subject):
    for dtype in (None, jnp.bfloat16):
        _, before, _, after = s.abstract(dtype)
        name = "" if dtype is None else f" ({jnp.dtype(dtype).name} parameters)"
        found = list(_tree_differences("stable_state", before, after, left="init", right="update" + name))
        if found:
            return found
    return ()


def _dtype(s: Subject):
    found = []
    with jax.enable_x64(True):
        for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
            params, _, updates, _ = s.abstract(dtype)
            for (name, p), u in zip(named_leaves(params).items(), jax.tree.leaves(updates), strict=True):
                if p.dtype != u.dtype or p.shape != u.shape:
                    found.append(Violation("dtype", name, f"parameters {describe(p)}, updates {describe(u)}"))
                    break
    return found[:1]


def _no_shared_buffers(s: Subject):
    mine = {x.unsafe_buffer_pointer(): n for n, x in named_leaves(s.params).items() if x.size}
    state, seen = named_leaves(s.tx.init(s.params)), {}
    for name, x in state.items():
        if not isinstance(x, jax.Array) or jnp.issubdtype(x.dtype, jax.dtypes.prng_key) or not x.size:
            continue
        pointer = x.unsafe_buffer_pointer()
        if pointer in mine:
            yield Violation("no_shared_buffers", name, f"is the very array of the parameter {mine[pointer]}")
            return
        if pointer in seen:
            yield Violation("no_shared_buffers", name, f"is the very array of {seen[pointer]} of the state")
            return
        seen[pointer] = name


def _extra_args(s: Subject):
    state = s.tx.init(s.params)
    try:
        jax.eval_shape(lambda p, st: s.update(p, st, s.batch(0), 0, an_argument_nobody_knows=0.0), s.params, state)
    except TypeError as error:
        yield Violation("extra_args", "", raised(error))


def _jit(s: Subject):
    return differing_values("jit", s.eager, s.first[0], s.rtol, left="eager", right="jit")


def _no_retrace(s: Subject):
    traces = s.first[1]
    if traces != 1:
        before = jax.tree.map(jax.typeof, s.tx.init(s.params))
        after = jax.tree.map(jax.typeof, s.first[0][1])
        kinds = zip(named_leaves(before).items(), jax.tree.leaves(after), strict=True)
        odd = next(((n, a, b) for (n, a), b in kinds if a != b or a.weak_type != b.weak_type), None)
        why = (
            f"; init gives {odd[1].str_short()}, weak type {odd[1].weak_type}, update {odd[2].weak_type}" if odd else ""
        )
        yield Violation("no_retrace", odd[0] if odd else "", f"{_problem.STEPS} steps were traced {traces} times{why}")


def _stacked(updates):
    return jax.tree.map(lambda *u: jnp.stack(u), *updates)


def _scan_run(s: Subject, params, of):
    (_, state), updates = jax.lax.scan(s.step, (params, s.tx.init(params)), (of, jnp.arange(_problem.STEPS)))
    return updates, state


def _two_members(s: Subject):
    """Both members by vmap of scan, and by loops."""
    params, of = jax.tree.map(lambda *x: jnp.stack(x), (s.params, s.batches), s.other)
    together = jax.jit(jax.vmap(functools.partial(_scan_run, s)))(params, of)
    loops = [s.first[0], s.loop(*s.other)]
    apart = jax.tree.map(lambda *x: jnp.stack(x), *[(_stacked(u), state) for u, state in loops])
    return apart, together


def scan_and_vmap(s: Subject, laws: Sequence[str]):
    """One program for both laws; where it is wrong, each alone says which it was."""
    if "scan" in laws and "vmap" in laws:
        fine = not guarded("vmap", lambda: differing_values("vmap", *_two_members(s), s.rtol, left="", right=""))
        if fine:
            return []
    found = []
    updates, state = s.first[0]
    if "scan" in laws:

        def scan():
            got = jax.jit(functools.partial(_scan_run, s))(s.params, s.batches)
            return differing_values("scan", (_stacked(updates), state), got, s.rtol, left="the loop", right="lax.scan")

        found += guarded("scan", scan)
    if "vmap" in laws:

        def one(params, batch):
            (_, state), updates = s.step((params, s.tx.init(params)), (batch, jnp.int32(0)))
            return updates, state

        def vmap():
            members = [(s.params, s.batch(0)), (s.other[0], s.batch(0, s.other[1]))]
            got = jax.jit(jax.vmap(one))(*jax.tree.map(lambda *x: jnp.stack(x), *members))
            expected = jax.tree.map(lambda *x: jnp.stack(x), *[jax.jit(one)(*m) for m in members])
            return differing_values("vmap", expected, got, s.rtol, left="the loop", right="vmap")

        found += guarded("vmap", vmap)
    return found


def _sharded(s: Subject):
    devices = np.asarray(jax.devices()[:8])
    mesh = jax.sharding.Mesh(devices, ("data",), axis_types=(AxisType.Auto,))

    def split(p):
        ready = p.ndim and p.shape[0] % 8 == 0 and p.size
        return NamedSharding(mesh, P("data") if ready else P())

    by_shape = {p.shape: split(p) for p in jax.tree.leaves(s.params) if p.ndim}
    whole = NamedSharding(mesh, P())

    def place(x):
        return jax.device_put(x, by_shape.get(jnp.shape(x), whole))

    with jax.set_mesh(mesh):
        params = jax.tree.map(place, s.params)
        state = jax.tree.map(place, s.tx.init(s.params))
        of = jax.tree.map(
            lambda b, p: jax.device_put(b, NamedSharding(mesh, P(None, *split(p).spec))), s.batches, params
        )
        step, carry, updates = jax.jit(s.step), (params, state), []
        for t in range(2):
            carry, u = step(carry, (s.batch(t, of), jnp.int32(t)))
            updates.append(u)
    # updates alone: a state may hold what is not unique, such as the basis of a null space
    found = differing_values("sharded", s.first[0][0][:2], updates, s.rtol, left="one device", right="eight")
    for kind, old, new in (("parameters", params, carry[0]), ("state", state, carry[1])):
        for (name, a), b in zip(named_leaves(old).items(), jax.tree.leaves(new), strict=True):
            if a.shape in by_shape and not b.sharding.is_equivalent_to(a.sharding, a.ndim):
                spec = getattr(b.sharding, "spec", b.sharding)
                found.append(Violation("sharded", name, f"{kind} were split as {a.sharding.spec}, came back as {spec}"))
    return found[:1]


def save_and_restore(state: Any, folder: Path) -> Any:
    """The state through ``orbax.checkpoint.v1``, restored against its abstract tree."""
    from orbax.checkpoint import v1 as ocp

    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def abstract(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", here))

    ocp.save(folder, state, overwrite=True)
    return ocp.load(folder, jax.tree.map(abstract, state))


def _checkpoint(s: Subject):
    state = s.first[0][1]
    # Orbax refuses trees without an array: nothing is to be kept then
    if not jax.tree.leaves(state):
        return []
    with tempfile.TemporaryDirectory() as folder:
        restored = save_and_restore(state, Path(folder).absolute() / "state")
    found = list(_tree_differences("checkpoint", state, restored, left="the saved", right="the restored"))
    return found or differing_values("checkpoint", state, restored, 0.0, left="the saved", right="the restored")


def _with_leaf(s: Subject, leaf: jax.Array):
    params = {"a": s.params, "b": leaf}
    batch = {"a": s.batch(0), "b": jnp.full_like(leaf, 0.25)}
    updates, state = s.update(params, s.tx.init(params), batch, 0)
    return params, updates, state


def _scalar_leaf(s: Subject):
    params, updates, _ = _with_leaf(s, jnp.asarray(0.8, jax.tree.leaves(s.params)[0].dtype))
    found = list(_tree_differences("scalar_leaf", params, updates, left="the parameters", right="the updates"))
    return found or not_finite("scalar_leaf", updates, what="the update")


def _empty_leaf(s: Subject):
    params, updates, state = _with_leaf(s, jnp.zeros((0, 4), jax.tree.leaves(s.params)[0].dtype))
    found = list(_tree_differences("empty_leaf", params, updates, left="the parameters", right="the updates"))
    if not found:
        expected = s.update(s.params, s.tx.init(s.params), s.batch(0), 0)[0]
        found = differing_values("empty_leaf", expected, updates["a"], s.rtol, left="without it", right="with it")
    return found or not_finite("empty_leaf", state, what="the state")


def _zero_gradients(s: Subject):
    zeros = jax.tree.map(jnp.zeros_like, s.params)
    for params, which in ((s.params, ""), (zeros, " (parameters of zero)")):
        state = s.tx.init(params)
        for _ in range(2):
            # minibatches that the parameters fit: value, gradient and curvature agree with a gradient of zero
            updates, state = s.update(params, state, params, 0, grads=zeros)
            found = not_finite("zero_gradients", updates, what="the update" + which)
            found = found or not_finite("zero_gradients", state, what="the state" + which)
            if found:
                return found
    return []


def _non_finite(s: Subject):
    if s.non_finite is None:
        return []
    leaves, structure = jax.tree.flatten(s.grads(s.params, s.batch(0)))
    # every entry of one leaf: a median or a sort may pass over a single one
    bad = jax.tree.unflatten(structure, [*leaves[:-1], jnp.full_like(leaves[-1], jnp.nan)])
    # not the first step, which some transformations only learn from
    state = s.first[0][1]
    updates, after = s.update(s.params, state, s.batch(0), 0, grads=bad)
    name, last = list(named_leaves(updates).items())[-1]
    value = as_numpy(last)
    if s.non_finite == "propagates":
        if np.all(np.isfinite(value)):
            return [Violation("non_finite", name, f"a gradient of NaN vanishes: the update is {value.ravel()[0]:.6g}")]
        return []
    found = not_finite("non_finite", updates, what="the update")
    if s.non_finite == "skips" and not found:
        nothing = jax.tree.map(jnp.zeros_like, updates)
        found = differing_values("non_finite", nothing, updates, 0.0, left="a skipped step", right="the update")
        if not found:
            good = [s.update(s.params, st, s.batch(0), 0)[0] for st in (state, after)]
            found = differing_values("non_finite", *good, s.rtol, left="without the bad step", right="after it")
    return found


CHECKS: dict[str, Callable[[Subject], Iterable[Violation]]] = {
    "runs": _runs,
    "pure": _pure,
    "abstract_init": _abstract_init,
    "stable_state": _stable_state,
    "dtype": _dtype,
    "no_shared_buffers": _no_shared_buffers,
    "extra_args": _extra_args,
    "jit": _jit,
    "no_retrace": _no_retrace,
    "sharded": _sharded,
    "checkpoint": _checkpoint,
    "inject_hyperparams": _wrapper_laws.inject_hyperparams,
    "multi_steps": _wrapper_laws.multi_steps,
    "masked": _wrapper_laws.masked,
    "partition": _wrapper_laws.partition,
    "scalar_leaf": _scalar_leaf,
    "empty_leaf": _empty_leaf,
    "zero_gradients": _zero_gradients,
    "non_finite": _non_finite,
}
# what a broken law takes with it: these would only say the same again
FOLLOWS = {
    "runs": tuple(TRANSFORMATION_LAWS)[1:],
    "stable_state": ("no_retrace", "scan", "vmap", "multi_steps"),
    "abstract_init": ("stable_state", "dtype", "no_retrace", "scan", "vmap", "multi_steps"),
    "pure": tuple(law for law in TRANSFORMATION_LAWS if law not in ("runs", "pure")),
}
