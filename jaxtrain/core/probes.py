"""Random directions and means over them: what zeroth-order gradients and Hutchinson's estimators have in common."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxtrain.core.checks import check_key
from jaxtrain.core.numerics import accumulator_dtype, static_int
from jaxtrain.core.types import Key, Params, Scalar

DISTRIBUTIONS = ("rademacher", "gaussian", "sphere")


def check_distribution(distribution: str, *, where: str) -> None:
    """Raises unless :func:`random_direction` knows the name."""
    if distribution not in DISTRIBUTIONS:
        raise ValueError(f"{where}: distribution must be one of {', '.join(DISTRIBUTIONS)}, got {distribution!r}")


def random_direction(key: Key, like: Params, distribution: str = "rademacher") -> Params:
    r"""A random tree like another, with :math:`\mathbb{E}\, v v^\top = I` over all its leaves together.

    ``"rademacher"``: signs, uniformly; ``"gaussian"``: standard normal; ``"sphere"``: uniform on the sphere of radius
    :math:`\sqrt d`, d the number of all entries. All three have length about :math:`\sqrt d`. One key gives one
    direction, so it need not be kept: drawn again it is the same.

    Args:
      key: one typed key.
      like: a tree of floating arrays; the direction has its shapes and dtypes.
      distribution: one of the three.

    Raises:
      TypeError: the key is not a typed key.
      ValueError: an unknown distribution.

    >>> v = random_direction(jax.random.key(0), {"a": jnp.zeros(3), "b": jnp.zeros(1)}, "sphere")
    >>> round(float(optax.tree.norm(v)), 5)
    2.0
    """
    return map_direction(lambda p, v: v, key, like, distribution)


def map_direction(
    f: Callable[[Array, Array], Array],
    key: Key,
    like: Params,
    distribution: str = "rademacher",
    *,
    after: Array | None = None,
) -> Params:
    """``f(leaf, direction)`` over the leaves of a tree, for the direction that :func:`random_direction` gives.

    The direction is never whole in memory: a leaf of it is drawn when the result at the leaf before is there (the first
    one, when the number ``after`` is), and dropped when it was used.

    >>> params, key = {"w": jnp.ones(2)}, jax.random.key(0)
    >>> bool(jnp.all(map_direction(lambda p, v: p + v, key, params)["w"] == 1 + random_direction(key, params)["w"]))
    True
    """
    check_key(key, where="random_direction")
    check_distribution(distribution, where="random_direction")
    leaves, structure = jax.tree.flatten(like)
    sampler = jax.random.rademacher if distribution == "rademacher" else jax.random.normal

    def over_leaves(f, after):
        out = []
        for p, k in zip(leaves, jax.random.split(key, len(leaves)), strict=True):
            out.append(f(p, sampler(_wait_for(after, k), p.shape, p.dtype)))
            after = jnp.ravel(out[-1])[0] if out[-1].size else after
        return out, after

    if distribution == "sphere":
        square = [jnp.zeros(())]

        def add_square(p, v):
            square.append(square[-1] + jnp.sum(jnp.square(v.astype(accumulator_dtype(v)))))
            return square[-1]

        _, after = over_leaves(add_square, after)
        # v / ‖v‖ · √d
        scale = jnp.sqrt(sum(p.size for p in leaves) / square[-1])
        given = f
        f = lambda p, v: given(p, (scale.astype(accumulator_dtype(v)) * v).astype(v.dtype))  # noqa: E731
    return jax.tree.unflatten(structure, over_leaves(f, after)[0])


def _wait_for(after: Array | None, key: Key) -> Key:
    """The key itself, for the compiler a function of a number, so that it is not used before that is known.

    Where nothing orders the draws, XLA makes the random bits of all leaves first, some copies of the parameters. It does
    not simplify 0 · x away, as x may be NaN, and its optimization_barrier is gone when the program is put in order.
    """
    if after is None:
        return key
    zero = (0 * after).astype(jnp.uint32)
    return jax.random.wrap_key_data(jax.random.key_data(key) + zero, impl=jax.random.key_impl(key))


def mean_over(of: Callable[[Any], Params], xs: Any, *, parallel: int = 1) -> Params:
    """The mean of ``of(x)`` over the leading axis of ``xs``, summed in float32 at least.

    ``parallel`` of them are computed at once and must divide their number; in memory are as many results and the sum.
    A single one is returned as it is.

    >>> mean_over(lambda x: {"y": 2 * x}, jnp.array([1.0, 2.0, 6.0]))
    {'y': Array(6., dtype=float32)}
    """
    count = len(jax.tree.leaves(xs)[0])
    if count == 1:
        return of(jax.tree.map(lambda x: x[0], xs))

    def widened(x):
        return jax.tree.map(lambda y: y.astype(accumulator_dtype(y)), of(x))

    def several(xs):
        if parallel == 1:
            return widened(jax.tree.map(lambda x: x[0], xs))
        return jax.tree.map(lambda y: jnp.sum(y, axis=0), jax.vmap(widened)(xs))

    groups = jax.tree.map(lambda x: x.reshape(count // parallel, parallel, *x.shape[1:]), xs)
    shapes = jax.eval_shape(several, jax.tree.map(lambda x: x[0], groups))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = jax.lax.scan(lambda total, xs: (optax.tree.add(total, several(xs)), None), zeros, groups)
    return jax.tree.map(lambda t: t / count, total)


def probe_keys(key: Key, num_samples: int) -> Any:
    """One key for every probe; a single probe has the key itself."""
    return key[None] if num_samples == 1 else jax.random.split(key, num_samples)


def hutchinson_diagonal(
    key: Key,
    matvec: Callable[[Params], Params],
    like: Params,
    *,
    num_samples: int = 1,
    distribution: str = "rademacher",
) -> Params:
    r"""An unbiased estimate of the diagonal of a matrix that is known by its products with vectors.

    .. math:: D = \frac1S \sum_{s=1}^S v_s \odot (A v_s), \qquad \mathbb{E}\,D = \operatorname{diag}(A).

    For a symmetric :math:`A` and signs the variance of :math:`D_i` is :math:`\sum_{j \ne i} A_{ij}^2 / S`, so that a
    diagonal matrix is found exactly; for Gaussian probes it is :math:`(\sum_j A_{ij}^2 + A_{ii}^2)/S`. Costs S products,
    one after the other, in the memory of one.

    Args:
      key: one typed key.
      matvec: ``v -> A v`` on trees, such as ``lambda v: jax.jvp(jax.grad(loss), (params,), (v,))[1]`` for a Hessian:
        about two gradients' work.
      like: a tree with the shapes and dtypes of the vectors.
      num_samples: S, ≥ 1; a Python integer.
      distribution: of the probes, see :func:`random_direction`.

    Returns:
      A tree like ``like``, in float32 at least.

    Raises:
      TypeError: the key is not a typed key.
      ValueError: fewer than one probe, or an unknown distribution.

    Source: Bekas, Kokiopoulou, Saad (2007), "An estimator for the diagonal of a matrix".

    >>> hutchinson_diagonal(jax.random.key(0), lambda v: jnp.array([1.0, 2.0]) * v, jnp.zeros(2)).tolist()
    [1.0, 2.0]
    """
    check_key(key, where="hutchinson_diagonal")
    keys = probe_keys(key, static_int("num_samples", num_samples, low=1))

    def sample(key):
        v = random_direction(key, like, distribution)
        return jax.tree.map(lambda v, av: v.astype(accumulator_dtype(v)) * av, v, matvec(v))

    return mean_over(sample, keys)


def hutchinson_trace(
    key: Key,
    matvec: Callable[[Params], Params],
    like: Params,
    *,
    num_samples: int = 1,
    distribution: str = "rademacher",
) -> Scalar:
    r"""An unbiased estimate of the trace of a matrix that is known by its products with vectors.

    .. math:: T = \frac1S \sum_{s=1}^S v_s^\top A v_s, \qquad \mathbb{E}\,T = \operatorname{tr}(A).

    For a symmetric :math:`A` of size d its variance is :math:`2(\|A\|_F^2 - \sum_i A_{ii}^2)/S` with signs,
    :math:`2\|A\|_F^2/S` with Gaussian probes and :math:`\frac{2d}{d+2}(\|A\|_F^2 - \operatorname{tr}(A)^2/d)/S` on the
    sphere: signs find a diagonal matrix exactly, the sphere a multiple of the identity. Costs S products, one after the
    other, in the memory of one.

    Args:
      key: one typed key.
      matvec, like, num_samples, distribution: see :func:`hutchinson_diagonal`.

    Returns:
      A number, in float32 at least.

    Raises:
      TypeError: the key is not a typed key.
      ValueError: fewer than one probe, or an unknown distribution.

    Source: Hutchinson (1990), "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
    splines".

    >>> float(hutchinson_trace(jax.random.key(0), lambda v: jnp.array([1.0, 2.0]) * v, jnp.zeros(2)))
    3.0
    """
    check_key(key, where="hutchinson_trace")
    keys = probe_keys(key, static_int("num_samples", num_samples, low=1))

    def sample(key):
        v = random_direction(key, like, distribution)
        terms = jax.tree.map(lambda v, av: jnp.sum(v.astype(accumulator_dtype(v)) * av), v, matvec(v))
        return sum(jax.tree.leaves(terms))

    return mean_over(sample, keys)
