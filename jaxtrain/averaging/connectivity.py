"""The loss between models: along the line that joins two, layer by layer, and in the plane through three."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxtrain.averaging._layers import Granularity, grouped
from jaxtrain.averaging._models import check_alike, interpolate, wide
from jaxtrain.core import Params, Scalar

LossFn = Callable[[Params], Scalar]


def _check_points(where: str, num_points: int) -> None:
    if num_points < 3:
        raise ValueError(f"{where}: num_points must be at least 3 (both ends and a point between), got {num_points}")


def loss_on_line(loss_fn: LossFn, a: Params, b: Params, *, num_points: int = 25) -> Float[Array, " points"]:
    r"""The losses :math:`L((1 - t)\,a + t\,b)` at evenly spaced t from 0 to 1, both ends included.

    The points are evaluated one after the other: memory of one. BatchNorm has no meaningful running statistics between
    models: let ``loss_fn`` recompute them (:func:`recompute_batch_stats`), as REPAIR does (Jordan et al. 2022, arXiv
    2211.08403).

    Args:
      loss_fn: ``params -> loss``.
      a: model at t = 0.
      b: model at t = 1.
      num_points: how many, ≥ 3.

    Returns:
      ``(num_points,)``.

    Raises:
      ValueError: trees that differ, or fewer than 3 points.

    >>> print(loss_on_line(lambda w: w**2, jnp.array(-1.0), jnp.array(1.0), num_points=5))
    [1.   0.25 0.   0.25 1.  ]
    """
    _check_points("loss_on_line", num_points)
    check_alike(a, b, where="loss_on_line: b against a")
    return jax.lax.map(lambda t: loss_fn(interpolate(a, b, t)), jnp.linspace(0.0, 1.0, num_points))


def _highest(losses: Float[Array, "*groups points"], first: Scalar, last: Scalar) -> Float[Array, "*groups"]:
    t = jnp.linspace(0.0, 1.0, losses.shape[-1])
    return jnp.max(losses - ((1 - t) * first + t * last), axis=-1)


def loss_barrier(loss_fn: LossFn, a: Params, b: Params, *, num_points: int = 25) -> Scalar:
    r"""How far the loss between two models rises above the line that joins their losses.

    .. math:: \max_t \; L((1 - t)\,a + t\,b) - \big[(1 - t)\,L(a) + t\,L(b)\big] \;\ge 0

    over :func:`loss_on_line`. A convex loss has barrier 0; models that can be averaged have one near 0.

    Args:
      loss_fn: ``params -> loss``.
      a: one model.
      b: another.
      num_points: on the line, ≥ 3.

    Returns:
      A scalar.

    Raises:
      ValueError: trees that differ, or fewer than 3 points.

    Source: Entezari, Sedghi, Saukh, Neyshabur (2021), arXiv 2110.06296; Frankle et al. (2019), arXiv 1912.05671.

    >>> two_wells = lambda w: (w**2 - 1) ** 2
    >>> float(loss_barrier(two_wells, jnp.array(-1.0), jnp.array(1.0)))
    1.0
    """
    losses = loss_on_line(loss_fn, a, b, num_points=num_points)
    return _highest(losses, losses[0], losses[-1])


def layerwise_barriers(
    loss_fn: LossFn, a: Params, b: Params, *, num_points: int = 25, granularity: Granularity = "layer"
) -> dict[str, Scalar]:
    r"""The barrier of every layer alone: only that layer moves from ``a`` to ``b``, the others stay at ``a``.

    .. math:: \max_t \; L\big(a \text{ with layer } (1 - t)\,a_l + t\,b_l\big) - \big[(1 - t)\,L(a) + t\,L(b)\big]

    Models with a barrier between them often have none in any single layer. Exchange ``a`` and ``b`` for the barriers
    with the other model as host. The released code takes t = ½ alone (``num_points=3`` and the middle).

    Args:
      loss_fn: ``params -> loss``.
      a: the model that keeps the other layers.
      b: the model that lends one.
      num_points: on each line, ≥ 3.
      granularity: ``layer`` (what hangs from one node of the tree), or a function from the path of a leaf to the name
        of its group.

    Returns:
      Name of the layer (its path) → barrier, ≥ 0.

    Raises:
      ValueError: trees that differ, or fewer than 3 points.

    Source: Adilova, Andriushchenko, Kamp, Fischer, Jaggi (2023), arXiv 2307.06966.

    >>> a, b = {"u": {"w": jnp.array(-1.0)}, "v": {"w": jnp.array(-1.0)}}, {"u": {"w": jnp.array(1.0)}, "v": {"w": jnp.array(1.0)}}
    >>> loss = lambda p: (p["u"]["w"] * p["v"]["w"] - 1) ** 2  # both models are perfect, neither alone fits the other
    >>> {name: float(value) for name, value in layerwise_barriers(loss, a, b).items()}
    {"['u']": 4.0, "['v']": 4.0}
    """
    _check_points("layerwise_barriers", num_points)
    check_alike(a, b, where="layerwise_barriers: b against a")
    groups = grouped(a, granularity)
    place = {path: i for i, group in enumerate(groups.values()) for path, _ in group}
    where = jax.tree_util.tree_map_with_path(lambda path, _: place[path], a)

    def at(i: Array, t: Array) -> Scalar:
        return loss_fn(jax.tree.map(lambda x, y, j: interpolate(x, y, jnp.where(i == j, t, 0)), a, b, where))

    ts = jnp.linspace(0.0, 1.0, num_points)
    losses = jax.lax.map(lambda i: jax.lax.map(lambda t: at(i, t), ts), jnp.arange(len(groups)))
    # at t = 0 every line starts at a itself, and the barrier there is 0
    return dict(zip(map(str, groups), _highest(losses, losses[0, 0], loss_fn(b)), strict=True))


class Plane(NamedTuple):
    """A plane in the space of parameters: a point and two orthonormal directions, all of the models' structure."""

    origin: Params
    u: Params
    v: Params


def _inner(x: Params, y: Params) -> Scalar:
    def of_leaf(p: Array, q: Array) -> Scalar:
        return jnp.vdot(p, q, precision="highest")

    return sum(jax.tree.leaves(jax.tree.map(of_leaf, x, y)))


def _difference(x: Params, y: Params) -> Params:
    return jax.tree.map(lambda p, q: wide(p) - wide(q), x, y)


def plane_through(a: Params, b: Params, c: Params) -> Plane:
    r"""The plane through three models: a at the origin, b on the first axis, c above it.

    .. math:: u = \frac{b - a}{\|b - a\|}, \qquad v \propto (c - a) - \langle c - a, u \rangle\, u

    Args:
      a: a model.
      b: another.
      c: a third that does not lie on the line through them (else v is zero).

    Returns:
      A :class:`Plane`; :func:`plane_coordinates` places further models on it.

    Raises:
      ValueError: trees that differ.

    Source: Garipov, Izmailov, Podoprikhin, Vetrov, Wilson (2018), arXiv 1802.10026.

    >>> plane = plane_through(jnp.array([0.0, 0.0]), jnp.array([2.0, 0.0]), jnp.array([1.0, 3.0]))
    >>> print(plane.u, plane.v)
    [1. 0.] [0. 1.]
    """
    check_alike(a, b, where="plane_through: b against a")
    check_alike(a, c, where="plane_through: c against a")

    def unit(x: Params) -> Params:
        norm = jnp.sqrt(_inner(x, x))
        return jax.tree.map(lambda p: p / jnp.where(norm > 0, norm, 1), x)

    u, rest = unit(_difference(b, a)), _difference(c, a)
    along = _inner(rest, u)
    return Plane(a, u, unit(jax.tree.map(lambda p, q: p - along * q, rest, u)))


def plane_coordinates(plane: Plane, params: Params) -> Float[Array, "2"]:
    r"""Where the projection of a model lies on a plane: :math:`(\langle p - o, u \rangle, \langle p - o, v \rangle)`.

    >>> plane = plane_through(jnp.array([0.0, 0.0]), jnp.array([2.0, 0.0]), jnp.array([1.0, 3.0]))
    >>> print(plane_coordinates(plane, jnp.array([1.0, 3.0])))
    [1. 3.]
    """
    offset = _difference(params, plane.origin)
    return jnp.stack([_inner(offset, plane.u), _inner(offset, plane.v)])


def loss_on_plane(
    loss_fn: LossFn, plane: Plane, xs: Float[Array | np.ndarray, " columns"], ys: Float[Array | np.ndarray, " rows"]
) -> Float[Array, "rows columns"]:
    r"""The losses :math:`L(o + x u + y v)` on a grid, as ``contourf(xs, ys, …)`` takes them; one after the other.

    >>> plane = Plane(jnp.zeros(2), jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
    >>> print(loss_on_plane(lambda p: p[0] + 10 * p[1], plane, jnp.array([0.0, 1.0]), jnp.array([0.0, 2.0])))
    [[ 0.  1.]
     [20. 21.]]
    """

    def at(x: Array, y: Array) -> Scalar:
        def point(p: Array, u: Array, v: Array) -> Array:
            return (wide(p) + x.astype(u.dtype) * u + y.astype(u.dtype) * v).astype(p.dtype)

        return loss_fn(jax.tree.map(point, plane.origin, plane.u, plane.v))

    return jax.lax.map(lambda y: jax.lax.map(lambda x: at(x, y), jnp.asarray(xs)), jnp.asarray(ys))
