"""AdaHessian: Adam with the diagonal of the Hessian, estimated by Hutchinson's method, in place of the gradient's
square."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Key, Number, Params, Scalar, check_decays, check_finite_number, check_key
from jaxtrain.core.numerics import run_if, static_int, zeros_accumulator
from jaxtrain.core.probes import hutchinson_diagonal
from jaxtrain.optimizers._arguments import leaves_like


class AdaHessianState(NamedTuple):
    """State of :func:`scale_by_adahessian`: completed updates, and the means of gradients and of squared Hessian
    diagonals, both shaped like the parameters and in float32 at least."""

    count: Int[Array, ""]
    mu: Params
    nu: Params


def _hutchinson(key: Key, grad_fn: Callable[[Params], Params], params: Params, num_samples: int) -> Params:
    return hutchinson_diagonal(key, lambda z: jax.jvp(grad_fn, (params,), (z,))[1], params, num_samples=num_samples)


def hutchinson_hessian_diag(
    key: Key, loss_fn: Callable[[Params], Scalar], params: Params, *, num_samples: int = 1
) -> Params:
    r"""An unbiased estimate of the diagonal of a Hessian, for the cost of a few gradients.

    .. math:: D = \frac1S \sum_{s=1}^S z_s \odot (H z_s), \qquad z_s \in \{-1, 1\}^d \text{ uniformly},
       \qquad \mathbb{E}\,D = \operatorname{diag}(H).

    :math:`H z` is the forward-mode derivative of the gradient, about two gradients' work. The variance of
    :math:`D_i` is :math:`\sum_{j \ne i} H_{ij}^2 / S`: a diagonal Hessian is found exactly by one probe.

    Args:
      key: one typed key.
      loss_fn: a twice differentiable ``params -> scalar``.
      params: where the Hessian is taken.
      num_samples: probes :math:`S`, ≥ 1; a Python integer.

    Returns:
      A tree like the parameters, in float32 at least.

    Raises:
      TypeError: the key is not a typed key.
      ValueError: fewer than one probe.

    Source: Bekas, Kokiopoulou, Saad (2007); Yao et al. (2021), arXiv 2006.00719.

    >>> def loss(x):
    ...     return jnp.sum(jnp.array([1.0, 2.0, 3.0]) * x**2)
    >>> hutchinson_hessian_diag(jax.random.key(0), loss, jnp.ones(3)).tolist()
    [2.0, 4.0, 6.0]
    """
    check_key(key, where="hutchinson_hessian_diag")
    return _hutchinson(key, jax.grad(loss_fn), params, num_samples)


def spatial_average(hessian_diag: Params, *, block_size: int | None = None, abs_before_average: bool = True) -> Params:
    r"""Averages a Hessian diagonal over blocks of parameters that act alike, and gives each its block's mean.

    Four-dimensional leaves are convolution kernels in Flax's layout (height, width, in, out): one block is the
    :math:`k_h \times k_w` window of an (in, out) pair. Matrices are cut, row by row, into blocks of ``block_size``
    consecutive entries; without it, and for every other rank, a block is one entry.

    Args:
      hessian_diag: a tree of arrays.
      block_size: length of the blocks of matrices, which must divide their sizes; the paper has 32 for
        transformers. PyTorch stores the transpose of a Flax kernel, so its blocks run along the inputs.
      abs_before_average: average :math:`|D|`, as the released code does; False: :math:`D`, as the paper writes.

    Returns:
      A tree like ``hessian_diag``.

    Raises:
      ValueError: ``block_size`` does not divide a matrix.

    Source: Yao et al. (2021), arXiv 2006.00719.

    >>> kernel = jnp.array([1.0, -2.0, 3.0, 6.0]).reshape(2, 2, 1, 1)
    >>> spatial_average(kernel).ravel().tolist()
    [3.0, 3.0, 3.0, 3.0]
    """
    size = None if block_size is None else static_int("block_size", block_size, low=1)

    def average(path: Any, d: Array) -> Array:
        if abs_before_average:
            d = jnp.abs(d)
        if d.ndim == 4:
            return jnp.broadcast_to(jnp.mean(d, axis=(0, 1), keepdims=True), d.shape)
        if d.ndim == 2 and size is not None:
            if d.size % size:
                name = jax.tree_util.keystr(path) or "the matrix"
                raise ValueError(f"block_size {size} does not divide the {d.size} entries of {name}, shape {d.shape}")
            blocks = jnp.mean(d.reshape(-1, size), axis=1)
            return jnp.repeat(blocks, size).reshape(d.shape)
        return d

    return jax.tree_util.tree_map_with_path(average, hessian_diag)


def scale_by_adahessian(
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-4,
    hessian_power: Number = 1.0,
    spatial_averaging: bool = True,
    update_period: Number = 1,
    *,
    block_size: int | None = None,
    num_samples: int = 1,
    abs_before_average: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""Rescales updates by the root mean square of the Hessian's diagonal.

    With :math:`D_t` from :func:`hutchinson_hessian_diag` on the gradient's own batch and :math:`\bar D_t` its
    :func:`spatial_average`,

    .. math::
       m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) \bar D_t^2, \qquad
       u_t = \frac{m_t / (1 - \beta_1^t)}{\big(v_t / (1 - \beta_2^t)\big)^{k/2} + \epsilon}.

    With ``update_period`` :math:`p` the Hessian is taken at updates 1, :math:`p+1`, :math:`2p+1` …; between them
    :math:`v` stands still, and its bias correction counts its own updates. :math:`k = 0` is momentum with bias
    correction, divided by :math:`1 + \epsilon`.

    The update wants the extra argument ``hessian_diag=`` (before averaging), or computes it from ``grad_fn=`` and
    ``key=``, which :func:`jaxtrain.training.make_step` gives. Inside ``optax.MultiSteps`` these belong to the last
    minibatch. Under ``optax.masked`` and ``optax.partition`` ``hessian_diag`` may have all leaves, whereas ``grad_fn`` is
    called with parameters that lack the others. Not differentiable in reverse mode where ``update_period`` is not the
    number 1.

    Args:
      b1: decay of the gradient's mean, in [0, 1).
      b2: decay of the mean of squared diagonals, in [0, 1).
      eps: added to the denominator after power and bias correction, ≥ 0.
      hessian_power: :math:`k`, in [0, 1].
      spatial_averaging: whether diagonals are averaged over blocks.
      update_period: updates between Hessians, ≥ 1.
      block_size: see :func:`spatial_average`.
      num_samples: probes for each Hessian.
      abs_before_average: see :func:`spatial_average`.

    Returns:
      A transformation with :class:`AdaHessianState`.

    Raises:
      ValueError: a number out of range; from its update: neither ``hessian_diag`` nor ``grad_fn`` and ``key``, or a
        ``hessian_diag`` that lacks an array of the gradients or has another shape there.

    Source: Yao, Gholami, Shen, Mustafa, Keutzer, Mahoney (2021), arXiv 2006.00719.

    >>> tx = scale_by_adahessian(eps=0.0)
    >>> g = jnp.array([4.0, 4.0])
    >>> u, _ = tx.update(g, tx.init(g), hessian_diag=jnp.array([2.0, -8.0]))
    >>> [round(x, 4) for x in u.tolist()]
    [2.0, 0.5]
    """
    check_decays(b1=b1, b2=b2)
    check_finite_number("eps", eps, low=0.0)
    check_finite_number("hessian_power", hessian_power, low=0.0, high=1.0)
    check_finite_number("update_period", update_period, low=1)
    static_int("num_samples", num_samples, low=1)
    if block_size is not None:
        static_int("block_size", block_size, low=1)
    always = isinstance(update_period, int) and update_period == 1

    def init(params):
        return AdaHessianState(jnp.zeros((), jnp.int32), zeros_accumulator(params), zeros_accumulator(params))

    def update(updates, state, params=None, *, hessian_diag=None, grad_fn=None, key=None, **extra_args):
        del extra_args
        if hessian_diag is None and (grad_fn is None or key is None or params is None):
            raise ValueError(
                "adahessian needs the Hessian's diagonal: call tx.update(grads, state, params, hessian_diag=…), or "
                "with grad_fn= (params -> gradients, on the same batch) and key=, from which it is estimated"
            )

        def second_moment(nu):
            if hessian_diag is not None:
                diag = leaves_like("adahessian: hessian_diag", updates, hessian_diag)
            else:
                check_key(key, where="adahessian")
                diag = _hutchinson(key, grad_fn, params, num_samples)
            if spatial_averaging:
                diag = spatial_average(diag, block_size=block_size, abs_before_average=abs_before_average)
            return jax.tree.map(lambda v, d: (b2 * v + (1 - b2) * d.astype(v.dtype) ** 2).astype(v.dtype), nu, diag)

        due = state.count % update_period == 0
        nu = second_moment(state.nu) if always else run_if(due, second_moment, state.nu)
        mu = jax.tree.map(lambda m, g: (b1 * m + (1 - b1) * g).astype(m.dtype), state.mu, updates)
        count = optax.safe_increment(state.count)
        hessians = state.count // update_period + 1

        def direction(g: Array, m: Float[Array, "..."], v: Float[Array, "..."]) -> Array:
            root = jnp.sqrt(v / (1 - b2**hessians)) ** hessian_power
            return (m / (1 - b1**count) / (root + eps)).astype(g.dtype)

        return jax.tree.map(direction, updates, mu, nu), AdaHessianState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init, update)


def adahessian(
    learning_rate: optax.ScalarOrSchedule = 0.15,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-4,
    hessian_power: Number = 1.0,
    weight_decay: Number = 0.0,
    *,
    mask: Any = None,
    spatial_averaging: bool = True,
    update_period: Number = 1,
    block_size: int | None = None,
    num_samples: int = 1,
    abs_before_average: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaHessian: :math:`\theta \leftarrow \theta - \eta\,(u_t + \lambda\,\theta)`, see :func:`scale_by_adahessian`.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule.
      b1, b2, eps, hessian_power: see :func:`scale_by_adahessian`.
      weight_decay: :math:`\lambda` ≥ 0, decoupled.
      mask: which parameters decay, as in ``optax.add_decayed_weights``.
      spatial_averaging, update_period, block_size, num_samples, abs_before_average: see :func:`scale_by_adahessian`.

    Returns:
      A transformation that wants ``hessian_diag=``, or ``grad_fn=`` and ``key=``.

    Raises:
      ValueError: as :func:`scale_by_adahessian`.

    Source: Yao, Gholami, Shen, Mustafa, Keutzer, Mahoney (2021), arXiv 2006.00719.

    One step solves a quadratic with a diagonal Hessian, whatever its condition:

    >>> def loss(x):
    ...     return 0.5 * jnp.sum(jnp.array([1.0, 1e4]) * x**2)
    >>> tx = adahessian(1.0, eps=0.0)
    >>> x = jnp.array([3.0, -2.0])
    >>> u, _ = tx.update(jax.grad(loss)(x), tx.init(x), x, grad_fn=jax.grad(loss), key=jax.random.key(0))
    >>> bool(jnp.abs(x + u).max() < 1e-3)
    True
    """
    check_finite_number("weight_decay", weight_decay, low=0.0)
    return optax.chain(
        scale_by_adahessian(
            b1,
            b2,
            eps,
            hessian_power,
            spatial_averaging,
            update_period,
            block_size=block_size,
            num_samples=num_samples,
            abs_before_average=abs_before_average,
        ),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
