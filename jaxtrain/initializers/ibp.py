"""Interval bound propagation: an initialization under which bounds keep their width, the bounds, and their training."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Key, Number, check_finite_number, check_key

Bounds = tuple[Float[Array, "..."], Float[Array, "..."]]
Layer = tuple[Float[Array, "..."], Float[Array, "..."]]


def ibp_init(key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Float[Array, "..."]:
    r"""Weights under which interval bounds neither grow nor shrink from layer to layer.

    .. math:: W \sim \mathcal N\!\Big(0, \frac{2\pi}{n^2}\Big), \qquad n = \text{fan-in}

    An affine layer multiplies the mean radius of a box by :math:`n\,\mathbb E|w|`, which is 2 here, and a ReLU halves
    it. (He's initialization makes it grow by :math:`\sqrt{n/\pi}` a layer.) For all layers but the last; halve what
    is fed by a residual addition.

    Args:
      key: a typed key.
      shape: ``(…, in, out)``, as flax has it: fan-in is the product of all but the last.
      dtype: a floating dtype.

    Raises:
      ValueError: fewer than two dimensions.

    Source: Shi, Wang, Zhang, Yi, Hsieh (2021), arXiv 2103.17268.

    >>> w = ibp_init(jax.random.key(0), (400, 100))
    >>> round(float(jnp.mean(jnp.sum(jnp.abs(w), axis=0))), 1)
    2.0
    """
    check_key(key, where="ibp_init")
    if len(shape) < 2:
        raise ValueError(f"ibp_init needs at least an input and an output dimension, got shape {tuple(shape)}")
    fan_in = 1
    for n in shape[:-1]:
        fan_in *= n
    return jax.random.normal(key, tuple(shape), dtype) * jnp.asarray((2 * jnp.pi) ** 0.5 / fan_in, dtype)


def ibp_dense(
    lower: Float[Array, "*batch n"],
    upper: Float[Array, "*batch n"],
    kernel: Float[Array, "n m"],
    bias: Float[Array, " m"],
) -> Bounds:
    r"""Bounds of :math:`xW + b` over a box: centre :math:`cW + b`, radius :math:`r|W|`. Exact for one layer.

    >>> l, u = ibp_dense(jnp.array([-1.0, 0.0]), jnp.array([1.0, 2.0]), jnp.array([[1.0], [-2.0]]), jnp.array([0.5]))
    >>> float(l[0]), float(u[0])
    (-4.5, 1.5)
    """
    centre, radius = (upper + lower) / 2, (upper - lower) / 2
    centre, radius = centre @ kernel + bias, radius @ jnp.abs(kernel)
    return centre - radius, centre + radius


def ibp_conv(
    lower: Float[Array, "batch h w c"],
    upper: Float[Array, "batch h w c"],
    kernel: Float[Array, "kh kw c d"],
    bias: Float[Array, " d"],
    *,
    strides: tuple[int, int] = (1, 1),
    padding: str = "SAME",
) -> Bounds:
    """The same for a convolution, NHWC and HWIO.

    >>> l, u = ibp_conv(-jnp.ones((1, 2, 2, 1)), jnp.ones((1, 2, 2, 1)), -jnp.ones((1, 1, 1, 3)), jnp.zeros(3))
    >>> float(l.min()), float(u.max()), u.shape
    (-1.0, 1.0, (1, 2, 2, 3))
    """

    def conv(x: Array, k: Array) -> Array:
        return jax.lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    centre, radius = conv((upper + lower) / 2, kernel) + bias, conv((upper - lower) / 2, jnp.abs(kernel))
    return centre - radius, centre + radius


def ibp_relu(lower: Float[Array, "..."], upper: Float[Array, "..."]) -> Bounds:
    """Bounds of the ReLU: it is monotone, so its value at the ends.

    >>> [x.tolist() for x in ibp_relu(jnp.array([-1.0]), jnp.array([2.0]))]
    [[0.0], [2.0]]
    """
    return jax.nn.relu(lower), jax.nn.relu(upper)


def ibp_bounds(layers: Sequence[Layer], lower: Float[Array, "..."], upper: Float[Array, "..."]) -> list[Bounds]:
    """Bounds before the activation of every layer of a ReLU network.

    Args:
      layers: ``(kernel, bias)`` pairs; a kernel with four dimensions is a convolution (stride 1, padding SAME), one
        with two a dense layer, before which what comes from a convolution is flattened.
      lower: lower end of the input box, with a batch axis.
      upper: upper end.

    Returns:
      One ``(lower, upper)`` for each layer.

    Raises:
      ValueError: no layers, or boxes of different shapes.

    >>> layers = [(jnp.array([[2.0]]), jnp.zeros(1)), (jnp.array([[-1.0]]), jnp.zeros(1))]
    >>> [(float(l[0, 0]), float(u[0, 0])) for l, u in ibp_bounds(layers, -jnp.ones((1, 1)), jnp.ones((1, 1)))]
    [(-2.0, 2.0), (-2.0, 0.0)]
    """
    if not layers:
        raise ValueError("ibp_bounds needs at least one layer")
    if lower.shape != upper.shape:
        raise ValueError(f"the ends of a box have one shape, got {lower.shape} and {upper.shape}")
    found: list[Bounds] = []
    for kernel, bias in layers:
        if found:
            lower, upper = ibp_relu(*found[-1])
        if kernel.ndim == 4:
            found.append(ibp_conv(lower, upper, kernel, bias))
        else:
            lower, upper = lower.reshape(len(lower), -1), upper.reshape(len(upper), -1)
            found.append(ibp_dense(lower, upper, kernel, bias))
    return found


def ibp_margin_lower_bound(
    lower: Float[Array, "batch n"],
    upper: Float[Array, "batch n"],
    kernel: Float[Array, "n classes"],
    bias: Float[Array, " classes"],
    labels: Int[Array, " batch"],
) -> Float[Array, "batch classes"]:
    r"""Lower bounds of :math:`z_y - z_j` over the box of the last layer's inputs; 0 at :math:`j = y`.

    From the rows of differences :math:`W_y - W_j`, so exact over the box, and tighter than the difference of bounds.

    >>> k, b = jnp.array([[1.0, 1.0]]), jnp.array([0.5, 0.0])
    >>> ibp_margin_lower_bound(-jnp.ones((1, 1)), jnp.ones((1, 1)), k, b, jnp.array([0])).tolist()
    [[0.0, 0.5]]
    """
    centre, radius = (upper + lower) / 2, (upper - lower) / 2
    difference = kernel.T[labels][:, None, :] - kernel.T[None, :, :]
    shift = bias[labels][:, None] - bias[None, :]
    middle = jnp.einsum("bcn,bn->bc", difference, centre) + shift
    return middle - jnp.einsum("bcn,bn->bc", jnp.abs(difference), radius)


def ibp_robust_loss(margins: Float[Array, "batch classes"]) -> Float[Array, " batch"]:
    r"""Cross-entropy at the worst point of the box: :math:`\log \sum_j e^{-\underline m_j}`.

    >>> round(float(ibp_robust_loss(jnp.array([[0.0, 0.0]]))[0]), 4)  # log 2
    0.6931
    """
    return jax.nn.logsumexp(-margins, axis=-1)


def verified_error(margins: Float[Array, "batch classes"], labels: Int[Array, " batch"]) -> Float[Array, ""]:
    """The share of examples for which some other class is not excluded over the whole box.

    >>> float(verified_error(jnp.array([[0.0, 0.3], [-0.1, 0.0]]), jnp.array([0, 1])))
    0.5
    """
    own = jax.nn.one_hot(labels, margins.shape[-1], dtype=bool)
    return jnp.mean(jnp.min(jnp.where(own, jnp.inf, margins), axis=-1) <= 0)


def ibp_tightness_reg(bounds: Sequence[Bounds], inputs: Bounds, *, tol: Number = 0.5) -> Float[Array, ""]:
    r"""Keeps bounds from growing: :math:`\frac1m \sum_i \max(0, \tau - r_0/r_i)/\tau`, mean radii before each ReLU.

    Args:
      bounds: of the layers that a ReLU follows.
      inputs: the input box, whose mean radius is :math:`r_0`.
      tol: :math:`\tau`.

    >>> box = (jnp.zeros(2), jnp.full(2, 2.0))
    >>> float(ibp_tightness_reg([(jnp.zeros(2), jnp.full(2, 8.0))], box))  # (0.5 − 1/4) / 0.5
    0.5
    """

    def radius(box: Bounds) -> Array:
        return jnp.mean(box[1] - box[0]) / 2

    first = radius(inputs)
    return jnp.mean(jnp.stack([jax.nn.relu(tol - first / radius(box)) / tol for box in bounds]))


def ibp_relu_balance_reg(bounds: Sequence[Bounds], *, tol: Number = 0.5) -> Float[Array, ""]:
    r"""Keeps active and inactive ReLUs in balance, by the mean and the variance of their centres.

    With centres :math:`c`, over the active (:math:`l > 0`) and the inactive (:math:`u < 0`) ones:
    :math:`\alpha = \sum_{act} c / -\!\sum_{in} c`, :math:`\beta = \sum_{act} (c - \bar c)^2 / \sum_{in} (c - \bar c)^2`;
    :math:`\frac1m \sum_i [\max(0, \tau - \min(\alpha, 1/\alpha)) + \max(0, \tau - \min(\beta, 1/\beta))]/\tau`. A layer
    without active or without inactive ones does not count.

    >>> l, u = jnp.array([1.0, -3.0]), jnp.array([1.0, -1.0])  # centres 1 and −2: α = 1/2, β = 1
    >>> float(ibp_relu_balance_reg([(l, u)]))
    0.0
    """

    def ratio(a: Array, b: Array) -> tuple[Array, Array]:
        usable = (a > 0) & (b > 0)
        q = jnp.where(usable, a, 1) / jnp.where(usable, b, 1)
        return jnp.minimum(q, 1 / q), usable

    def of_layer(box: Bounds) -> Array:
        lower, upper = box
        centre = (lower + upper) / 2
        active, inactive = lower > 0, upper < 0
        spread = (centre - jnp.mean(centre)) ** 2
        total = jnp.zeros(())
        for a, b in (
            (jnp.sum(jnp.where(active, centre, 0)), -jnp.sum(jnp.where(inactive, centre, 0))),
            (jnp.sum(jnp.where(active, spread, 0)), jnp.sum(jnp.where(inactive, spread, 0))),
        ):
            balance, usable = ratio(a, b)
            total = total + jnp.where(usable, jax.nn.relu(tol - balance) / tol, 0)
        return total

    return jnp.mean(jnp.stack([of_layer(box) for box in bounds]))


def smoothed_eps_schedule(eps_max: Number, *, start: Number, length: Number, mid: float = 0.25) -> optax.Schedule:
    r"""A perturbation radius that grows smoothly: quartic for the first quarter, then linear with the same slope.

    With :math:`t = \text{mid} \cdot T` and :math:`\alpha = \epsilon / (t^4 + 4 t^3 (T - t))`: 0 before ``start``,
    :math:`\alpha s^4` for :math:`s < t`, then linear to :math:`\epsilon` at :math:`s = T`.

    Args:
      eps_max: final radius.
      start: step at which it begins to grow.
      length: steps :math:`T` until the final radius.
      mid: share of the quartic part.

    >>> schedule = smoothed_eps_schedule(0.1, start=10, length=100)
    >>> float(schedule(10)), round(float(schedule(110)), 6), round(float(schedule(500)), 6)
    (0.0, 0.1, 0.1)
    """
    check_finite_number("length", length, low=1)
    check_finite_number("mid", mid, low=0.0, high=1.0)

    def schedule(step: Number) -> Float[Array, ""]:
        s = jnp.clip((jnp.asarray(step, jnp.result_type(float)) - start) / length, 0.0, 1.0)
        alpha = eps_max / (mid**4 + 4 * mid**3 * (1 - mid))
        return jnp.where(s < mid, alpha * s**4, alpha * (mid**4 + 4 * mid**3 * (s - mid)))

    return schedule
