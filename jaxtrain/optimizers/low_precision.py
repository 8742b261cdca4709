"""Optimizer state in half precision, rounded so that small increments are not lost; for any optimizer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt

from jaxtrain.core import Key, OptState, Params, check_key
from jaxtrain.core.types import Number

ROUNDINGS = ("stochastic", "nearest")


class LowPrecisionState(NamedTuple):
    """State of :func:`with_moment_dtype`: the inner state with some of its arrays in half precision."""

    count: Int[Array, ""]
    inner_state: OptState


def _round_with_bits(x: Float[Array, "..."], bits: UInt[Array, "..."]) -> Array:
    """``x`` in bfloat16: away from zero where its lower half plus 16 given bits overflow, else towards it."""
    # in integers throughout: a floating operation would flush the smallest numbers to zero on some machines
    x = x.astype(jnp.float32)
    whole = jax.lax.bitcast_convert_type(x, jnp.uint32)
    special = whole & 0x7F800000 == 0x7F800000  # bits added to a NaN could make it any number
    upper = ((whole + bits.astype(jnp.uint32)) >> 16).astype(jnp.uint16)
    # what carried over into infinity goes to the largest number, one step before it
    upper = upper - (upper & 0x7FFF == 0x7F80).astype(jnp.uint16)
    return jnp.where(special, x.astype(jnp.bfloat16), jax.lax.bitcast_convert_type(upper, jnp.bfloat16))


def _two_numbers(key: Key) -> UInt[Array, "2"]:
    return jax.random.bits(key, (2,), jnp.uint32)


def _random_bits(two_numbers: UInt[Array, "2"], shape: tuple[int, ...]) -> UInt[Array, "..."]:
    """Sixteen random bits for every entry, at a small part of the cost of ``jax.random.bits``.

    A bijection of 32-bit integers that mixes them well, of the entry's number plus a random one. As that one is uniform,
    the bits of each entry are exactly so and the rounding is exactly unbiased; that entries and steps are independent
    rests on the mixing. Good enough to round with, not to sample.
    """
    start, twist = two_numbers
    number, stride = jnp.full(shape, start), 1
    for axis in range(len(shape) - 1, -1, -1):
        step = jnp.uint32(stride * 0x9E3779B9 & 0xFFFFFFFF)
        # by axes and not along a flattened array, which would gather what is sharded
        number = number + step * jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        stride *= shape[axis]
    number = (number ^ (number >> 16)) * jnp.uint32(0x21F0AAAD)
    number = (number ^ (number >> 15)) * jnp.uint32(0xD35A2D97)
    number = (number ^ (number >> 15)) + twist
    number = (number ^ (number >> 16)) * jnp.uint32(0x21F0AAAD)
    return (number >> 16).astype(jnp.uint16)


def stochastic_round(key: Key, x: Float[Array, "..."]) -> Array:
    r"""Rounds to bfloat16, up or down at random, so that the expectation is the number itself.

    Between the neighbours :math:`a \le x \le b` of a number in bfloat16,

    .. math:: P(b) = \frac{x - a}{b - a}, \qquad \mathbb{E} = x, \qquad \operatorname{Var} = (x - a)(b - x).

    Numbers of bfloat16, zero, infinities and NaN stay what they are; between the largest number of bfloat16 and infinity
    the result is the former. Float64 becomes float32 first. The upper half of a float32 is a bfloat16: random bits are
    added to the lower half, and what carries over rounds up.

    Args:
      key: a typed key.
      x: an array of floats.

    Returns:
      An array of bfloat16.

    Raises:
      TypeError: not a typed key, or not floats.

    Source: Croci, Fasi, Higham, Mary, Mikaitis (2022), "Stochastic rounding: implementation, error analysis and
    applications".

    >>> x = stochastic_round(jax.random.key(0), jnp.full(10_000, 1.001))  # the neighbours are 1 and 1.0078125
    >>> sorted(set(x.tolist())), round(float(x.astype(jnp.float32).mean()), 3)
    ([1.0, 1.0078125], 1.001)
    """
    check_key(key, where="stochastic_round")
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"stochastic_round rounds floats, got {x.dtype}")
    return _round_with_bits(x, _random_bits(_two_numbers(key), x.shape))


def _names(path: Any) -> list[str]:
    return [str(getattr(k, "name", getattr(k, "key", ""))) for k in path]


def _moments(template: OptState, params: Params, dtype: Any) -> list[tuple[int, list[str], int] | None]:
    """For every leaf of a state: None, or where it is an array of a parameter that ``dtype`` would shorten, the number
    of its field, the names above it and the number of the parameter.

    A leaf belongs to a parameter when its path ends like the parameter's and the shapes agree. Paths and not subtrees are
    compared, since ``optax.masked`` and ``optax.partition`` put other nodes in the place of parameters.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    known = {path: (i, jnp.shape(p)) for i, (path, p) in enumerate(leaves)}
    fields: dict[Any, int] = {}
    found: list[tuple[int, list[str], int] | None] = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(template):
        found.append(None)
        # scalars save nothing, and might be learning rates that optax.inject_hyperparams keeps
        if leaf.ndim == 0 or not jnp.issubdtype(leaf.dtype, jnp.floating) or leaf.dtype.itemsize <= dtype.itemsize:
            continue
        for start in range(len(path) + 1):
            number, shape = known.get(path[start:], (None, None))
            if number is not None and shape == leaf.shape:
                field = fields.setdefault(path[:start], len(fields))
                found[-1] = (field, _names(path[:start]), number)
                break
    return found


def _numbers_of(key: Key, moments: list[tuple[int, list[str], int]]) -> Any:
    """The numbers behind the random bits of every moment, from its field and its parameter alone."""

    def draw(field, number):
        return _two_numbers(jax.random.fold_in(jax.random.fold_in(key, field), number))

    if not moments or jax.random.key_impl(key) != "threefry2x32":  # vmap makes other numbers of other keys
        return [draw(field, number) for field, _, number in moments]
    # all of them at once: one by one they would cost more than the rounding of small parameters
    return jax.vmap(draw)(*(jnp.array([m[i] for m in moments], jnp.uint32) for i in (0, 2)))


def with_moment_dtype(
    inner: optax.GradientTransformation,
    dtype: Any = jnp.bfloat16,
    *,
    fields: Sequence[str] | None = None,
    rounding: str = "stochastic",
    seed: Number | Key = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps the moments of any optimizer in half precision, half of the memory.

    Before an update the arrays are widened to what ``inner`` made them; after it they are rounded again. The updates
    themselves come from the moments before they are rounded. To the nearest, an average
    :math:`m \leftarrow \beta m + (1 - \beta) g` with β = 0.999 stalls: increments below half a unit in the last place are
    lost (constant gradients of 1 bring it to 0.25 and no further). :func:`stochastic_round` keeps its expectation exact;
    its noise on an average is at most about :math:`2^{-8} / (2\sqrt{1 - \beta^2})` of it, 4 % for β = 0.999 and 0.4 %
    for 0.9.

    The arrays in question are those of the inner state, anywhere in a chain or a mask, that have the path and the shape
    of a parameter with an axis at least, and are wider than ``dtype``. The random bits depend on ``seed``, the number
    of the update, the field and the parameter alone, so that a resumed run repeats them. Where
    gradients have another dtype than the parameters, give the update ``params`` too: they say what the inner state was.

    Args:
      inner: any transformation.
      dtype: bfloat16; any floating dtype where ``rounding`` is ``"nearest"``.
      fields: names of the fields of the inner state that are kept so, such as ``("mu",)`` for Adam's first moment,
        ``("nu",)`` for its second or ``("trace",)`` for momentum; None: all of them. That includes copies of parameters
        and other things that are no moments, where an optimizer keeps such.
      rounding: ``"stochastic"`` or ``"nearest"``.
      seed: an integer or a typed key. Members of an ensemble that share it share the random bits.

    Returns:
      A transformation with :class:`LowPrecisionState`; extra arguments are handed on.

    Raises:
      ValueError: an unknown rounding, a dtype that does not go with it, or ``fields`` that name none of the arrays.

    >>> tx = with_moment_dtype(optax.adam(1e-3), fields=("nu",))
    >>> w = jnp.ones(4)
    >>> updates, state = tx.update(w, tx.init(w))
    >>> state.inner_state[0].mu.dtype.name, state.inner_state[0].nu.dtype.name, updates.dtype.name
    ('float32', 'bfloat16', 'float32')
    """
    narrow = jnp.dtype(dtype)
    if rounding not in ROUNDINGS:
        raise ValueError(f"with_moment_dtype: rounding must be one of {', '.join(ROUNDINGS)}, got {rounding!r}")
    if not jnp.issubdtype(narrow, jnp.floating) or (rounding == "stochastic" and narrow != jnp.bfloat16):
        raise ValueError(
            f"with_moment_dtype: stochastic rounding goes to bfloat16, nearest to any floating dtype; "
            f"got {narrow} with rounding={rounding!r}"
        )
    if isinstance(fields, str):
        raise ValueError(
            f'with_moment_dtype: fields is a sequence of names, got the string {fields!r}; write ("{fields}",)'
        )
    inner = optax.with_extra_args_support(inner)
    base = seed if jnp.issubdtype(jnp.result_type(seed), jax.dtypes.prng_key) else jax.random.key(seed)

    def chosen(template, params):
        """The moments that are kept narrow; None for the other leaves."""
        moments = _moments(template, params, narrow)
        if fields is None:
            return moments
        picked = [m if m is not None and set(fields) & set(m[1]) else None for m in moments]
        if any(moments) and not any(picked):
            there = sorted({name for m in moments if m is not None for name in m[1] if name})
            raise ValueError(
                f"with_moment_dtype: no array of a parameter's shape lies in a field named {', '.join(fields)}; "
                f"the names in this state are {', '.join(there) or '(none)'}"
            )
        return picked

    def init(params):
        state = inner.init(params)
        leaves, structure = jax.tree.flatten(state)
        picked = chosen(state, params)
        # what a state starts with, zeros almost always, needs no chance
        return LowPrecisionState(
            jnp.zeros((), jnp.int32),
            structure.unflatten([x if m is None else x.astype(narrow) for x, m in zip(leaves, picked, strict=True)]),
        )

    def update(updates, state, params=None, **extra_args):
        like = updates if params is None else params
        # what inner itself would keep: nothing is computed for it
        template = jax.eval_shape(inner.init, like)
        picked = chosen(template, like)
        leaves, structure = jax.tree.flatten(state.inner_state)
        shapes = jax.tree.leaves(template)
        # only those: a key of random numbers has no astype
        wide = [x if m is None else x.astype(t.dtype) for x, t, m in zip(leaves, shapes, picked, strict=True)]
        updates, inner_state = inner.update(updates, structure.unflatten(wide), params, **extra_args)
        numbers = iter(())
        if rounding == "stochastic":
            numbers = iter(_numbers_of(jax.random.fold_in(base, state.count), [m for m in picked if m is not None]))

        def shorten(x, moment):
            if moment is None:
                return x
            return (
                x.astype(narrow) if rounding == "nearest" else _round_with_bits(x, _random_bits(next(numbers), x.shape))
            )

        leaves, structure = jax.tree.flatten(inner_state)
        inner_state = structure.unflatten([shorten(x, m) for x, m in zip(leaves, picked, strict=True)])
        return updates, LowPrecisionState(optax.safe_increment(state.count), inner_state)

    return optax.GradientTransformationExtraArgs(init, update)
