"""What methods with a state share: accumulators that do not lose small increments, and work that is done now and then."""

import operator
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Bool, Int

from jaxtrain.core.types import Params

Carry = TypeVar("Carry")


def accumulator_dtype(x: Any) -> Any:
    """The dtype in which moments of ``x`` are kept: half precision becomes float32. Complex numbers are refused."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(
            f"a parameter or gradient is {x.dtype}, whose squares here would be wrong: put "
            f"optax.contrib.split_real_and_imaginary around the optimizer"
        )
    return jnp.promote_types(x.dtype, jnp.float32)


def entry_scale(x: Array, axes: tuple[int, ...]) -> Array:
    """The largest absolute value over ``axes``, which stay with length 1; 1 where that is zero or not finite.

    Squares of x over it do not overflow, and their sum does not vanish.

    >>> entry_scale(jnp.array([[-4e30, 1.0], [0.0, 0.0]]), (1,)).ravel()
    Array([4.e+30, 1.e+00], dtype=float32)
    """
    largest = jnp.max(jnp.abs(x), axis=axes, keepdims=True, initial=0)
    return jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)


def zeros_accumulator(params: Params) -> Params:
    """Zeros shaped like the parameters, in the precision of their moments."""
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=accumulator_dtype(p)), params)


def run_if(due: Bool[Array, ""], work: Callable[[Carry], Carry], carry: Carry) -> Carry:
    """``work(carry)`` where ``due``, else ``carry`` as it is; skipped work costs nothing, in an ensemble too.

    ``lax.cond`` under ``vmap`` turns into a select that computes both branches at every step. A loop of at most one
    round is run by ``vmap`` only while some member is due. The price: no reverse-mode derivative through it.

    >>> run_if(jnp.array(True), lambda x: x + 1, jnp.array(1)).item()
    2
    """
    _, carry = jax.lax.while_loop(lambda c: c[0], lambda c: (jnp.zeros_like(c[0]), work(c[1])), (due, carry))
    return carry


def zero_after(q: Array) -> Array:
    """A zero that is known only when an orthogonal matrix is: added to a matrix, it makes that one wait.

    jaxlib's CPU backend decomposes a batch of matrices (vmap) by tasks in the thread pool that the caller itself
    occupies: as many batches at once as there are threads, and they wait for each other for ever. Therefore one
    decomposition follows another. No entry of an orthogonal matrix exceeds 1, but the compiler does not know.

    >>> float(zero_after(jnp.eye(2)))
    0.0
    """
    return jnp.where(q[(0,) * q.ndim] > 2, 1.0, 0.0).astype(q.dtype)


def _never(*arrays: Array) -> Bool[Array, ""]:
    """False, and known only when the arrays are: the compiler cannot tell. Arrays sharded over explicit axes do not count."""
    # of those JAX takes no single entry
    whole = [x for x in arrays if x.size and all(axis is None for axis in jax.typeof(x).sharding.spec)]
    entries = [jnp.real(x[(0,) * x.ndim]) for x in whole]
    return jnp.any(jnp.stack([(e > 1) & (e < 0) for e in entries])) if entries else jnp.zeros((), bool)


def known_after(due: Bool[Array, ""], *others: Array) -> Bool[Array, ""]:
    """``due``, on CPUs known only when the others are: what ``run_if`` does then begins after them.

    Where they read the array that it replaces, XLA need not copy that first.

    >>> known_after(jnp.array(True), jnp.array([jnp.nan])).item()
    True
    """
    return jax.lax.platform_dependent(
        due, *others, cpu=lambda due, *others: due & ~_never(*others), default=lambda due, *others: due
    )


def row_major(tree: Params) -> Params:
    """The arrays as they are, on CPUs in memory in the order of their axes.

    LAPACK has its matrices the other way round. XLA lets that spread through a loop to what it is given, so that every
    array would be turned at every step, also where the loop does nothing; not beyond this. Elsewhere nothing is done:
    devices that share an array would gather it for this.

    >>> row_major({"a": jnp.ones(2)})["a"].tolist()
    [1.0, 1.0]
    """

    def one(x):
        layout = Layout(tuple(range(x.ndim)))
        return jax.lax.platform_dependent(x, cpu=lambda x: with_layout_constraint(x, layout), default=lambda x: x)

    return jax.tree.map(one, tree)


def in_place_of(old: Array, new: Array, count: Int[Array, ""], *others: Array) -> Array:
    """``new`` as it is, said in such a way that XLA writes it over ``old`` without a copy.

    A state that becomes this step's gradient is, to XLA, a copy of it, made by a program of its own. On CPUs the old
    value is even copied before, on one core, for those who still read it, unless ``new`` looks at an entry of what they
    computed, ``others``. Accelerators write it in the loop that reads the old value, where ``new`` seems to depend on
    that: it is kept while ``count``, a number of steps, is negative.

    >>> in_place_of(jnp.zeros(2), jnp.array([1.0, 2.0]), jnp.array(0), jnp.array([jnp.nan])).tolist()
    [1.0, 2.0]
    """

    def on_cpus(old, new, count, *others):
        return jnp.where(_never(*others), jnp.zeros_like(new), new)

    def elsewhere(old, new, count, *others):
        return jnp.where(count < 0, old, new)

    return jax.lax.platform_dependent(old, new, count, *others, cpu=on_cpus, default=elsewhere)


def anew(tree: Params) -> Params:
    """The arrays as they are; on CPUs what is computed from them is computed anew, and not stored for a second use.

    XLA's CPU backend would store what a sum over all entries and a later loop have in common. GPUs compute it twice by
    themselves, and a barrier there hides that a result may be written over what it is made of.

    >>> anew({"a": jnp.ones(2)})["a"].tolist()
    [1.0, 1.0]
    """
    return jax.lax.platform_dependent(tree, cpu=jax.lax.optimization_barrier, default=lambda tree: tree)


def over_matrices(fn: Callable[..., Any], *, batch_axes: int = 1) -> Callable[..., Any]:
    """``fn`` of one matrix (or several) as a function of many along ``batch_axes`` leading axes, for decompositions.

    On accelerators they are one batch. On CPUs they are done one after the other: small matrices gain nothing there, and
    batches on several devices at once would wait for each other for ever (see :func:`zero_after`).

    >>> over_matrices(jnp.linalg.eigvalsh)(jnp.stack([jnp.eye(2), 2 * jnp.eye(2)])).tolist()
    [[1.0, 1.0], [2.0, 2.0]]
    """
    for _ in range(batch_axes):

        def fn(*args, inner=fn):
            return jax.lax.platform_dependent(
                *args, cpu=lambda *xs: jax.lax.map(lambda x: inner(*x), xs), default=lambda *xs: jax.vmap(inner)(*xs)
            )

    return fn


def as_floating(x: Any) -> Any:
    """An array of whole numbers in floating ones, whose values move or are divided; a floating one as it is.

    >>> as_floating(jnp.array([1, 2])).dtype.name, as_floating(jnp.ones(2, jnp.bfloat16)).dtype.name
    ('float32', 'bfloat16')
    """
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float)


def step_number(count: Any) -> Array:
    """t = 1, 2, … of a counter from zero, as a float: in integers it would overflow where optax's counter ends.

    >>> float(step_number(jnp.iinfo(jnp.int32).max))
    2147483648.0
    """
    return jnp.asarray(count, jnp.result_type(float)) + 1


def segment_mean(x: Array, ids: Array, count: int) -> Array:
    """Means over ``count`` segments along the first axis; 0 for a segment without entries.

    >>> segment_mean(jnp.array([1.0, 3.0, 5.0]), jnp.array([0, 0, 2]), 3).tolist()
    [2.0, 0.0, 5.0]
    """
    total = jax.ops.segment_sum(x, ids, count)
    size = jax.ops.segment_sum(jnp.ones(len(x), x.dtype), ids, count)
    return total / jnp.maximum(size, 1).reshape(-1, *(1,) * (x.ndim - 1))


def static_int(name: str, value: Any, *, low: int) -> int:
    """``value`` as a Python integer ≥ ``low``, which decides shapes and therefore cannot be traced.

    >>> static_int("num_samples", 0, low=1)
    Traceback (most recent call last):
    ValueError: num_samples must be at least 1, got 0
    """
    try:
        number = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except (TypeError, jax.errors.ConcretizationTypeError):
        raise TypeError(
            f"{name} decides shapes and must be a Python integer, got {value!r} of type {type(value).__name__}; "
            f"in optax.inject_hyperparams name it among static_args"
        ) from None
    if number < low:
        raise ValueError(f"{name} must be at least {low}, got {number}")
    return number
