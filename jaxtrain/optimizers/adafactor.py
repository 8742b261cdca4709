"""Adafactor as its paper has it, with optax's state: every matrix factored, relative step sizes, exact decays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxtrain.core import Number, check_decays, check_finite_number
from jaxtrain.core.numerics import static_int, step_number
from jaxtrain.optimizers._accumulators import in_accumulators
from jaxtrain.optimizers._fused import map_leaves

_LEAST = float(np.finfo(np.float32).tiny)


def relative_step_size(max_relative: Number = 1e-2, *, warmup: bool = False) -> optax.Schedule:
    r"""Adafactor's learning rate at step t: :math:`\rho_t = \min(10^{-2}, 1/\sqrt t)`.

    Args:
      max_relative: the :math:`10^{-2}`, the largest step relative to the parameters, > 0.
      warmup: the paper's other rule: :math:`\min(10^{-6} t, 1/\sqrt t)`; ``max_relative`` does not count then.

    Returns:
      A schedule over optax's counter, which is t - 1.

    Raises:
      ValueError: ``max_relative`` is not positive and finite.

    Source: Shazeer, Stern (2018), arXiv 1804.04235.

    >>> rho = relative_step_size()
    >>> [round(float(rho(t)), 6) for t in (0, 9_999, 39_999)]
    [0.01, 0.01, 0.005]
    """
    check_finite_number("max_relative", max_relative, low=_LEAST)

    def schedule(count):
        t = step_number(count)
        return jnp.minimum(1e-6 * t if warmup else max_relative, 1 / jnp.sqrt(t))

    return schedule


def _decay(count: Number, exponent: Number) -> Number:
    """1 - t^-c, in the precision of the session: optax's own is single precision always."""
    return 1 - step_number(count) ** (-exponent)


def _scale_by_clipped_factored_rms(
    decay_exponent: Number, eps1: Number, threshold: Number, least: int
) -> optax.GradientTransformation:
    """optax's ``scale_by_factored_rms`` and ``clip_by_block_rms`` in one, with the state of the former.

    Nothing as large as a matrix is stored: its squares and what it is scaled to are computed again for each mean.
    """
    init = optax.scale_by_factored_rms(min_dim_size_to_factor=least).init

    def update(updates, state, params=None):
        del params
        decay = _decay(state.count, decay_exponent)

        def average(old, new):
            return (decay * old + (1 - decay) * (new + eps1)).astype(old.dtype)

        def scaled(g, factors):
            for factor in factors:
                g = g * factor
            return g

        def step(g, row, col, whole):
            if whole.shape == g.shape:
                whole = average(whole, g * g)
                factors = (whole**-0.5,)
            else:
                # of the two longest axes the means over the longer one go by rows
                short, long = (int(a) for a in np.argsort(g.shape)[-2:])
                row = average(row, jnp.mean(g * g, axis=long))
                again = jax.lax.optimization_barrier(g)
                col = average(col, jnp.mean(again * again, axis=short))
                mean = jnp.mean(row, axis=short - (short > long), keepdims=True)
                # not (row / mean)^-1/2: a line of zeros beside entries of 10^4 would be ε₁/mean, zero in float32
                factors = jnp.expand_dims(row**-0.5 * mean**0.5, long), jnp.expand_dims(col**-0.5, short)
            root = jnp.sqrt(jnp.mean(scaled(g, factors) ** 2))
            u = scaled(*jax.lax.optimization_barrier((g, factors))) / jnp.maximum(1, root / threshold)
            return u.astype(g.dtype), row, col, whole

        updates, *moments = map_leaves(step, 4, updates, state.v_row, state.v_col, state.v)
        return updates, optax.FactoredState(optax.safe_increment(state.count), *moments)

    return optax.GradientTransformation(init, update)


def _scale_by_parameter_rms(least: Number) -> optax.GradientTransformation:
    """optax's ``scale_by_param_block_rms`` in one pass: its selection of entries is for derivatives."""

    def update(updates, params):
        if params is None:
            raise ValueError("adafactor's steps are relative to the parameters: call tx.update(updates, state, params)")
        return jax.tree.map(lambda u, p: u * jnp.maximum(jnp.sqrt(jnp.mean(p * p)), least), updates, params)

    return optax.stateless(update)


def adafactor(
    learning_rate: optax.ScalarOrSchedule | None = None,
    *,
    decay_exponent: Number = 0.8,
    eps1: Number = 1e-30,
    eps2: Number = 1e-3,
    clipping_threshold: Number = 1.0,
    b1: Number | None = None,
    min_dim_size_to_factor: int = 2,
) -> optax.GradientTransformation:
    r"""Adafactor: second moments of a matrix from the means of its rows and columns, steps relative to the parameters.

    For an n × m matrix, with :math:`\beta_t = 1 - t^{-0.8}`, row means r, column means c and RMS the root mean square
    over a whole array:

    .. math::
       r_t = \beta_t r_{t-1} + (1 - \beta_t)\,\tfrac1m (G_t^2 + \epsilon_1)\,1_m, \quad
       c_t = \beta_t c_{t-1} + (1 - \beta_t)\,\tfrac1n 1_n^\top (G_t^2 + \epsilon_1), \quad
       \hat V_t = r_t c_t / \operatorname{mean}(r_t),

    .. math::
       U_t = G_t/\sqrt{\hat V_t}, \qquad \hat U_t = U_t / \max(1, \operatorname{RMS}(U_t)/d), \qquad
       X_t = X_{t-1} - \rho_t \max(\epsilon_2, \operatorname{RMS}(X_{t-1}))\,\hat U_t.

    Vectors and scalars keep a whole :math:`\hat V`. Arrays of more dimensions are factored over their two longest.
    ``optax.adafactor`` is the same with other defaults: it factors only from 128 up, has no :math:`\rho_t`
    (without a learning rate the step is 1), computes :math:`\beta_t` in single precision, and is not a number where a
    line of zeros along the longer axis meets entries above :math:`10^4`. Not-a-number gradients stay in the state, and
    so do entries above :math:`10^{19}`, whose squares single precision does not hold.

    Args:
      learning_rate: :math:`\rho_t`, a number or a schedule; None: :func:`relative_step_size`.
      decay_exponent: the 0.8, in [0, 1].
      eps1: :math:`\epsilon_1`, added to the squares, ≥ 0; with 0 gradients of zero are 0/0.
      eps2: :math:`\epsilon_2`, the least scale of the parameters, ≥ 0: without it, what is zero stays so.
      clipping_threshold: d, > 0.
      b1: decay of a mean of the scaled updates (Adafactor with momentum: one more number for each parameter); None: none.
      min_dim_size_to_factor: the shorter of the two axes must be at least so long. A Python integer.

    Returns:
      A transformation whose update needs ``params``; its state has n + m numbers for an n × m matrix, in float32 at
      least.

    Raises:
      ValueError: a number out of range.

    Source: Shazeer, Stern (2018), arXiv 1804.04235, algorithms 4 and 5.

    >>> tx = adafactor(0.5)
    >>> w, g = jnp.full((2, 2), 2.0), jnp.array([[1.0, 2.0], [3.0, 6.0]])  # G² has rank one: U is all ones
    >>> tx.update(g, tx.init(w), w)[0].round(4).tolist()
    [[-1.0, -1.0], [-1.0, -1.0]]
    """
    check_finite_number("decay_exponent", decay_exponent, low=0.0, high=1.0)
    check_finite_number("eps1", eps1, low=0.0)
    check_finite_number("eps2", eps2, low=0.0)
    check_finite_number("clipping_threshold", clipping_threshold, low=_LEAST)
    if b1 is not None:
        check_decays(b1=b1)
    least = static_int("min_dim_size_to_factor", min_dim_size_to_factor, low=1)
    rate = relative_step_size() if learning_rate is None else learning_rate
    return in_accumulators(
        optax.chain(
            _scale_by_clipped_factored_rms(decay_exponent, eps1, clipping_threshold, least),
            optax.scale_by_learning_rate(rate, flip_sign=False),
            _scale_by_parameter_rms(eps2),
            optax.identity() if b1 is None else optax.ema(b1, debias=False),
            optax.scale(-1.0),
        )
    )
