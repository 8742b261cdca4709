"""Losses where only the mean response of each bag of examples is known, and the private release of such means."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtrain.core import Key, Number, check_finite_number, labels_in_range
from jaxtrain.core.checks import check_key
from jaxtrain.core.numerics import segment_mean, static_int
from jaxtrain.losses._logits import widened


def _checked_ids(where: str, values: Array, bag_means: Array, bag_ids: Array, name: str = "predictions") -> Array:
    """The bags of the values, moved into range where they are traced."""
    if values.ndim != 1 or bag_ids.shape != values.shape:
        got = f"got {values.shape} and {bag_ids.shape}"
        raise ValueError(f"{where}: {name} and bag_ids need one number for each example, {got}")
    if bag_means.ndim != 1:
        raise ValueError(f"{where}: bag_means need one number for each bag, got {bag_means.shape}")
    return labels_in_range(bag_ids, len(bag_means), where=where, names=("bag", "bags"))


def bag_level_loss(
    predictions: Float[Array, "..."], bag_means: Float[Array, "..."], bag_ids: Int[Array, "..."]
) -> Float[Array, "..."]:
    r"""How far the mean prediction of each bag is from its mean response: :math:`(\bar y_B - \bar f_B)^2`.

    Args:
      predictions: ``(n,)``, :math:`f(x_i)`.
      bag_means: ``(m,)``, :math:`\bar y_B`.
      bag_ids: ``(n,)``, the bag of each example, in ``[0, m)``.

    Returns:
      ``(m,)``, one loss for each *bag*, 0 for one without examples, in the dtype of the predictions. Their mean is the loss.

    Raises:
      ValueError, TypeError: shapes that disagree, a bag out of range, or bags that are no integers.

    Source: Javanmard, Chen, Mirrokni, Badanidiyuru, Fu (2024), arXiv 2401.11081.

    >>> bag_level_loss(jnp.array([1.0, 3.0, 5.0]), jnp.array([2.0, 4.0]), jnp.array([0, 0, 1])).tolist()
    [0.0, 1.0]
    """
    return interpolated_bag_loss(predictions, bag_means, bag_ids, rho=0.0)


def instance_level_loss(
    predictions: Float[Array, "..."], bag_means: Float[Array, "..."], bag_ids: Int[Array, "..."]
) -> Float[Array, "..."]:
    r"""How far each prediction is from the mean response of its bag: :math:`(\bar y_{B(i)} - f(x_i))^2`.

    Its mean over a bag is the bag-level loss plus the variance of the predictions within the bag.

    Args:
      predictions: ``(n,)``, :math:`f(x_i)`.
      bag_means: ``(m,)``, :math:`\bar y_B`.
      bag_ids: ``(n,)``, the bag of each example, in ``[0, m)``.

    Returns:
      ``(n,)``, one loss for each example, in the dtype of the predictions.

    Raises:
      ValueError, TypeError: shapes that disagree, a bag out of range, or bags that are no integers.

    Source: Javanmard, Chen, Mirrokni, Badanidiyuru, Fu (2024), arXiv 2401.11081.

    >>> instance_level_loss(jnp.array([1.0, 3.0, 5.0]), jnp.array([2.0, 4.0]), jnp.array([0, 0, 1])).tolist()
    [1.0, 1.0, 1.0]
    """
    bag_ids = _checked_ids("instance_level_loss", predictions, bag_means, bag_ids)
    return ((widened(predictions) - widened(bag_means)[bag_ids]) ** 2).astype(predictions.dtype)


def interpolated_bag_loss(
    predictions: Float[Array, "..."],
    bag_means: Float[Array, "..."],
    bag_ids: Int[Array, "..."],
    *,
    rho: Number = 0.5,
) -> Float[Array, "..."]:
    r"""Between both: the bag-level loss plus :math:`\rho` times the variance of the predictions within the bag.

    .. math:: (\bar y_B - \bar f_B)^2 + \frac{\rho}{|B|} \sum_{i \in B} \big(f(x_i) - \bar f_B\big)^2

    At :math:`\rho = 0` it is :func:`bag_level_loss`, at 1 the mean over the bag of :func:`instance_level_loss`, and
    linear between. A large :math:`\rho` means less variance and more bias: predictions shrink towards those of the bag.

    Args:
      predictions: ``(n,)``, :math:`f(x_i)`.
      bag_means: ``(m,)``, :math:`\bar y_B`.
      bag_ids: ``(n,)``, the bag of each example, in ``[0, m)``; bags may differ in size.
      rho: :math:`\rho` ≥ 0; may be traced.

    Returns:
      ``(m,)``, one loss for each *bag*, in the dtype of the predictions. A bag without examples has the loss 0.

    Raises:
      ValueError, TypeError: shapes that disagree, a bag or rho out of range, or bags that are no integers.

    Source: Javanmard, Chen, Mirrokni, Badanidiyuru, Fu (2024), arXiv 2401.11081.

    >>> interpolated_bag_loss(jnp.array([1.0, 3.0, 5.0]), jnp.array([2.0, 4.0]), jnp.array([0, 0, 1]), rho=0.5).tolist()
    [0.5, 1.0]
    """
    bag_ids = _checked_ids("interpolated_bag_loss", predictions, bag_means, bag_ids)
    check_finite_number("rho", rho, low=0.0)
    f, m = widened(predictions), len(bag_means)
    mean = segment_mean(f, bag_ids, m)
    within = segment_mean((f - mean[bag_ids]) ** 2, bag_ids, m)
    some = jax.ops.segment_sum(jnp.ones_like(f), bag_ids, m) > 0
    return jnp.where(some, (widened(bag_means) - mean) ** 2 + rho * within, 0.0).astype(predictions.dtype)


def interpolated_bag_ridge(
    x: Float[Array, "..."],
    bag_means: Float[Array, "..."],
    bag_ids: Int[Array, "..."],
    *,
    rho: Number = 0.5,
    ridge: Number = 0.0,
) -> Float[Array, "..."]:
    r"""The linear model that minimizes the interpolated loss, for bags of any size, in closed form.

    .. math:: \min_b \sum_B \frac{|B|}{n} \ell_B(Xb) + \lambda \|b\|^2: \qquad
       b = \big(X^\top (P + \rho (I - P)) X + n \lambda I\big)^{-1} X^\top P y

    where :math:`P` replaces each entry by the mean over its bag. For bags of one size :math:`|B|/n = 1/m`.

    Args:
      x: ``(n, d)`` inputs.
      bag_means: ``(m,)``.
      bag_ids: ``(n,)``, in ``[0, m)``.
      rho: :math:`\rho` ≥ 0; may be traced.
      ridge: :math:`\lambda` ≥ 0; may be traced.

    Returns:
      ``(d,)``; not finite where the matrix is singular, as at :math:`\rho = \lambda = 0` with fewer bags than ``d``.

    Raises:
      ValueError, TypeError: shapes that disagree, a bag or a number out of range, or bags that are no integers.

    Source: Javanmard, Chen, Mirrokni, Badanidiyuru, Fu (2024), arXiv 2401.11081.

    >>> x, ids = jnp.array([[1.0], [3.0]]), jnp.array([0, 0])
    >>> [round(float(interpolated_bag_ridge(x, jnp.array([4.0]), ids, rho=rho)[0]), 4) for rho in (0.0, 1.0)]
    [2.0, 1.6]
    """
    if x.ndim != 2:
        raise ValueError(f"interpolated_bag_ridge: x needs shape (examples, features), got {x.shape}")
    bag_ids = _checked_ids("interpolated_bag_ridge", x[:, 0], bag_means, bag_ids, "the rows of x")
    check_finite_number("rho", rho, low=0.0)
    check_finite_number("ridge", ridge, low=0.0)
    rows, y = widened(x), widened(bag_means)[bag_ids]
    means = segment_mean(rows, bag_ids, len(bag_means))[bag_ids]
    within = rows - means
    # the solution is only as good as these products: not rounded to less than single precision on accelerators
    between, inside, moment = (
        jnp.matmul(a.T, b, precision="highest") for a, b in ((means, means), (within, within), (means, y))
    )
    gram = between + rho * inside + ridge * len(x) * jnp.eye(x.shape[1], dtype=rows.dtype)
    return jax.scipy.linalg.solve(gram, moment, assume_a="pos").astype(x.dtype)


def private_bag_means(
    key: Key,
    y: Float[Array, "..."],
    bag_ids: Int[Array, "..."],
    *,
    num_bags: int,
    epsilon: Number,
    clip: Number,
) -> Float[Array, "..."]:
    r"""Bag means that are :math:`\varepsilon`-differentially private in each response: clipped, with Laplace noise.

    .. math:: \bar y_B + \mathrm{Laplace}\Big(\frac{2C}{|B|\,\varepsilon}\Big), \qquad y_i \in [-C, C]

    A response changes only the mean of its own bag, by :math:`2C/|B|` at most. Bags and inputs are taken as known. The
    proof is for real numbers: the last digits of floating-point noise tell more (Mironov, 2012).

    Args:
      key: of the noise.
      y: ``(n,)`` responses.
      bag_ids: ``(n,)``, in ``[0, num_bags)``.
      num_bags: ≥ 1.
      epsilon: :math:`\varepsilon` > 0; may be traced.
      clip: :math:`C` ≥ 0; may be traced.

    Returns:
      ``(num_bags,)``, in the dtype of ``y``. A bag without examples has the noise of a bag of one.

    Raises:
      ValueError, TypeError: shapes that disagree, a bag or a number out of range, a key of the old kind.

    Source: Javanmard, Chen, Mirrokni, Badanidiyuru, Fu (2024), arXiv 2401.11081; Dwork et al. (2006) for the mechanism.

    >>> y, ids = jnp.array([0.5, 9.0]), jnp.array([0, 0])
    >>> how = dict(num_bags=1, clip=1.0)
    >>> round(float(private_bag_means(jax.random.key(0), y, ids, epsilon=1e6, **how)[0]), 3)  # (0.5 + 1) / 2
    0.75
    """
    check_key(key, where="private_bag_means")
    num_bags = static_int("num_bags", num_bags, low=1)
    bag_ids = _checked_ids("private_bag_means", y, jnp.zeros(num_bags), bag_ids, "y")
    check_finite_number("epsilon", epsilon, low=float(np.finfo(np.float32).tiny))
    check_finite_number("clip", clip, low=0.0)
    wide = jnp.clip(widened(y), -clip, clip)
    size = jnp.maximum(jax.ops.segment_sum(jnp.ones_like(wide), bag_ids, num_bags), 1)
    noise = jax.random.laplace(key, (num_bags,), wide.dtype) * 2 * clip / (size * epsilon)
    return (segment_mean(wide, bag_ids, num_bags) + noise).astype(y.dtype)
