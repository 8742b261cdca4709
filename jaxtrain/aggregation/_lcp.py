"""Linear complementarity problems, many at a time, by block principal pivoting."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def complementary(matrix: Float[Array, "m m"], q: Float[Array, "k m"]) -> Float[Array, "k m"]:
    """For each row of ``q`` the z ≥ 0 with y = M z + q ≥ 0 and z · y = 0; M is positive definite.

    Guess which z are free, solve the linear equations of these (one batched Cholesky factorisation), exchange what came
    out on the wrong side, and, where its number stops falling, exchange only the last one, which cannot cycle (Júdice &
    Pires 1994). Exact to rounding as soon as nothing is on the wrong side: in practice after 2 to 8 factorisations of
    O(m³) a row; 50 + 2 m are the bound. The tolerances are made for a diagonal and for a ``q`` of about 1.
    """
    m = matrix.shape[0]
    eye = jnp.eye(m, dtype=matrix.dtype)
    tolerance = 16 * jnp.finfo(matrix.dtype).eps

    def solve(free: Bool[Array, "k m"]) -> tuple[Array, Array]:
        both = free[:, :, None] & free[:, None, :]
        factor = jnp.linalg.cholesky(jnp.where(both, matrix, eye), symmetrize_input=False)
        rhs = jnp.where(free, -q, 0.0)[..., None]
        half = jax.lax.linalg.triangular_solve(factor, rhs, left_side=True, lower=True)
        z = jax.lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True)[..., 0]
        y = jnp.where(free, 0.0, q + jnp.matmul(z, matrix, precision="highest"))
        # the linear equations are met up to rounding: what is negative within it counts as zero
        slack = tolerance * (1 + jnp.sum(jnp.abs(z), axis=-1, keepdims=True))
        return z, jnp.where(free, z < -slack, y < -slack)

    def cond(carry):
        _, _, wrong, _, _, i = carry
        return wrong.any() & (i < 51 + 2 * m)

    def body(carry):
        free, _, _, fewest, chances, i = carry
        z, wrong = solve(free)
        count = wrong.sum(axis=-1)
        better = count < fewest
        chances = jnp.where(better, 3, chances - 1)
        last = jnp.arange(m) == (m - 1 - jnp.argmax(wrong[:, ::-1], axis=-1))[:, None]
        flip = wrong & (last | (chances >= 0)[:, None])
        return free ^ flip, z, wrong, jnp.minimum(count, fewest), chances, i + 1

    k = len(q)
    start = (q < 0, jnp.zeros_like(q), jnp.ones_like(q, bool), jnp.full(k, m + 1), jnp.full(k, 3), 0)
    _, z, *_ = jax.lax.while_loop(cond, body, start)
    return jnp.maximum(z, 0.0)
