"""Eigenvalues of a symmetric matrix that is known by its products with vectors: Lanczos and its quadrature."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from jaxtrain.core.checks import check_key
from jaxtrain.core.numerics import static_int
from jaxtrain.core.probes import probe_keys, random_direction
from jaxtrain.core.types import Key, Params


class SpectralDensity(NamedTuple):
    """What :func:`stochastic_lanczos_quadrature` finds: for each probe nodes and weights; all weights add up to 1."""

    nodes: Float[Array, "probes steps"]
    weights: Float[Array, "probes steps"]


def lanczos_tridiagonal(
    matvec: Callable[[Params], Params], start: Params, *, num_steps: int
) -> tuple[Float[Array, " steps"], Float[Array, " steps-1"]]:
    r"""The tridiagonal matrix that a symmetric matrix is on the Krylov space of a vector.

    .. math:: \beta_k v_{k+1} = A v_k - \alpha_k v_k - \beta_{k-1} v_{k-1}, \qquad \alpha_k = v_k^\top A v_k, \qquad
       v_1 = v/\|v\|

    Every new vector is made orthogonal to all before, twice, as rounding asks for. The extremal eigenvalues of
    :math:`T = \operatorname{tridiag}(\beta, \alpha, \beta)` come from inside of the spectrum to those of :math:`A`, fast
    where these stand apart. Costs ``num_steps`` products and as many copies of the vector.

    Args:
      matvec: ``v -> A v`` on trees, A symmetric, such as ``lambda v: jax.jvp(jax.grad(loss), (params,), (v,))[1]``.
      start: the first vector, not zero.
      num_steps: the size of :math:`T`, ≥ 1; more than there are dimensions are cut to these.

    Returns:
      :math:`\alpha` and :math:`\beta`. Where the Krylov space ends early, :math:`\beta` is 0 and what follows has the
      eigenvalue :math:`\alpha_1` and no weight.

    Raises:
      ValueError: fewer than one step.

    Source: Lanczos (1950); Golub, Welsch (1969).

    >>> alpha, beta = lanczos_tridiagonal(lambda v: jnp.array([1.0, 3.0]) * v, jnp.ones(2), num_steps=2)
    >>> alpha.round(4).tolist(), beta.round(4).tolist()
    ([2.0, 2.0], [1.0])
    """
    flat, unravel = ravel_pytree(start)
    steps = min(static_int("num_steps", num_steps, low=1), flat.size)
    dtype = jnp.promote_types(flat.dtype, jnp.float32)
    precise = {"precision": jax.lax.Precision.HIGHEST}

    def orthogonal(v, basis):
        for _ in range(2):
            v = v - jnp.matmul(basis.T, jnp.matmul(basis, v, **precise), **precise)
        return v

    def step(carry, i):
        basis, v, first = carry
        basis = basis.at[i].set(v)
        image = ravel_pytree(matvec(unravel(v.astype(flat.dtype))))[0].astype(dtype)
        alpha = jnp.vdot(v, image, **precise)
        first = jnp.where(i == 0, alpha, first)
        # after the end of the Krylov space v is zero
        alpha = jnp.where(jnp.any(v != 0), alpha, first)
        rest = orthogonal(image, basis)
        beta = jnp.linalg.norm(rest)
        # what is left by rounding alone has no direction of its own
        beta = jnp.where(beta > 100 * jnp.finfo(dtype).eps * jnp.linalg.norm(image), beta, 0)
        return (basis, jnp.where(beta > 0, rest / jnp.where(beta > 0, beta, 1), 0), first), (alpha, beta)

    v = flat.astype(dtype)
    carry = jnp.zeros((steps, flat.size), dtype), v / jnp.linalg.norm(v), jnp.zeros((), dtype)
    _, (alpha, beta) = jax.lax.scan(step, carry, jnp.arange(steps))
    return alpha, beta[:-1]


def _tridiagonal(alpha: Array, beta: Array) -> Array:
    return jnp.diag(alpha) + jnp.diag(beta, 1) + jnp.diag(beta, -1)


def top_eigenvalue(
    key: Key, matvec: Callable[[Params], Params], like: Params, *, num_steps: int = 30
) -> Float[Array, ""]:
    """The largest eigenvalue of a symmetric matrix, from below: the largest of :func:`lanczos_tridiagonal` from a random
    start.

    Args:
      key: one typed key.
      matvec: ``v -> A v`` on trees.
      like: a tree with the shapes and dtypes of the vectors.
      num_steps: products with the matrix, ≥ 1.

    Raises:
      TypeError: the key is not a typed key.

    >>> round(float(top_eigenvalue(jax.random.key(0), lambda v: jnp.array([1.0, 5.0, -7.0]) * v, jnp.zeros(3))), 4)
    5.0
    """
    check_key(key, where="top_eigenvalue")
    start = random_direction(key, like, "gaussian")
    return jnp.linalg.eigvalsh(_tridiagonal(*lanczos_tridiagonal(matvec, start, num_steps=num_steps)))[-1]


def stochastic_lanczos_quadrature(
    key: Key,
    matvec: Callable[[Params], Params],
    like: Params,
    *,
    num_steps: int = 30,
    num_probes: int = 1,
) -> SpectralDensity:
    r"""The density of the eigenvalues of a symmetric matrix, as a sum of point masses.

    From each of :math:`S` random signs :math:`v_s` the Lanczos matrix :math:`T_s = U \operatorname{diag}(\theta) U^\top`:
    nodes :math:`\theta_k`, weights :math:`U_{1k}^2 / S`, so that for any function

    .. math:: \frac{\operatorname{tr} f(A)}{P} \approx \sum_{s,k} \frac{U_{s,1k}^2}{S}\, f(\theta_{s,k}),

    exactly :math:`v^\top f(A)\,v / P` for polynomials of degree below :math:`2 \cdot` ``num_steps``: the error is that of
    Hutchinson's trace. Costs ``num_steps`` products for each probe, one probe after the other.

    Args:
      key: one typed key.
      matvec: ``v -> A v`` on trees.
      like: a tree with the shapes and dtypes of the vectors; :math:`P` is the number of its entries.
      num_steps: nodes of each probe, ≥ 1.
      num_probes: :math:`S` ≥ 1.

    Returns:
      A :class:`SpectralDensity`.

    Raises:
      TypeError: the key is not a typed key.
      ValueError: fewer than one step or probe.

    Source: Ubaru, Chen, Saad (2017), "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature"; Granziol, Zohren,
    Roberts (2020), arXiv 2006.09092.

    >>> density = stochastic_lanczos_quadrature(jax.random.key(0), lambda v: jnp.array([1.0, 3.0]) * v, jnp.zeros(2))
    >>> [round(float(x), 3) for x in density.nodes[0]], [round(float(x), 3) for x in density.weights[0]]
    ([1.0, 3.0], [0.5, 0.5])
    """
    check_key(key, where="stochastic_lanczos_quadrature")
    probes = static_int("num_probes", num_probes, low=1)

    def one(key):
        start = random_direction(key, like, "rademacher")
        nodes, vectors = jnp.linalg.eigh(_tridiagonal(*lanczos_tridiagonal(matvec, start, num_steps=num_steps)))
        return nodes, vectors[0] ** 2 / probes

    return SpectralDensity(*jax.lax.map(one, probe_keys(key, probes)))
