"""Batch sizes that grow when the gradient of a batch gets too noisy, by tests on the gradients of its examples."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, Params, Scalar, check_finite_number
from jaxtrain.core.numerics import accumulator_dtype
from jaxtrain.core.tree import check_stack


class _Moments(NamedTuple):
    rows: Params
    mean: Params
    weights: Float[Array, " b"]
    valid: Scalar
    norm_sq: Scalar
    unit: Scalar


def _moments(where: str, stack: Params, valid: Number | None) -> _Moments:
    size = check_stack(stack, where=where)
    if size < 2:
        raise ValueError(f"{where}: a variance needs at least 2 rows of gradients, got {size}")
    if valid is not None:
        check_finite_number(f"{where}: valid", valid, low=2, high=size)
    rows = jax.tree.map(lambda g: g.astype(accumulator_dtype(g)), stack)
    dtype = jnp.result_type(*jax.tree.leaves(rows))
    count = jnp.asarray(size if valid is None else valid, dtype)
    weights = (jnp.arange(size) < count).astype(dtype)
    # what stands in padded rows, be it NaN, does not count
    rows = jax.tree.map(lambda g: jnp.where(weights.reshape(-1, *[1] * (g.ndim - 1)) > 0, g, 0), rows)
    # the tests ask for ratios: in units of the largest entry no fourth power of it overflows or vanishes
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(g), initial=0.0) for g in jax.tree.leaves(rows)])).astype(dtype)
    # a power of two, which changes no digit; NaN and infinity stay what they are
    unit = jnp.where(
        (largest > 0) & jnp.isfinite(largest), jnp.ldexp(jnp.ones((), dtype), jnp.frexp(largest)[1] - 1), 1
    )
    rows = jax.tree.map(lambda g: (g / unit).astype(g.dtype), rows)
    mean = jax.tree.map(lambda g: jnp.sum(g, axis=0) / count, rows)
    return _Moments(rows, mean, weights, count, optax.tree.norm(mean, squared=True), unit)


def _variances(m: _Moments) -> Params:
    """The variance of each coordinate over the rows, with the divisor b - 1."""

    def of_leaf(g: Array, mean: Array) -> Array:
        weights = m.weights.reshape(-1, *[1] * (g.ndim - 1))
        return jnp.sum(weights * (g - mean) ** 2, axis=0) / (m.valid - 1)

    return jax.tree.map(of_leaf, m.rows, m.mean)


def _projections(m: _Moments) -> Float[Array, " b"]:
    """The inner product of each row with the mean, over all parameters together."""
    return sum(
        jnp.tensordot(g, mean, axes=mean.ndim)
        for g, mean in zip(jax.tree.leaves(m.rows), jax.tree.leaves(m.mean), strict=True)
    )


def _needed(variance: Array, bound: Array, row_size: Number) -> Array:
    """``ceil(row_size · variance / bound)``: no noise needs no more examples, whatever the bound. NaN stays NaN."""
    return jnp.where(variance == 0, 1.0, jnp.ceil(row_size * variance / bound))


def _check(name: str, value: Number, row_size: Number) -> None:
    check_finite_number(name, value, low=1e-12)
    check_finite_number("row_size", row_size, low=1)


def norm_test_batch_size(
    grads: Params, *, eta: Number, row_size: Number = 1, valid: Number | None = None
) -> Float[Array, ""]:
    r"""The batch size at which the error of the gradient is a given part of its norm.

    From gradients :math:`g_i` of :math:`b` examples with mean :math:`\bar g`:

    .. math:: \Big\lceil \frac{\sum_j \operatorname{Var}_j}{\eta^2 \|\bar g\|^2} \Big\rceil, \qquad
       \operatorname{Var}_j = \frac{1}{b - 1} \sum_i (g_{ij} - \bar g_j)^2

    so that :math:`\mathbb{E}\|g_B - \nabla L\|^2 \le \eta^2 \|\nabla L\|^2`. As :math:`\|\bar g\|^2` holds noise too, of
    expectation :math:`\sum \operatorname{Var}/b`, what is found is below the true size by about
    :math:`1 + \sum \operatorname{Var} / (b \|\nabla L\|^2)`.

    Args:
      grads: a tree of gradients with a leading axis of examples, such as :func:`jaxtrain.gradients.per_example` gives;
        or of the means of groups of ``row_size`` examples each (microbatches, devices).
      eta: :math:`\eta` > 0: the allowed relative error.
      row_size: examples in each row; the variance of an example is that many times that of a row.
      valid: how many rows count, at least 2, where a batch is padded to a fixed shape; None: all.

    Returns:
      The batch size, a whole floating number: 1 if all rows are equal, infinite where only their mean vanishes, NaN where
      gradients are NaN or infinite.

    Raises:
      ValueError: a number out of range, fewer than 2 rows, or leading axes that disagree.
      TypeError: gradients that are not floating.

    Source: Lau, Liu, Kolar (2024), arXiv 2402.11215; Byrd, Chin, Nocedal, Wu (2012).

    >>> norm_test_batch_size(jnp.array([[1.0, 0.0], [1.0, 4.0]]), eta=0.5).item()  # Var 8, mean (1, 2): 8 / (0.25 * 5)
    7.0
    """
    _check("eta", eta, row_size)
    m = _moments("norm_test_batch_size", grads, valid)
    return _needed(optax.tree.sum(_variances(m)), eta**2 * m.norm_sq, row_size)


def coordinatewise_norm_test(
    grads: Params, *, eta: Number, row_size: Number = 1, valid: Number | None = None, eps: Number = 1e-12
) -> Float[Array, ""]:
    r"""The batch size at which every coordinate passes a norm test of its own: the test for diagonal AdaGrad.

    .. math:: \max_j \Big\lceil \frac{\operatorname{Var}_j}{\eta^2\,(\bar g_j^2 + \epsilon)} \Big\rceil

    A single coordinate whose mean gradient is near zero asks for any number of examples; :math:`\epsilon` says from
    where on a coordinate matters.

    Args:
      grads, eta, row_size, valid: see :func:`norm_test_batch_size`.
      eps: :math:`\epsilon` ≥ 0.

    Returns:
      The batch size, a whole floating number.

    Raises:
      ValueError: see :func:`norm_test_batch_size`.

    Source: Lau, Liu, Kolar (2024), arXiv 2402.11215.

    >>> coordinatewise_norm_test(jnp.array([[1.0, 0.0], [1.0, 4.0]]), eta=0.5).item()  # 8 / (0.25 * 4)
    8.0
    """
    _check("eta", eta, row_size)
    check_finite_number("eps", eps, low=0.0)
    m = _moments("coordinatewise_norm_test", grads, valid)
    least = jnp.sqrt(eps) / m.unit
    sizes = jax.tree.map(
        lambda v, mean: jnp.max(_needed(v, eta**2 * (mean**2 + least**2), row_size), initial=1.0), _variances(m), m.mean
    )
    return jnp.max(jnp.stack(jax.tree.leaves(sizes)))


def inner_product_test_batch_size(
    grads: Params, *, theta: Number, nu: Number | None = None, row_size: Number = 1, valid: Number | None = None
) -> Float[Array, ""]:
    r"""The batch size at which the gradient points downhill in most cases: a weaker test than that of norms.

    .. math:: \Big\lceil \frac{\operatorname{Var}_i\,\langle g_i, \bar g\rangle}{\theta^2 \|\bar g\|^4} \Big\rceil
       \quad\text{and, with } \nu\text{, at least}\quad
       \Big\lceil \frac{1}{\nu^2 \|\bar g\|^2}\,\frac{1}{b-1} \sum_i \Big\| g_i -
       \frac{\langle g_i, \bar g\rangle}{\|\bar g\|^2}\,\bar g \Big\|^2 \Big\rceil .

    The second part (the orthogonality test) bounds what the examples add across the gradient. The inner products are
    those of whole gradients: the released code adds up the variances of the layers' inner products, which leaves out how
    these vary together.

    Args:
      grads, row_size, valid: see :func:`norm_test_batch_size`.
      theta: :math:`\theta` > 0.
      nu: :math:`\nu` > 0, the augmented test; None: without.

    Returns:
      The batch size, a whole floating number.

    Raises:
      ValueError: see :func:`norm_test_batch_size`.

    Source: Bollapragada, Byrd, Nocedal (2018), arXiv 1710.11258; Lau, Liu, Kolar (2024), arXiv 2402.11215.

    >>> grads = jnp.array([[1.0, 0.0], [1.0, 4.0]])  # inner products with (1, 2): 1 and 9, their variance 32
    >>> inner_product_test_batch_size(grads, theta=0.5).item()  # 32 / (0.25 * 25)
    6.0
    """
    _check("theta", theta, row_size)
    m = _moments("inner_product_test_batch_size", grads, valid)
    along = _projections(m)
    # their mean is the squared norm
    variance = jnp.sum(m.weights * (along - m.norm_sq) ** 2) / (m.valid - 1)
    size = _needed(variance, theta**2 * m.norm_sq**2, row_size)
    if nu is not None:
        check_finite_number("nu", nu, low=1e-12)
        # by Pythagoras: what is left of the whole variance without that along the mean
        across = jnp.maximum(optax.tree.sum(_variances(m)) - variance / jnp.where(m.norm_sq > 0, m.norm_sq, jnp.inf), 0)
        size = jnp.maximum(size, _needed(across, nu**2 * m.norm_sq, row_size))
    return size


def bucketed_batch_size(size: Number, *, buckets: Sequence[int]) -> Int[Array, ""]:
    """The smallest of some sizes that is not below a given one, or the largest: few shapes, few compilations.

    Args:
      size: the wanted batch size.
      buckets: ascending positive integers, such as powers of two.

    Returns:
      One of the buckets.

    Raises:
      ValueError: no buckets, or not ascending from 1 on.

    >>> [bucketed_batch_size(b, buckets=(16, 64, 256)).item() for b in (3, 16, 17, 1000)]
    [16, 16, 64, 256]
    """
    table = np.asarray(buckets)
    if table.size == 0 or table[0] < 1 or np.any(np.diff(table) <= 0):
        raise ValueError(f"buckets must be ascending sizes of at least 1, got {tuple(buckets)}")
    place = jnp.searchsorted(jnp.asarray(table), size)
    return jnp.asarray(table, jnp.int32)[jnp.minimum(place, table.size - 1)]


class BatchSizeState(NamedTuple):
    """State of :func:`adaptive_batch_size`: the size of the next batch."""

    size: Int[Array, ""]


def adaptive_batch_size(
    initial: Number,
    maximum: Number,
    test: Callable[..., Float[Array, ""]],
    *,
    buckets: Sequence[int] | None = None,
) -> tuple[Callable[[], BatchSizeState], Callable[[BatchSizeState, Params], BatchSizeState]]:
    r"""A batch size that never shrinks and grows to what a test asks for: :math:`b \leftarrow \max(b, \min(\text{test}, b_{\max}))`.

    ``init()`` gives the state; ``update(state, grads, **options)`` takes the gradients of the examples of the last batch
    and hands the options to the test. The learning rate stays as it is. Shapes are static: either a batch of the next
    size is drawn outside of the compiled step (with ``buckets`` it is compiled a few times), or every batch is padded to
    the maximum, with ``valid=state.size``.

    The authors take AdaGrad, with one rate for all parameters (AdAdaGrad-Norm) and :func:`norm_test_batch_size`, or with
    one for each (``optax.adagrad``) and :func:`coordinatewise_norm_test`.

    Args:
      initial: the first batch size, ≥ 2: one example shows no variance.
      maximum: the largest, ≥ ``initial``.
      test: one of the tests of this module, with its parameters bound (``functools.partial``).
      buckets: the sizes that are allowed; None: all.

    Returns:
      ``(init, update)``.

    Raises:
      ValueError: a number out of range.

    Source: Lau, Liu, Kolar (2024), arXiv 2402.11215.

    >>> import functools
    >>> init, update = adaptive_batch_size(2, 64, functools.partial(norm_test_batch_size, eta=0.5))
    >>> update(init(), jnp.array([[1.0, 0.0], [1.0, 4.0]])).size.item()
    7
    """
    check_finite_number("initial", initial, low=2)
    high = initial if isinstance(initial, jax.core.Tracer) else np.max(np.asarray(initial))
    check_finite_number("maximum", maximum, low=2.0 if isinstance(high, jax.core.Tracer) else float(high))

    def fit(size: Array) -> Int[Array, ""]:
        size = jnp.minimum(size, maximum).astype(jnp.int32)
        return size if buckets is None else jnp.minimum(bucketed_batch_size(size, buckets=buckets), maximum)

    def init() -> BatchSizeState:
        return BatchSizeState(fit(jnp.asarray(initial)).astype(jnp.int32))

    def update(state: BatchSizeState, grads: Params, **options) -> BatchSizeState:
        wanted = test(grads, **options)
        # gradients that are not numbers say nothing
        wanted = jnp.where(jnp.isnan(wanted), 0, wanted)
        return BatchSizeState(jnp.maximum(state.size, fit(wanted)).astype(jnp.int32))

    return init, update
