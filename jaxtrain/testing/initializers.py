"""The laws of initializers."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.testing._violations import Violation, as_numpy, chosen, demand, differing_values, not_finite, run_checks

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
"""The laws that :func:`check_initializer` checks, and what each says."""


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
    return run_checks(checks, chosen(INITIALIZER_LAWS, laws, except_))


def check_initializer(init: Callable[..., Any], **options: Any) -> None:
    """Raises :class:`ContractError` unless an initializer keeps all of :data:`INITIALIZER_LAWS`.

    Args:
      init: ``(key, shape, dtype) -> array``.
      **options: ``shape``; ``samples`` (False: the key is not used); ``mean`` and ``std`` of the entries where they are
        known; ``rtol``, ``laws``, ``except_``.

    >>> check_initializer(jax.nn.initializers.he_normal(), mean=0.0, std=(2 / 64) ** 0.5)
    """
    demand("the initializer", find_initializer_violations(init, **options))
