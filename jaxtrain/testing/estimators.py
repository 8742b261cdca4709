"""The laws of estimators."""

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
    differing_values,
    named_leaves,
    not_finite,
    run_checks,
)

ESTIMATOR_LAWS: Mapping[str, str] = {
    "finite": "finite values",
    "dtype": "the dtype of the samples, in bfloat16, float32 and float64",
    "same_key": "one key gives one estimate",
    "other_key": "another key gives another estimate (only where it samples)",
    "jit": "jit gives the same",
    "vmap": "vmap gives what the loop gives",
    "bias": "the mean over keys is what is said, to the bias that is declared and five standard errors",
}
"""The laws that :func:`check_estimator` checks, and what each says."""


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
    return run_checks(checks, chosen(ESTIMATOR_LAWS, laws, except_))


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
