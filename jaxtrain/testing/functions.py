"""The laws of the smaller signatures: schedules, initializers, aggregators and estimators."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    guarded,
    named_leaves,
    not_finite,
)

SCHEDULE_LAWS: Mapping[str, str] = {
    "scalar": "one floating number for a step",
    "finite": "finite at every step",
    "integers": "a Python int and an int32 array give the same",
    "jit": "a traced step gives the same",
    "vmap": "vmap over steps gives what the loop gives",
    "scan": "it runs inside lax.scan with the same values",
    "no_retrace": "one trace serves every step",
}
INITIALIZER_LAWS: Mapping[str, str] = {
    "shape": "the shape that was asked for",
    "dtype": "the dtype that was asked for, in bfloat16, float32 and float64",
    "same_key": "one key gives one array",
    "other_key": "another key gives another array (only where it samples)",
    "finite": "finite entries",
    "jit": "jit gives the same",
    "vmap": "vmap over keys gives what the loop gives",
    "mean": "the mean that was said, to five standard errors",
    "std": "the standard deviation that was said, to five standard errors",
}
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
ESTIMATOR_LAWS: Mapping[str, str] = {
    "finite": "finite values",
    "dtype": "the dtype of the samples, in bfloat16, float32 and float64",
    "same_key": "one key gives one estimate",
    "other_key": "another key gives another estimate (only where it samples)",
    "jit": "jit gives the same",
    "vmap": "vmap gives what the loop gives",
    "bias": "the mean over keys is what is said, to the bias that is declared and five standard errors",
}


def _run(checks: Mapping[str, Callable[[], Iterable[Violation]]], wanted: Sequence[str]) -> list[Violation]:
    found: list[Violation] = []
    for law in wanted:
        broken = guarded(law, checks[law])
        found += broken
        if law in ("shape", "scalar") and broken:
            break
    return found


def find_schedule_violations(
    schedule: Callable[[Any], Any],
    *,
    steps: Sequence[int] = (0, 1, 2, 3, 10, 99, 100, 101, 1000, 2**31 - 1),
    rtol: float = 1e-5,
    laws: Iterable[str] | None = None,
    except_: Iterable[str] = (),
) -> list[Violation]:
    """The laws that a schedule breaks; arguments as in :func:`check_schedule`.

    >>> [v.law for v in find_schedule_violations(lambda step: 1.0 if step < 10 else 0.1)]
    ['jit', 'vmap', 'scan', 'no_retrace']
    """
    traces = []

    def traced(step):
        traces.append(step)
        return schedule(step)

    arrays = jnp.asarray(steps, jnp.int32)
    expected = functools.cache(lambda: np.stack([np.asarray(schedule(s), np.float64) for s in arrays]))

    def compare(law, got, right):
        for s, a, b in zip(steps, expected(), np.asarray(got, np.float64), strict=True):
            if not np.isclose(b, a, rtol=rtol, atol=1e-12, equal_nan=True):
                return [Violation(law, "", f"step {s}: eager {a:.9g}, {right} {b:.9g}")]
        return []

    def scalar():
        for s in steps:
            value = schedule(jnp.int32(s))
            floating = jnp.issubdtype(jnp.result_type(value), jnp.floating)
            if np.shape(value) != () or not floating:
                return [Violation("scalar", "", f"step {s} gives {describe(value)}")]
        return []

    def finite():
        bad = [s for s, v in zip(steps, expected(), strict=True) if not np.isfinite(v)]
        return [Violation("finite", "", f"step {bad[0]} gives {schedule(jnp.int32(bad[0]))}")] if bad else []

    def no_retrace():
        traces.clear()
        jitted = jax.jit(traced)
        for s in arrays[:4]:
            jitted(s)
        return [] if len(traces) == 1 else [Violation("no_retrace", "", f"4 steps were traced {len(traces)} times")]

    jitted = jax.jit(schedule)
    checks = {
        "scalar": scalar,
        "finite": finite,
        "integers": lambda: compare("integers", [schedule(int(s)) for s in steps], "with a Python int"),
        "jit": lambda: compare("jit", [jitted(s) for s in arrays], "jit"),
        "vmap": lambda: compare("vmap", jax.vmap(schedule)(arrays), "vmap"),
        "scan": lambda: compare("scan", jax.lax.scan(lambda c, s: (c, schedule(s)), 0, arrays)[1], "lax.scan"),
        "no_retrace": no_retrace,
    }
    return _run(checks, chosen(SCHEDULE_LAWS, laws, except_))


def check_schedule(schedule: Callable[[Any], Any], **options: Any) -> None:
    """Raises :class:`ContractError` unless a schedule keeps all of :data:`SCHEDULE_LAWS`.

    Args:
      schedule: ``step -> number``.
      **options: ``steps``, ``rtol``, ``laws``, ``except_``.

    >>> import optax
    >>> check_schedule(optax.cosine_decay_schedule(0.1, 100))
    """
    demand("the schedule", find_schedule_violations(schedule, **options))


def find_initializer_violations(
    init: Callable[..., Any],
    *,
    shape: tuple[int, ...] = (64, 32),
    samples: bool = True,
    mean: float | None = None,
    std: float | None = None,
    rtol: float = 1e-5,
    laws: Iterable[str] | None = None,
    except_: Iterable[str] = (),
) -> list[Violation]:
    """The laws that an initializer breaks; arguments as in :func:`check_initializer`.

    >>> [v.law for v in find_initializer_violations(lambda key, shape, dtype: jnp.ones(shape))]
    ['dtype', 'other_key']
    """
    keys = jax.random.split(jax.random.key(3), 8)
    first = functools.cache(lambda: init(keys[0], shape, jnp.float32))

    def wrong_shape():
        got = first()
        return [] if got.shape == shape else [Violation("shape", "", f"asked for {shape}, got {got.shape}")]

    def dtype():
        with jax.enable_x64(True):
            for kind in (jnp.bfloat16, jnp.float32, jnp.float64):
                got = jax.eval_shape(lambda k, kind=kind: init(k, shape, kind), keys[0])
                if got.dtype != kind:
                    return [Violation("dtype", "", f"asked for {jnp.dtype(kind).name}, got {got.dtype}")]
        return []

    def other_key():
        if samples and np.array_equal(as_numpy(first()), as_numpy(init(keys[1], shape, jnp.float32))):
            return [Violation("other_key", "", "two keys gave one array")]
        return []

    def vmap():
        loop = jnp.stack([init(k, shape, jnp.float32) for k in keys[:2]])
        got = jax.vmap(lambda k: init(k, shape, jnp.float32))(keys[:2])
        return differing_values("vmap", loop, got, rtol, left="the loop", right="vmap")

    @functools.cache
    def entries():
        return np.stack([as_numpy(init(k, shape, jnp.float32)) for k in keys]).astype(np.float64).ravel()

    def moment(law, wanted):
        if wanted is None:
            return []
        x = entries()
        centred = x - x.mean()
        variance = np.mean(centred**2)
        if law == "mean":
            got, error = x.mean(), np.sqrt(variance / x.size)
        else:
            got = np.sqrt(variance)
            error = np.sqrt(max(np.mean(centred**4) - variance**2, 0.0) / x.size) / (2 * max(got, 1e-30))
        # besides sampling, single precision
        if abs(got - wanted) > 5 * error + 1e-5 * abs(wanted):
            return [Violation(law, "", f"{got:.6g} of {x.size} entries, said to be {wanted:.6g} ± {error:.2g}")]
        return []

    def jit():
        got = jax.jit(lambda k: init(k, shape, jnp.float32))(keys[0])
        return differing_values("jit", first(), got, rtol, left="eager", right="jit")

    def same_key():
        again = init(keys[0], shape, jnp.float32)
        return differing_values("same_key", first(), again, 0.0, left="one call", right="another")

    checks = {
        "shape": wrong_shape,
        "dtype": dtype,
        "same_key": same_key,
        "other_key": other_key,
        "finite": lambda: not_finite("finite", first(), what="an entry"),
        "jit": jit,
        "vmap": vmap,
        "mean": lambda: moment("mean", mean),
        "std": lambda: moment("std", std),
    }
    return _run(checks, chosen(INITIALIZER_LAWS, laws, except_))


def check_initializer(init: Callable[..., Any], **options: Any) -> None:
    """Raises :class:`ContractError` unless an initializer keeps all of :data:`INITIALIZER_LAWS`.

    Args:
      init: ``(key, shape, dtype) -> array``.
      **options: ``shape``; ``samples`` (False: the key is not used); ``mean`` and ``std`` of the entries where they are
        known; ``rtol``, ``laws``, ``except_``.

    >>> check_initializer(jax.nn.initializers.he_normal(), mean=0.0, std=(2 / 64) ** 0.5)
    """
    demand("the initializer", find_initializer_violations(init, **options))


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
        for bad, what in ((uneven, "leading axes that disagree"), ({"a": jnp.ones((0, 2))}, "an empty stack")):
            try:
                fn(bad)
            except ValueError:
                continue
            except Exception as error:
                return [Violation("bad_input", "", f"{what}: {type(error).__name__} instead of ValueError")]
            return [Violation("bad_input", "", f"{what} raised nothing")]
        return []

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
    return _run(checks, wanted)


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


def find_estimator_violations(
    fn: Callable[..., Any],
    *samples: Any,
    takes_key: bool = False,
    exact: Any = None,
    bias: float = 0.0,
    repeats: int = 200,
    rtol: float = 1e-4,
    laws: Iterable[str] | None = None,
    except_: Iterable[str] = (),
) -> list[Violation]:
    """The laws that an estimator breaks; arguments as in :func:`check_estimator`.

    >>> x = np.linspace(-1.0, 1.0, 16)
    >>> [v.law for v in find_estimator_violations(lambda x: jnp.float32(x.mean()), x)]
    ['dtype']
    """
    samples = tuple(np.asarray(x) for x in samples)
    keys = jax.random.split(jax.random.key(5), repeats)

    def cast(kind):
        return tuple(jnp.asarray(x, kind) if np.issubdtype(x.dtype, np.floating) else jnp.asarray(x) for x in samples)

    def call(key, *x):
        return fn(*x, key=key) if takes_key else fn(*x)

    float32 = cast(jnp.float32)
    first = functools.cache(lambda: call(keys[0], *float32))

    def dtype():
        with jax.enable_x64(True):
            for kind in (jnp.bfloat16, jnp.float32, jnp.float64):
                for name, x in named_leaves(jax.eval_shape(call, keys[0], *cast(kind))).items():
                    if jnp.issubdtype(x.dtype, jnp.floating) and x.dtype != kind:
                        return [Violation("dtype", name, f"samples of {jnp.dtype(kind).name} gave {x.dtype}")]
        return []

    def other_key():
        if takes_key and not differing_values("", first(), call(keys[1], *float32), 0.0, left="", right=""):
            return [Violation("other_key", "", "two keys gave one estimate")]
        return []

    def vmap():
        two = tuple(jnp.stack([x, x[::-1] if x.ndim else x]) for x in float32)
        loop = [call(keys[i], *[x[i] for x in two]) for i in range(2)]
        wanted = jax.tree.map(lambda *x: jnp.stack(x), *loop)
        return differing_values("vmap", wanted, jax.vmap(call)(keys[:2], *two), rtol, left="the loop", right="vmap")

    def declared_bias():
        if exact is None:
            return []
        many = jax.lax.map(lambda k: call(k, *float32), keys if takes_key else keys[:1])
        for (name, x), wanted in zip(named_leaves(many).items(), jax.tree.leaves(exact), strict=True):
            values = as_numpy(x).astype(np.float64)
            wanted = np.asarray(wanted, np.float64)
            error = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if takes_key else 0.0 * wanted
            gap = np.abs(values.mean(axis=0) - wanted)
            allowed = bias + 5 * error + rtol * np.max(np.abs(wanted), initial=0.0)
            if np.any(gap > allowed):
                i = int(np.argmax(gap - allowed))
                return [
                    Violation(
                        "bias",
                        name,
                        f"mean {np.ravel(values.mean(axis=0))[i]:.6g}, exact {np.ravel(wanted)[i]:.6g}; declared bias "
                        f"{bias:g}, standard error {np.ravel(error)[i]:.2g}",
                    )
                ]
        return []

    def same_key():
        again = call(keys[0], *float32)
        return differing_values("same_key", first(), again, 0.0, left="one call", right="another")

    def jit():
        got = jax.jit(call)(keys[0], *float32)
        return differing_values("jit", first(), got, rtol, left="eager", right="jit")

    checks = {
        "finite": lambda: not_finite("finite", first(), what="the estimate"),
        "dtype": dtype,
        "same_key": same_key,
        "other_key": other_key,
        "jit": jit,
        "vmap": vmap,
        "bias": declared_bias,
    }
    return _run(checks, chosen(ESTIMATOR_LAWS, laws, except_))


def check_estimator(fn: Callable[..., Any], *samples: Any, **options: Any) -> None:
    """Raises :class:`ContractError` unless an estimator keeps all of :data:`ESTIMATOR_LAWS`.

    Args:
      fn: ``(*samples) -> number or tree of numbers``, with ``key=`` where it samples.
      *samples: arrays; floating ones are cast to the dtypes that are tried.
      **options: ``takes_key``; ``exact``, the true value (shaped like the estimate), and ``bias``, how far the mean over
        ``repeats`` keys may be from it; ``rtol``, ``laws``, ``except_``.

    >>> def probe(x, *, key):
    ...     return jnp.mean(x * (1 + jax.random.rademacher(key, x.shape, x.dtype)))
    >>> check_estimator(probe, np.linspace(0.0, 1.0, 8), takes_key=True, exact=0.5)
    """
    demand("the estimator", find_estimator_violations(fn, *samples, **options))
