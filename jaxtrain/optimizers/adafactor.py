"""Adafactor as its paper has it, of optax's parts: every matrix factored, relative step sizes, exact decays."""

import jax.numpy as jnp
import optax

from jaxtrain.core import Number, check_finite_number
from jaxtrain.core.numerics import static_int
from jaxtrain.optimizers._accumulators import in_accumulators


def relative_step_size(max_relative: Number = 1e-2, *, warmup: bool = False) -> optax.Schedule:
    r"""Adafactor's learning rate at step t: :math:`\rho_t = \min(10^{-2}, 1/\sqrt t)`.

    Args:
      max_relative: the :math:`10^{-2}`, the largest step relative to the parameters, > 0.
      warmup: the paper's other rule: :math:`\min(10^{-6} t, 1/\sqrt t)`; ``max_relative`` does not count then.

    Returns:
      A schedule over optax's counter, which is t - 1.

    Raises:
      ValueError: ``max_relative`` is negative or not finite.

    Source: Shazeer, Stern (2018), arXiv 1804.04235.

    >>> rho = relative_step_size()
    >>> [round(float(rho(t)), 6) for t in (0, 9_999, 39_999)]
    [0.01, 0.01, 0.005]
    """
    check_finite_number("max_relative", max_relative, low=0.0)

    def schedule(count):
        t = jnp.asarray(count + 1, jnp.result_type(float))
        return jnp.minimum(1e-6 * t if warmup else max_relative, 1 / jnp.sqrt(t))

    return schedule


def _decay(count: Number, exponent: Number) -> Number:
    """1 - t^-c, in the precision of the session: optax's own is single precision always."""
    return 1 - jnp.asarray(count + 1, jnp.result_type(float)) ** (-exponent)


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
    ``optax.adafactor`` is the same chain with other defaults: it factors only from 128 up, has no :math:`\rho_t`
    (without a learning rate the step is 1) and computes :math:`\beta_t` in single precision. Not-a-number gradients
    stay in the state.

    Args:
      learning_rate: :math:`\rho_t`, a number or a schedule; None: :func:`relative_step_size`.
      decay_exponent: the 0.8, in [0, 1].
      eps1: :math:`\epsilon_1`, added to the squares, ≥ 0.
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
    check_finite_number("clipping_threshold", clipping_threshold, low=1e-30)
    if b1 is not None:
        check_finite_number("b1", b1, low=0.0, high=1.0)
    least = static_int("min_dim_size_to_factor", min_dim_size_to_factor, low=1)
    rate = relative_step_size() if learning_rate is None else learning_rate
    return in_accumulators(
        optax.chain(
            optax.scale_by_factored_rms(
                decay_rate=decay_exponent, min_dim_size_to_factor=least, epsilon=eps1, decay_rate_fn=_decay
            ),
            optax.clip_by_block_rms(clipping_threshold),
            optax.scale_by_learning_rate(rate, flip_sign=False),
            optax.scale_by_param_block_rms(eps2),
            optax.identity() if b1 is None else optax.ema(b1, debias=False),
            optax.scale(-1.0),
        )
    )
