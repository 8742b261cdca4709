"""The laws of aggregators."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.testing._violations import (
    Violation,
    as_numpy,
    chosen,
    demand,
    describe,
    differing_values,
    named_leaves,
    run_checks,
    unrefused,
)

AGGREGATOR_LAWS: Mapping[str, str] = {
    "shape": "the tree without its leading axis",
    "dtype": "leaves keep their dtype, in bfloat16, float32 and float64",
    "jit": "jit gives the same",
    "vmap": "vmap gives what the loop gives",
    "pytree": "a tree cut out of one matrix gives the pieces of what the matrix gives",
    "identical": "equal gradients give that gradient",
    "permutation": "the order of the gradients does not matter",
    "bad_input": "leading axes that disagree, and an empty one, raise ValueError",
    "linear_under_scaling": "scaling gradient i by a_i > 0 is linear in a (only where it is asked for)",
    "non_conflicting": "no negative inner product with a gradient (only where it is asked for)",
}
"""The laws that :func:`check_aggregator` checks, and what each says."""


def find_aggregator_violations(
    fn: Callable[[Any], Any],
    *,
    stacked: Any = None,
    linear_under_scaling: bool = False,
    non_conflicting: bool = False,
    rtol: float = 1e-4,
    laws: Iterable[str] | None = None,
    except_: Iterable[str] = (),
) -> list[Violation]:
    """The laws that an aggregator breaks; arguments as in :func:`check_aggregator`.

    >>> [v.law for v in find_aggregator_violations(lambda tree: jax.tree.map(lambda x: x[0], tree))]
    ['permutation', 'bad_input']
    """
    rng = np.random.default_rng(0)
    if stacked is None:
        stacked = {"b": rng.standard_normal((5, 3)), "w": rng.standard_normal((5, 4, 2))}
    stacked = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), stacked)
    leaves, structure = jax.tree.flatten(stacked)
    m = len(leaves[0])
    expected = functools.cache(lambda: fn(stacked))

    def scaled(a):
        return jax.tree.map(lambda x: x * jnp.asarray(a, x.dtype).reshape(m, *[1] * (x.ndim - 1)), stacked)

    def vector(tree):
        return np.concatenate([as_numpy(x).astype(np.float64).reshape(-1) for x in jax.tree.leaves(tree)])

    def shape():
        got, wanted = named_leaves(expected()), named_leaves(jax.tree.map(lambda x: x[0], stacked))
        for name, x in wanted.items():
            if name not in got or got[name].shape != x.shape:
                return [Violation("shape", name, f"{describe(got.get(name))} for gradients of shape {list(x.shape)}")]
        return []

    def dtype():
        with jax.enable_x64(True):
            for kind in (jnp.bfloat16, jnp.float32, jnp.float64):
                out = jax.eval_shape(fn, jax.tree.map(lambda x, k=kind: jax.ShapeDtypeStruct(x.shape, k), stacked))
                for name, x in named_leaves(out).items():
                    if x.dtype != kind:
                        return [Violation("dtype", name, f"gradients of {jnp.dtype(kind).name} gave {x.dtype}")]
        return []

    def vmap():
        two = jax.tree.map(lambda *x: jnp.stack(x), stacked, scaled(np.linspace(2.0, 0.5, m)))
        loop = jax.tree.map(lambda *x: jnp.stack(x), *[fn(jax.tree.map(lambda x, i=i: x[i], two)) for i in range(2)])
        return differing_values("vmap", loop, jax.vmap(fn)(two), rtol, left="the loop", right="vmap")

    def pytree():
        matrix = jnp.concatenate([x.reshape(m, -1) for x in leaves], axis=1)
        flat = fn(matrix)
        cuts = np.cumsum([x[0].size for x in leaves])[:-1]
        pieces = [p.reshape(x.shape[1:]) for p, x in zip(jnp.split(flat, cuts), leaves, strict=True)]
        wanted = jax.tree.unflatten(structure, pieces)
        return differing_values("pytree", wanted, expected(), rtol, left="the matrix", right="the tree")

    def identical():
        same = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), stacked)
        wanted = jax.tree.map(lambda x: x[0], stacked)
        return differing_values("identical", wanted, fn(same), rtol, left="each gradient", right="the aggregate")

    def permutation():
        order = np.roll(np.arange(m)[::-1], 2)
        got = fn(jax.tree.map(lambda x: x[order], stacked))
        return differing_values("permutation", expected(), got, rtol, left="in order", right="reordered")

    def bad_input():
        uneven = {"a": jnp.ones((m, 2)), "b": jnp.ones((m - 1, 2))}
        return unrefused(
            "bad_input", fn, {"leading axes that disagree": uneven, "an empty stack": {"a": jnp.ones((0, 2))}}
        )

    def linear():
        a, b = np.linspace(0.5, 2.0, m), np.linspace(1.5, 0.25, m)
        parts = jax.tree.map(jnp.add, fn(scaled(a)), fn(scaled(b)))
        whole = fn(scaled(a + b))
        return differing_values(
            "linear_under_scaling", parts, whole, rtol, left="A(a·J) + A(b·J)", right="A((a + b)·J)"
        )

    def conflicting():
        rows = np.stack([vector(jax.tree.map(lambda x, i=i: x[i], stacked)) for i in range(m)])
        inner = rows @ vector(expected())
        slack = rtol * np.linalg.norm(rows, axis=1).max() * np.linalg.norm(vector(expected()))
        worst = int(np.argmin(inner))
        if inner[worst] < -slack:
            return [Violation("non_conflicting", "", f"inner product {inner[worst]:.6g} with gradient {worst}")]
        return []

    checks = {
        "shape": shape,
        "dtype": dtype,
        "jit": lambda: differing_values("jit", expected(), jax.jit(fn)(stacked), rtol, left="eager", right="jit"),
        "vmap": vmap,
        "pytree": pytree,
        "identical": identical,
        "permutation": permutation,
        "bad_input": bad_input,
        "linear_under_scaling": linear,
        "non_conflicting": conflicting,
    }
    wanted = chosen(AGGREGATOR_LAWS, laws, except_)
    asked = {"linear_under_scaling": linear_under_scaling, "non_conflicting": non_conflicting}
    if laws is None:
        wanted = tuple(law for law in wanted if asked.get(law, True))
    return run_checks(checks, wanted)


def check_aggregator(fn: Callable[[Any], Any], **options: Any) -> None:
    """Raises :class:`ContractError` unless an aggregator keeps all of :data:`AGGREGATOR_LAWS`.

    Args:
      fn: a function of a tree with a leading axis of gradients.
      **options: ``stacked`` (default: five gradients of a small tree); ``linear_under_scaling`` and
        ``non_conflicting``, True where the method says so; ``rtol``, ``laws``, ``except_``.

    >>> from jaxtrain.core import check_leading_axes
    >>> def mean(tree):
    ...     check_leading_axes(tree, where="mean")
    ...     return jax.tree.map(lambda x: x.mean(axis=0), tree)
    >>> check_aggregator(mean, linear_under_scaling=True)
    """
    demand("the aggregator", find_aggregator_violations(fn, **options))
