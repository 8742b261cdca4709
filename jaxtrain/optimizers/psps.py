"""PSPS: Polyak's step size in the norm of a diagonal preconditioner, with slack for data that cannot be fitted."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, Params, check_decays, check_finite_number, check_key, check_same_structure
from jaxtrain.core.numerics import accumulator_dtype, anew, run_if, static_int, zeros_accumulator
from jaxtrain.core.probes import hutchinson_diagonal
from jaxtrain.optimizers._inner import check_cap, common_dtype, inner, ratio, the_value

PRECONDITIONERS = ("hutchinson", "adam", "adagrad", None)
SLACKS = (None, "l1", "l2")


class PspsState(NamedTuple):
    """State of :func:`scale_by_preconditioned_polyak`: completed updates; what the preconditioner comes from, shaped
    like the parameters in float32 at least, or ``()`` without one; and the slack, in the loss's unit."""

    count: Int[Array, ""]
    diagonal: Params
    slack: Float[Array, ""]


def scale_by_preconditioned_polyak(
    preconditioner: str | None = "hutchinson",
    *,
    f_star: Number = 0.0,
    max_lr: Number = jnp.inf,
    slack: str | None = None,
    slack_lambda: Number = 0.01,
    beta: Number = 0.999,
    alpha: Number = 1e-4,
    eps: Number = 1e-8,
    init_probes: int = 100,
) -> optax.GradientTransformationExtraArgs:
    r"""Divides the gradient by a positive diagonal :math:`B_t` and scales it by Polyak's step size in that norm.

    With :math:`\|g\|_*^2 = \sum_i g_i^2 / B_{t,i}` and the loss :math:`f` of the batch over :math:`f^*`:

    ======  ==================================================  =====================================================
    slack   step size :math:`\gamma_t`                          slack variable, :math:`s_0 = 0`
    ======  ==================================================  =====================================================
    None    :math:`f_+ / \|g\|_*^2`
    ``l2``  :math:`(f - \hat\lambda s)_+ /                      :math:`s \leftarrow \hat\lambda (s + \gamma_t)`,
            (\hat\lambda + \|g\|_*^2)`                          :math:`\hat\lambda = 1/(1 + \lambda)`
    ``l1``  :math:`\min\big(\gamma',\ f_+/\|g\|_*^2\big)`,      :math:`s \leftarrow (s - \lambda + \gamma')_+`
            :math:`\gamma' = (f - s + \lambda)_+ /
            (1 + \|g\|_*^2)`
    ======  ==================================================  =====================================================

    and :math:`u_t = \min(\gamma_t, \gamma_{\max})\, B_t^{-1} g_t`. Without slack :math:`x - u` is the point nearest to
    x, in the norm of :math:`B_t`, at which the linearised loss is :math:`f^*`; with it, where it is at most s, which is
    paid for. Rescaling coordinates does not change the path where :math:`B_t` is the Hessian's exact diagonal.

    ``hutchinson``: :math:`B_t = \max(|D_t|, \alpha)`, :math:`D_t = \beta D_{t-1} + (1 - \beta)\, z \odot H_t z`, from
    the mean :math:`D_0` of ``init_probes`` probes. ``adam``: :math:`B_t = \sqrt{\hat v_t} + \epsilon` with
    bias-corrected :math:`v_t = \beta v_{t-1} + (1 - \beta) g_t^2`. ``adagrad``: the root of the sum of squares, plus
    :math:`\epsilon`. None: :math:`B = 1`, which is the stochastic Polyak step size. All know the newest gradient.

    There is no learning rate. The update wants ``value=`` and, for Hutchinson's diagonal, ``grad_fn=`` and ``key=``,
    which :func:`jaxtrain.training.make_step` gives, or ``hessian_diag=`` in their place; then :math:`D_0` is the first
    of them. Inside ``optax.MultiSteps`` these belong to the last minibatch. A gradient whose square overflows moves nothing,
    and leaves Adam's and AdaGrad's diagonals infinite: nothing moves from then on. Gradients that are not finite spoil
    updates or state: put ``optax.apply_if_finite`` around it.

    Args:
      preconditioner: ``"hutchinson"``, ``"adam"``, ``"adagrad"`` or None.
      f_star: a lower bound of the loss, 0 where the data can be fitted.
      max_lr: :math:`\gamma_{\max}` > 0, may be infinite.
      slack: None, ``"l1"`` or ``"l2"``.
      slack_lambda: :math:`\lambda` ≥ 0, the price of slack.
      beta: decay of Hutchinson's and Adam's means, in [0, 1).
      alpha: the least Hutchinson's diagonal can be, > 0.
      eps: added to Adam's and AdaGrad's roots, ≥ 0.
      init_probes: for :math:`D_0`, ≥ 1; a Python integer.

    Returns:
      A transformation with :class:`PspsState`, as large as the parameters.

    Raises:
      ValueError: a number out of range, an unknown name; from its update: an extra argument is missing, or a
        ``hessian_diag`` unlike the gradients.

    Source: Abdukhakimov, Xiang, Kamzolov, Takáč (2023), "Stochastic Gradient Descent with Preconditioned Polyak
    Step-size", arXiv 2310.02093.

    >>> h, x = jnp.array([1.0, 1e4]), jnp.array([3.0, -2.0])
    >>> tx = scale_by_preconditioned_polyak()
    >>> u, _ = tx.update(h * x, tx.init(x), x, value=0.5 * jnp.sum(h * x**2), hessian_diag=h)
    >>> (x - u).tolist()  # halves the distance to the minimum, whatever the condition
    [1.5, -1.0]
    """
    if preconditioner not in PRECONDITIONERS:
        raise ValueError(f"preconditioner must be one of {PRECONDITIONERS}, got {preconditioner!r}")
    if slack not in SLACKS:
        raise ValueError(f"slack must be one of {SLACKS}, got {slack!r}")
    check_finite_number("f_star", f_star)
    check_cap("max_lr", max_lr)
    check_cap("alpha", alpha)
    check_finite_number("slack_lambda", slack_lambda, low=0.0)
    check_decays(beta=beta)
    check_finite_number("eps", eps, low=0.0)
    probes = static_int("init_probes", init_probes, low=1)
    positive = isinstance(eps, int | float) and eps > 0

    def init(params):
        diagonal = () if preconditioner is None else zeros_accumulator(params)
        return PspsState(jnp.zeros((), jnp.int32), diagonal, jnp.zeros((), common_dtype(params)))

    def hessian_diagonals(updates, params, hessian_diag, grad_fn, key):
        """The newest estimate of the Hessian's diagonal, and how to get the one before the first."""
        if hessian_diag is not None:
            same = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.float32), (updates, hessian_diag))
            check_same_structure(*same, where="psps: gradients and hessian_diag")
            newest = jax.tree.map(lambda d: d.astype(accumulator_dtype(d)), hessian_diag)
            return newest, lambda: newest
        if grad_fn is None or key is None or params is None:
            raise ValueError(
                "psps with Hutchinson's preconditioner needs the Hessian's diagonal: call tx.update(grads, state, params, "
                "value=…, hessian_diag=…), or with grad_fn= (params -> gradients, on the same batch) and key=, from "
                "which it is estimated"
            )
        check_key(key, where="psps")
        now, before = jax.random.split(key)

        def estimate(key, count):
            def product(z):
                return jax.jvp(grad_fn, (params,), (z,))[1]

            return hutchinson_diagonal(key, product, params, num_samples=count)

        return estimate(now, 1), lambda: estimate(before, probes)

    def update(updates, state, params=None, *, value=None, hessian_diag=None, grad_fn=None, key=None, **extra_args):
        del extra_args
        count = optax.safe_increment(state.count)
        wide = jax.tree.map(lambda g: g.astype(accumulator_dtype(g)), updates)
        diagonal, correction = state.diagonal, jnp.ones(())
        if preconditioner == "hutchinson":
            newest, before = hessian_diagonals(wide, params, hessian_diag, grad_fn, key)

            def start(old):
                return jax.tree.map(lambda o, d: d.astype(o.dtype), old, before())

            diagonal = run_if(state.count == 0, start, diagonal)
            diagonal = jax.tree.map(lambda o, d: (beta * o + (1 - beta) * d).astype(o.dtype), diagonal, newest)
        elif preconditioner == "adam":
            diagonal = jax.tree.map(lambda v, g: (beta * v + (1 - beta) * g**2).astype(v.dtype), diagonal, wide)
            correction = 1 - beta**count
        elif preconditioner == "adagrad":
            diagonal = jax.tree.map(lambda v, g: v + g**2, diagonal, wide)

        def direction(grads, diagonal, correction, least):
            if preconditioner is None:
                return grads
            if preconditioner == "hutchinson":
                return jax.tree.map(lambda g, d: g / jnp.maximum(jnp.abs(d), least).astype(g.dtype), grads, diagonal)
            if preconditioner == "adam":
                diagonal = jax.tree.map(lambda v: v / correction, diagonal)
            scales = jax.tree.map(lambda v: jnp.sqrt(v) + least, diagonal)
            # where nothing can be zero nothing is selected: sums over selections are of what is stored for them
            return jax.tree.map(jnp.divide if positive else ratio, grads, scales)

        kind = state.slack.dtype
        start = (wide, diagonal, correction, jnp.asarray(alpha if preconditioner == "hutchinson" else eps))
        square = inner(wide, direction(*start)).astype(kind)
        loss, s = the_value(value, kind, where="psps") - f_star, state.slack
        step = ratio(jnp.maximum(loss, 0), square)
        if slack == "l2":
            share = 1 / (1 + slack_lambda)
            step = jnp.maximum(loss - share * s, 0) / (share + square)
            s = share * (s + step)
        elif slack == "l1":
            free = jnp.maximum(loss - s + slack_lambda, 0) / (1 + square)
            step, s = jnp.minimum(free, step), jnp.maximum(s - slack_lambda + free, 0)
        step = jnp.minimum(step, max_lr)
        # divided again after its norm and not stored between
        again = direction(*anew(start))
        updates = jax.tree.map(lambda u, d: (step * d).astype(u.dtype), updates, again)
        return updates, PspsState(count, diagonal, s.astype(kind))

    return optax.GradientTransformationExtraArgs(init, update)


def psps(
    preconditioner: str | None = "hutchinson",
    *,
    f_star: Number = 0.0,
    max_lr: Number = jnp.inf,
    slack: str | None = None,
    slack_lambda: Number = 0.01,
    beta: Number = 0.999,
    alpha: Number = 1e-4,
    eps: Number = 1e-8,
    init_probes: int = 100,
) -> optax.GradientTransformationExtraArgs:
    r"""PSPS: :math:`x_{t+1} = x_t - \gamma_t B_t^{-1} g_t`, see :func:`scale_by_preconditioned_polyak`.

    Args:
      preconditioner, f_star, max_lr, slack, slack_lambda, beta, alpha, eps, init_probes: see there.

    Returns:
      A transformation that wants ``value=`` and, for Hutchinson's diagonal, ``grad_fn=`` and ``key=``, or
      ``hessian_diag=``.

    Raises:
      ValueError: as :func:`scale_by_preconditioned_polyak`.

    Source: Abdukhakimov, Xiang, Kamzolov, Takáč (2023), arXiv 2310.02093.

    >>> def loss(x):
    ...     return 0.5 * jnp.sum(jnp.array([1.0, 1e4]) * x**2)
    >>> tx, x = psps(), jnp.array([3.0, -2.0])
    >>> value, grad = jax.value_and_grad(loss)(x)
    >>> u, _ = tx.update(grad, tx.init(x), x, value=value, grad_fn=jax.grad(loss), key=jax.random.key(0))
    >>> [round(v, 3) for v in (x + u).tolist()]
    [1.5, -1.0]
    """
    return optax.chain(
        scale_by_preconditioned_polyak(
            preconditioner,
            f_star=f_star,
            max_lr=max_lr,
            slack=slack,
            slack_lambda=slack_lambda,
            beta=beta,
            alpha=alpha,
            eps=eps,
            init_probes=init_probes,
        ),
        optax.scale(-1.0),
    )
