"""Low-rank matrices from measurements of which some are wrong: the subgradient method from a small start."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxtrain.core import Number, Scalar, check_finite_number
from jaxtrain.core.numerics import static_int
from jaxtrain.optimizers._inner import ratio


class RecoveryResult(NamedTuple):
    """The last factor, and the losses before each step."""

    factor: Float[Array, "d rank"]
    losses: Float[Array, " steps"]


def _measure(A: Array, x: Array) -> Array:
    return jnp.einsum("mij,ij->m", A, x, precision=jax.lax.Precision.HIGHEST)


def _sign_average(A: Array, residuals: Array) -> Array:
    """``(1/m) Σ sign(residual_i) (A_i + A_iᵀ)/2``."""
    mean = jnp.einsum("m,mij->ij", jnp.sign(residuals), A, precision=jax.lax.Precision.HIGHEST) / A.shape[0]
    return (mean + mean.T) / 2


def _check_measurements(where: str, A: Array, y: Array, factor: Array | None = None) -> None:
    if A.ndim != 3 or A.shape[1] != A.shape[2] or y.shape != A.shape[:1]:
        raise ValueError(
            f"{where} needs measurement matrices (m, d, d) and m measurements, got {A.shape} and {y.shape}"
        )
    if factor is not None and (factor.ndim != 2 or len(factor) != A.shape[1]):
        raise ValueError(f"{where} needs a factor ({A.shape[1]}, rank), got shape {factor.shape}")


def l1_matrix_recovery_loss(U: Float[Array, "d rank"], A: Float[Array, "m d1 d2"], y: Float[Array, " n"]) -> Scalar:
    r"""The mean absolute error of measurements of a positive semidefinite matrix :math:`U U^\top`.

    .. math:: f(U) = \frac1m \sum_i |\langle A_i, U U^\top \rangle - y_i|

    Args:
      U: the factor ``(d, rank)``.
      A: measurement matrices ``(m, d, d)``.
      y: measurements ``(m,)``.

    Raises:
      ValueError: shapes that do not fit.

    Source: Ma, Fattahi (2022), arXiv 2202.08788.

    >>> float(l1_matrix_recovery_loss(jnp.array([[2.0]]), jnp.ones((2, 1, 1)), jnp.array([4.0, 1.0])))
    1.5
    """
    _check_measurements("l1_matrix_recovery_loss", A, y, U)
    return jnp.mean(jnp.abs(_measure(A, U @ U.T) - y))


def sign_rip_deviation(
    A: Float[Array, "m d1 d2"], X: Float[Array, "d d"], noise: Float[Array, " n"] | None = None
) -> Scalar:
    r"""How far the signs of measurements are from pointing along a matrix (Sign-RIP).

    .. math:: \frac{\big\| D(X) - \psi \frac{X}{\|X\|_F} \big\|_2}{\psi}, \qquad
       D(X) = \frac1m \sum_i \operatorname{sign}(\langle A_i, X\rangle - s_i)\,\frac{A_i + A_i^\top}{2}, \qquad
       \psi = \Big\langle D(X), \frac{X}{\|X\|_F} \Big\rangle

    For Gaussian :math:`A_i` the expectation of D is along :math:`X`, with
    :math:`\psi = \sqrt{2/\pi}\;\mathbb{E}\exp(-s^2 / 2\|X\|_F^2)`; it holds for the whole of low-rank matrices at once
    from some :math:`d r^2` measurements on.

    Args:
      A: measurement matrices ``(m, d, d)``.
      X: a symmetric matrix, not zero.
      noise: errors :math:`s_i` of the measurements; None: none.

    Returns:
      The deviation in spectral norm; below 1 the subgradient points downhill.

    Raises:
      ValueError: shapes that do not fit.

    Source: Ma, Fattahi (2022), arXiv 2202.08788.

    >>> A = jnp.stack([jnp.diag(jnp.array([1.0, 0.0])), jnp.diag(jnp.array([0.0, 1.0]))])
    >>> round(float(sign_rip_deviation(A, jnp.eye(2))), 3)
    0.0
    """
    errors = jnp.zeros(A.shape[0], A.dtype) if noise is None else noise
    _check_measurements("sign_rip_deviation", A, errors)
    if X.shape != A.shape[1:]:
        raise ValueError(f"sign_rip_deviation needs a matrix {A.shape[1:]}, got shape {X.shape}")
    direction = X / jnp.linalg.norm(X)
    d = _sign_average(A, _measure(A, X) - errors)
    psi = jnp.sum(d * direction)
    return jnp.linalg.norm(d - psi * direction, 2) / psi


def sign_spectral_init(
    A: Float[Array, "m d1 d2"], y: Float[Array, " n"], *, rank: int, scale: Number
) -> Float[Array, "d rank"]:
    r"""A small start whose columns point to where the signs of the measurements do.

    With :math:`C = \frac1m \sum_i \operatorname{sign}(y_i) \frac{A_i + A_i^\top}{2} = V \Lambda V^\top`, the
    :math:`r'` largest eigenvalues and :math:`\alpha` the scale:

    .. math:: U_0 = \alpha\,V_{r'} \sqrt{\max(\Lambda_{r'}, 0) / \|C\|_F}

    Args:
      A: measurement matrices ``(m, d, d)``.
      y: measurements ``(m,)``.
      rank: columns :math:`r'`, 1 to d; as many as d do no harm.
      scale: :math:`\alpha`, small: the error that stays in the directions beyond the true rank is of its order.

    Returns:
      The factor ``(d, rank)``; zero, where nothing moves, if all measurements are.

    Raises:
      ValueError: shapes that do not fit, or a rank out of range.

    Source: Ma, Fattahi (2022), arXiv 2202.08788.

    >>> A = jnp.stack([jnp.diag(jnp.array([3.0, 0.0])), jnp.diag(jnp.array([0.0, 4.0]))])
    >>> u = sign_spectral_init(A, jnp.array([1.0, 1.0]), rank=1, scale=1.0)  # C = diag(3, 4)/2, of norm 5/2
    >>> [round(float(x), 3) for x in u[:, 0]]
    [0.0, 0.894]
    """
    _check_measurements("sign_spectral_init", A, y)
    rank = static_int("rank", rank, low=1)
    if rank > A.shape[1]:
        raise ValueError(f"rank must be at most the dimension {A.shape[1]}, got {rank}")
    check_finite_number("scale", scale, low=0.0)
    c = _sign_average(A, y)
    eigs, vectors = jnp.linalg.eigh(c)
    eigs, vectors = eigs[::-1][:rank], vectors[:, ::-1][:, :rank]
    # the sign of an eigenvector is of no matter: its largest entry is made positive
    largest = jnp.take_along_axis(vectors, jnp.argmax(jnp.abs(vectors), axis=0)[None], axis=0)
    return scale * vectors * jnp.sign(largest) * jnp.sqrt(ratio(jnp.maximum(eigs, 0), jnp.linalg.norm(c)))


def subgm(
    A: Float[Array, "m d1 d2"],
    y: Float[Array, " n"],
    start: Float[Array, "d rank"],
    *,
    learning_rate: optax.ScalarOrSchedule,
    num_steps: int,
    loss_proportional: bool = False,
) -> RecoveryResult:
    r"""The subgradient method on the mean absolute error of a factored matrix.

    .. math:: U \leftarrow U - 2 \eta_t\,D_t\,U, \qquad D_t = \frac1m \sum_i
       \operatorname{sign}(\langle A_i, U U^\top\rangle - y_i)\,\frac{A_i + A_i^\top}{2}

    that is, by :math:`\eta_t` times the subgradient of :func:`l1_matrix_recovery_loss`. From a small start it finds the
    matrix whatever the number of columns, though up to nearly half of the measurements be arbitrary: directions of the
    true rank grow, the others stay as small as they were.

    Args:
      A: measurement matrices ``(m, d, d)``.
      y: measurements ``(m,)``.
      start: the first factor, see :func:`sign_spectral_init`.
      learning_rate: :math:`\eta_t`, a number or a schedule: geometric, ``optax.exponential_decay(eta0, 1, rho)``, where
        measurements are noisy.
      num_steps: steps, ≥ 1.
      loss_proportional: whether :math:`\eta_t` is multiplied by the loss :math:`f(U_t)`: for exact measurements.

    Returns:
      A :class:`RecoveryResult`.

    Raises:
      ValueError: shapes that do not fit, or a number out of range.
      TypeError: a factor that is not floating.

    Source: Ma, Fattahi (2022), arXiv 2202.08788.

    >>> found = subgm(jnp.ones((1, 1, 1)), jnp.array([4.0]), jnp.array([[1.0]]), learning_rate=0.1, num_steps=2)
    >>> round(float(found.factor[0, 0]), 3), [round(float(x), 3) for x in found.losses]  # 1 + 0.2, then + 0.2 · 1.2
    (1.44, [3.0, 2.56])
    """
    _check_measurements("subgm", A, y, start)
    if not jnp.issubdtype(start.dtype, jnp.floating):
        raise TypeError(f"subgm: the factor moves and must be floating, got {start.dtype}")
    if not callable(learning_rate):
        check_finite_number("learning_rate", learning_rate, low=0.0)

    def step(u, k):
        residuals = _measure(A, u @ u.T) - y
        loss = jnp.mean(jnp.abs(residuals))
        eta = learning_rate(k) if callable(learning_rate) else learning_rate
        eta = eta * loss if loss_proportional else eta
        return (u - 2 * eta * _sign_average(A, residuals) @ u).astype(u.dtype), loss

    steps = static_int("num_steps", num_steps, low=1)
    return RecoveryResult(*jax.lax.scan(step, start, jnp.arange(steps)))
