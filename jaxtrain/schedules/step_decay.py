"""Step decay, and what it makes of the stochastic heavy ball on a quadratic, computed exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxtrain.core import Key, Number, check_finite_number, check_key
from jaxtrain.core.numerics import as_floating


def step_decay_schedule(
    init_value: Number, total_steps: Number, *, num_stages: Number | None = None, decay: Number = 2.0
) -> optax.Schedule:
    r"""A rate that is divided by a constant after each of several stages of equal length.

    With :math:`n` stages of :math:`K = \lceil N/n \rceil` steps, at count :math:`k` (0 at the first step):

    .. math:: \eta_k = \eta_0 / C^{\min(\lfloor k/K \rfloor,\; n - 1)}

    With :math:`n = \log_C N` this is, for SGD on a least-squares problem, within a logarithm of the best that any method
    can do, and of the last iterate; for the heavy ball the authors take :math:`n = \log_C(N \sqrt\kappa)`, with the
    condition number :math:`\kappa`. ``optax.exponential_decay(staircase=True)`` is the same up to :math:`N`; it needs
    :math:`K` as a Python number.

    Args:
      init_value: :math:`\eta_0`.
      total_steps: :math:`N` ≥ 1.
      num_stages: :math:`n` ≥ 1, an integer; None: :math:`\max(1, \lceil \log_C N \rceil)`.
      decay: :math:`C` > 1.

    Returns:
      A schedule, count -> rate.

    Raises:
      ValueError: a number out of range.

    Source: Pan, Liu, Wang, Zhang (2023), arXiv 2312.14567; for SGD: Ge, Kakade, Kidambi, Netrapalli (2019), arXiv
    1904.12838.

    >>> schedule = step_decay_schedule(8.0, 9, num_stages=3)
    >>> [float(schedule(k)) for k in (0, 2, 3, 6, 8, 9)]
    [8.0, 8.0, 4.0, 2.0, 2.0, 2.0]
    """
    check_finite_number("init_value", init_value)
    check_finite_number("total_steps", total_steps, low=1)
    check_finite_number("decay", decay, low=1.0)
    if not isinstance(decay, jax.core.Tracer) and np.any(np.asarray(decay) == 1):
        raise ValueError("decay divides the rate and must be above 1, got 1")
    if num_stages is None:
        # the small number keeps a whole logarithm whole
        stages = jnp.log(jnp.asarray(total_steps, jnp.result_type(float))) / jnp.log(decay)
        num_stages = jnp.maximum(jnp.ceil(stages - 1e-5), 1).astype(jnp.int32)
    else:
        check_finite_number("num_stages", num_stages, low=1)
        if not isinstance(num_stages, jax.core.Tracer) and np.any(np.asarray(num_stages) % 1):
            raise ValueError(f"num_stages must be whole, got {num_stages}")
    length = -(-total_steps // num_stages)

    def schedule(count: Number) -> Float[Array, "..."]:
        stage = jnp.minimum(jnp.asarray(count) // length, num_stages - 1)
        return init_value / jnp.asarray(decay, jnp.result_type(float)) ** stage

    return schedule


def heavy_ball_momentum(condition: Number) -> Float[Array, "..."]:
    r"""The momentum that damps the flattest direction critically, at the rate 1/L.

    .. math:: \beta = \Big(1 - \frac{1}{\sqrt\kappa}\Big)^2

    With the rate :math:`\eta = 1/L` the mode of curvature :math:`\lambda` shrinks by :math:`\sqrt\beta` a step wherever
    :math:`\beta \ge (1 - \sqrt{\eta\lambda})^2`, hence all of them do.

    Args:
      condition: :math:`\kappa = L/\mu` ≥ 1.

    Returns:
      The momentum, in [0, 1).

    Raises:
      ValueError: a condition number below 1.

    Source: Polyak (1964), "Some methods of speeding up the convergence of iteration methods"; Pan et al. (2023), arXiv
    2312.14567.

    >>> round(float(heavy_ball_momentum(100.0)), 5)
    0.81
    """
    check_finite_number("condition", condition, low=1.0)
    return (1 - 1 / jnp.sqrt(jnp.asarray(condition, jnp.result_type(float)))) ** 2


def anisotropic_gradient(
    key: Key, error: Float[Array, "... d"], eigs: Float[Array, " d"], noise_var: Number
) -> Float[Array, "... d"]:
    r"""A gradient of a quadratic with noise in proportion to its curvature, in the coordinates of the eigenvectors.

    .. math:: g = \lambda \odot e + \xi, \qquad \mathbb{E}\,\xi\xi^\top = \sigma^2 \operatorname{diag}(\lambda)

    That is the noise of least squares: the gradient of an example is :math:`x\,(x^\top e - \epsilon)`.

    Args:
      key: one typed key.
      error: :math:`e = w - w^*`, several rows if need be.
      eigs: the eigenvalues :math:`\lambda` ≥ 0.
      noise_var: :math:`\sigma^2`, divided by the batch size.

    Returns:
      A gradient like ``error``.

    Raises:
      TypeError: the key is not a typed key.

    Source: Pan et al. (2023), arXiv 2312.14567.

    >>> g = anisotropic_gradient(jax.random.key(0), jnp.ones(2), jnp.array([4.0, 1.0]), 0.0)
    >>> g.tolist()
    [4.0, 1.0]
    """
    check_key(key, where="anisotropic_gradient")
    check_finite_number("noise_var", noise_var, low=0.0)
    return eigs * error + jnp.sqrt(noise_var * eigs) * jax.random.normal(key, error.shape, error.dtype)


def shb_excess_risk(
    eigs: Float[Array, " d"],
    init_error: Float[Array, " same_d"],
    noise_var: Number,
    *,
    lrs: Float[Array, " T"],
    momentum: Number = 0.0,
) -> Float[Array, " T+1"]:
    r"""The expected excess risk of the stochastic heavy ball on a quadratic, exactly, at every step.

    For :math:`f = \frac12 \sum_i \lambda_i e_i^2`, gradients as of :func:`anisotropic_gradient`, and

    .. math:: v_{t+1} = \beta v_t + \eta_t g_t, \qquad e_{t+1} = e_t - v_{t+1},

    the second moments :math:`S` of :math:`(e, v)` of each coordinate follow
    :math:`S \leftarrow M S M^\top + \eta_t^2 \sigma^2 \lambda\, b b^\top` with
    :math:`M = \begin{pmatrix} 1 - \eta_t\lambda & -\beta \\ \eta_t\lambda & \beta \end{pmatrix}` and
    :math:`b = (-1, 1)^\top`; the risk is :math:`\frac12 \sum_i \lambda_i S_{11}`. It is linear in the noise and in the
    squared start: ``noise_var=0`` gives the bias, ``init_error=0`` the variance.

    In optax this method is ``chain(scale_by_learning_rate(schedule), trace(momentum))``. ``optax.sgd`` has the rate behind the
    momentum, so that a step down shrinks the velocity too.

    Args:
      eigs: :math:`\lambda_i` ≥ 0.
      init_error: :math:`e_0`.
      noise_var: :math:`\sigma^2`, divided by the batch size.
      lrs: :math:`\eta_t`, one for each step.
      momentum: :math:`\beta`; 0: SGD.

    Returns:
      The risk before the first step and after each of the T.

    Raises:
      ValueError: the shapes of ``eigs`` and ``init_error`` differ, or a number is out of range.

    Source: Pan, Liu, Wang, Zhang (2023), arXiv 2312.14567.

    >>> shb_excess_risk(jnp.array([1.0]), jnp.array([2.0]), 0.0, lrs=jnp.array([0.5, 0.5])).tolist()
    [2.0, 0.5, 0.125]
    """
    eigs, init_error = map(as_floating, (eigs, init_error))
    if eigs.shape != init_error.shape:
        raise ValueError(f"eigs and init_error must have one shape, got {eigs.shape} and {init_error.shape}")
    check_finite_number("noise_var", noise_var, low=0.0)
    check_finite_number("momentum", momentum, low=0.0, high=1.0)

    def risk(see):
        return 0.5 * jnp.sum(eigs * see)

    def step(moments, eta):
        see, sev, svv = moments
        a, c, noise = 1 - eta * eigs, eta * eigs, eta**2 * noise_var * eigs
        moments = (
            a**2 * see - 2 * a * momentum * sev + momentum**2 * svv + noise,
            a * c * see + (a - c) * momentum * sev - momentum**2 * svv - noise,
            c**2 * see + 2 * c * momentum * sev + momentum**2 * svv + noise,
        )
        return moments, risk(moments[0])

    start = init_error**2
    _, risks = jax.lax.scan(step, (start, jnp.zeros_like(start), jnp.zeros_like(start)), jnp.asarray(lrs, start.dtype))
    return jnp.concatenate([risk(start)[None], risks])
