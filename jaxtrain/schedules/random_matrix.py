"""Learning rates as a function of the batch size, from what noise does to the spectrum of a Hessian."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxtrain.core import Batch, Key, Number, Params, check_finite_number, check_key, check_leading_axes
from jaxtrain.core.numerics import static_int
from jaxtrain.core.probes import mean_over, probe_keys, random_direction


def _check_batch(batch_size: Number, num_data: Number, *, all_allowed: bool) -> None:
    check_finite_number("batch_size", batch_size, low=1)
    if isinstance(batch_size, jax.core.Tracer) or isinstance(num_data, jax.core.Tracer):
        return
    b, n = np.asarray(batch_size), np.asarray(num_data)
    if not np.all(b <= n if all_allowed else b < n):
        raise ValueError(
            f"batch_size must be {'at most' if all_allowed else 'below'} num_data, got {batch_size} of {num_data}"
        )


def hessian_noise_variance(
    key: Key,
    matvec: Callable[[Batch, Params], Params],
    batches: Batch,
    like: Params,
    *,
    batch_size: Number,
    num_data: Number = float("inf"),
    num_probes: int = 1,
) -> Float[Array, ""]:
    r"""How much an entry of the Hessian differs from example to example: the variance of the noise model.

    With batch Hessians :math:`H_b = H + E`, where E is symmetric with variance :math:`s^2 = \sigma^2 (1/b - 1/N)` in
    each entry, :math:`\mathbb{E}\|E v\|^2 = (P + 1)\,s^2` for unit vectors. From :math:`k` batches and random
    signs :math:`v`, in :math:`P` dimensions,

    .. math:: \sigma^2 = \frac{\sum_i \operatorname{Var}_k (H_{b,k}\, v)_i}{P\,(P + 1)\,(1/b - 1/N)} .

    Args:
      key: one typed key.
      matvec: ``(batch, v) -> H_b v`` on trees.
      batches: independent batches, stacked along a leading axis, at least 2.
      like: a tree with the shapes and dtypes of the vectors.
      batch_size: :math:`b`, examples in each batch.
      num_data: :math:`N` > b; infinite for examples that are drawn with replacement.
      num_probes: vectors over which is averaged, ≥ 1.

    Returns:
      :math:`\sigma^2`.

    Raises:
      TypeError: the key is not a typed key.
      ValueError: fewer than 2 batches, or a number out of range.

    Source: Granziol, Zohren, Roberts (2020), arXiv 2006.09092, whose diagonal entries have the same variance; here, as
    for the Gaussian orthogonal ensemble, they have twice that.

    >>> matrices = jnp.array([[[1.0, 2.0], [2.0, 1.0]], [[1.0, -2.0], [-2.0, 1.0]]])
    >>> matvec = lambda batch, v: batch @ v
    >>> round(float(hessian_noise_variance(jax.random.key(0), matvec, matrices, jnp.zeros(2), batch_size=1)), 3)  # 16 / 6
    2.667
    """
    check_key(key, where="hessian_noise_variance")
    count = check_leading_axes(batches, where="hessian_noise_variance", axis_name="stack of batches")
    if count < 2:
        raise ValueError(f"hessian_noise_variance: a variance needs at least 2 batches, got {count}")
    _check_batch(batch_size, num_data, all_allowed=False)
    size = sum(x.size for x in jax.tree.leaves(like))

    def one(key):
        v = random_direction(key, like, "rademacher")
        images = jax.lax.map(lambda batch: matvec(batch, v), batches)
        return optax.tree.sum(jax.tree.map(lambda x: jnp.var(x, axis=0, ddof=1), images))

    total = mean_over(one, probe_keys(key, static_int("num_probes", num_probes, low=1)))
    return total / (size * (size + 1) * (1 / batch_size - 1 / num_data))


def batch_spike(
    lam: Number, *, noise_var: Number, num_params: Number, batch_size: Number, num_data: Number = float("inf")
) -> Float[Array, "..."]:
    r"""The largest eigenvalue of a batch's Hessian, predicted from that of all data.

    With :math:`s^2 = \sigma^2 (1/b - 1/N)` (the spiked Wigner model):

    .. math:: \lambda' = \begin{cases} \lambda + P s^2 / \lambda & \lambda > \sqrt P\,s, \\
       2 \sqrt P\,s & \text{else: the spike is lost in the bulk, of which this is the edge.} \end{cases}

    Args:
      lam: :math:`\lambda` ≥ 0, the eigenvalue of the Hessian over all data.
      noise_var: :math:`\sigma^2`, see :func:`hessian_noise_variance`.
      num_params: :math:`P`.
      batch_size: :math:`b` ≥ 1.
      num_data: :math:`N` ≥ b.

    Returns:
      :math:`\lambda'`.

    Raises:
      ValueError: a number out of range.

    Source: Granziol, Zohren, Roberts (2020), arXiv 2006.09092.

    >>> [batch_spike(4.0, noise_var=1.0, num_params=16.0, batch_size=b).item() for b in (1, 4)]
    [8.0, 5.0]
    """
    check_finite_number("lam", lam, low=0.0)
    check_finite_number("noise_var", noise_var, low=0.0)
    check_finite_number("num_params", num_params, low=1)
    _check_batch(batch_size, num_data, all_allowed=True)
    lam = jnp.asarray(lam, jnp.result_type(float))
    power = num_params * noise_var * (1 / jnp.asarray(batch_size, lam.dtype) - 1 / num_data)
    outside = lam**2 > power
    return jnp.where(outside, lam + power / jnp.where(outside, lam, 1), 2 * jnp.sqrt(power))


def max_learning_rate(
    batch_size: Number,
    *,
    lam_full: Number,
    noise_var: Number,
    num_params: Number,
    num_data: Number = float("inf"),
    momentum: Number = 0.0,
    kind: str = "sgd",
    grad_std: Number = 1.0,
) -> Float[Array, "..."]:
    r"""The largest stable learning rate for a batch size.

    ``sgd``: :math:`\eta = 2(1 + \mu)/\lambda'_b`, of :func:`batch_spike`. It grows like :math:`\sqrt b` where the spike is
    lost in the noise, below :math:`b = P\sigma^2/\lambda^2`, and above it rises from :math:`(1 + \mu)/\lambda` to
    :math:`2(1 + \mu)/\lambda`.
    ``adaptive``: a method that divides by the root of the second moment of the gradient (Adam), as long as that is noise,
    :math:`\sigma_g/\sqrt b`: :math:`\eta = 2(1 + \mu)\,\sigma_g / (\sqrt b\,\lambda'_b)`.

    The paper's linear rule for SGD and square root rule for Adam take :math:`\lambda' \approx P\sigma^2/(b\lambda)`, the
    correction of the spike without the spike, which in this model is never the larger part of it.

    Args:
      batch_size: :math:`b` ≥ 1.
      lam_full, noise_var, num_params, num_data: see :func:`batch_spike`.
      momentum: :math:`\mu` in [0, 1], of heavy ball.
      kind: ``sgd`` or ``adaptive``.
      grad_std: :math:`\sigma_g`, the standard deviation of an entry of an example's gradient.

    Returns:
      :math:`\eta`.

    Raises:
      ValueError: a number out of range, or an unknown kind.

    Source: Granziol, Zohren, Roberts (2020), arXiv 2006.09092.

    >>> rates = max_learning_rate(jnp.array([1.0, 4.0]), lam_full=0.5, noise_var=1.0, num_params=100.0)
    >>> [round(float(x), 3) for x in rates]  # all noise: the edge falls like 1/√b
    [0.1, 0.2]
    """
    if kind not in ("sgd", "adaptive"):
        raise ValueError(f"kind must be 'sgd' or 'adaptive', got {kind!r}")
    check_finite_number("momentum", momentum, low=0.0, high=1.0)
    check_finite_number("grad_std", grad_std, low=0.0)
    top = batch_spike(lam_full, noise_var=noise_var, num_params=num_params, batch_size=batch_size, num_data=num_data)
    rate = 2 * (1 + momentum) / top
    return rate if kind == "sgd" else rate * grad_std / jnp.sqrt(jnp.asarray(batch_size, rate.dtype))
