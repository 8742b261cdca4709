"""SMB: where a step of SGD fails, a quadratic model of it from one more gradient gives another."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from jaxtrain.core import Number, Params, Scalar, check_finite_number
from jaxtrain.core.numerics import accumulator_dtype, run_if, static_int, zeros_accumulator
from jaxtrain.core.tree import safe_norm
from jaxtrain.optimizers._inner import check_cap, common_dtype, ratio, scaled, squared_norm, the_value


class SmbState(NamedTuple):
    """State of :func:`smb`: completed updates; what the automatic schedule multiplies the learning rate by; failed
    trial steps since its last change; whether this update builds the model of the last (:func:`smb` with independent
    batches), and the gradient of that, shaped like the parameters, or ``()``."""

    count: Int[Array, ""]
    scale: Float[Array, ""]
    failures: Int[Array, ""]
    building: Bool[Array, ""]
    previous: Params


def model_building_step(
    g: Float[Array, "..."],
    g_trial: Float[Array, "..."],
    s_trial: Float[Array, "..."],
    *,
    eta: Number = 0.99,
    linear: Float[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""The step that a quadratic model proposes for one tensor, from the gradients at both ends of a trial step.

    With :math:`y = g' - g` and :math:`\sigma = \frac12\big(\|s\| (\|y\| + \|g\|/\eta) - y^\top s\big)`, which bounds the step's
    length, the minimiser

    .. math:: c_g\,g + c_s\,s + c_y\,y, \quad c_g = -\frac{\|s\|^2}{2\sigma}, \quad
       \theta = (y^\top s + 2\sigma)^2 - \|s\|^2 \|y\|^2,

    .. math:: c_s = \frac{c_g}{\theta} \big(\|y\|^2\,s^\top g - (y^\top s + 2\sigma)\,y^\top g\big), \quad
       c_y = \frac{c_g}{\theta} \big(\|s\|^2\,y^\top g - (y^\top s + 2\sigma)\,s^\top g\big),

    computed from unit vectors, so that no power overflows. Where the loss is linear (:math:`y = 0`) and
    :math:`s = -\alpha g`, it is :math:`\eta s`.

    Args:
      g: gradient before the trial step.
      g_trial: gradient after it, on the same batch.
      s_trial: the trial step.
      eta: :math:`\eta` in (0, 1).
      linear: the gradient of the model's linear term in place of g (not in :math:`\sigma`), for independent batches.

    Returns:
      A step, from where the trial step began; zero where a gradient is zero, or where the gradient after the trial step
      is not finite.

    Raises:
      ValueError: ``eta`` out of range.

    Source: Birbil, Martin, Onay, Öztoprak (2021), "Bolstering Stochastic Gradient Descent with Model Building",
    arXiv 2111.07058.

    >>> g = jnp.array([6.0])  # of 1.5 x² at 2; the trial step -3 leads to -1
    >>> round(float(model_building_step(g, jnp.array([-3.0]), jnp.array([-3.0]))[0]), 4)
    -0.7481
    """
    _check_inside("eta", eta)
    kind = accumulator_dtype(g)
    wide = [x.astype(kind) for x in (g, g_trial, s_trial, g if linear is None else linear)]
    g32, after, s, line = wide
    y = after - g32

    def split(x):
        length = safe_norm(x)
        return length, ratio(x, length)

    (a, s_unit), (b, y_unit), h, (long, line_unit) = split(s), split(y), split(g32)[0], split(line)
    cosine = {
        pair: jnp.sum(u * v)
        for pair, u, v in (("ys", y_unit, s_unit), ("yl", y_unit, line_unit), ("sl", s_unit, line_unit))
    }
    bound = h / eta
    share = ratio(b, 2 * b + bound) * ratio(long, bound)
    along_s = share * (b * cosine["sl"] - (b + bound) * cosine["yl"])
    along_y = share * (b * cosine["yl"] - (b + bound) * cosine["sl"])
    step = -ratio(a, b * (1 - cosine["ys"]) + bound) * (line + along_s * s_unit + along_y * y_unit)
    # an infinite curvature leaves no step, but a gradient that is not a number was so before the trial step
    return jnp.where(jnp.isfinite(b), step, 0 * line).astype(g.dtype)


def _check_inside(name: str, value: Number) -> None:
    if not isinstance(value, jax.core.Tracer) and not np.all((np.asarray(value) > 0) & (np.asarray(value) < 1)):
        raise ValueError(f"{name} must lie in (0, 1), got {value}")


def smb(
    learning_rate: optax.ScalarOrSchedule = 0.5,
    c: Number = 0.1,
    eta: Number = 0.99,
    *,
    independent_batch: bool = False,
    schedule_period: int | None = None,
    schedule_share: Number = 0.05,
    schedule_factor: Number = 0.9,
    max_lr: Number = 20.0,
) -> optax.GradientTransformationExtraArgs:
    r"""SMB: SGD that tries its step and, where the loss falls too little, takes that of a model instead.

    The trial step :math:`s = -\alpha g` is taken if :math:`f(x + s) \le f(x) - c\,\alpha\,\|g\|^2` on the same batch, with
    the norm of the whole tree. Otherwise the gradient at :math:`x + s` gives every leaf a
    :func:`model_building_step` of its own, from x. One more loss for each step, and one more gradient for each failed
    one; no model is built at gradients shorter than 1e-8. The model's step is taken without another trial.

    With ``independent_batch`` (SMBi) a failed trial leaves the parameters where they are, and the model comes from the
    next batch, its linear term from this one.

    With ``schedule_period``, every so many updates the learning rate is multiplied by ``schedule_factor`` if more than
    ``schedule_share`` of the trials failed (half of that with independent batches, where a failed trial and its model are
    two updates), and divided by it otherwise, up to ``max_lr``.

    It takes the whole step: put it last in a chain. The update wants ``value=``, ``value_fn=`` and ``grad_fn=`` of the
    batch, which :func:`jaxtrain.training.make_step` gives; it does not work inside ``optax.MultiSteps``, whose gradients
    are of other batches than these. Not differentiable in reverse mode.

    Args:
      learning_rate: :math:`\alpha` of the trial steps, a number or a schedule.
      c: sufficient decrease, in [0, 1].
      eta: :math:`\eta` in (0, 1).
      independent_batch: whether models come from the next batch.
      schedule_period: updates between changes of the automatic schedule (an epoch's), a Python integer; None: no
        such schedule.
      schedule_share: in [0, 1].
      schedule_factor: in (0, 1).
      max_lr: the learning rate does not rise above it.

    Returns:
      A transformation with :class:`SmbState`: a few numbers, with independent batches also one gradient.

    Raises:
      ValueError: a number out of range; from its update: an argument is missing.

    Source: Birbil, Martin, Onay, Öztoprak (2021), arXiv 2111.07058.

    >>> def loss(x):
    ...     return 2 * x**2
    >>> tx, x = smb(0.5), jnp.array(2.0)
    >>> u, _ = tx.update(jax.grad(loss)(x), tx.init(x), x, value=loss(x), value_fn=loss, grad_fn=jax.grad(loss))
    >>> round(float(u), 4)  # the trial step -4 leads to the same loss on the other side
    -0.7984
    """
    if not callable(learning_rate):
        check_finite_number("learning_rate", learning_rate, low=0.0)
    check_finite_number("c", c, low=0.0, high=1.0)
    check_finite_number("schedule_share", schedule_share, low=0.0, high=1.0)
    check_cap("max_lr", max_lr)
    _check_inside("schedule_factor", schedule_factor)
    _check_inside("eta", eta)
    period = None if schedule_period is None else static_int("schedule_period", schedule_period, low=1)

    def init(params):
        return SmbState(
            jnp.zeros((), jnp.int32),
            jnp.ones((), common_dtype(params)),
            jnp.zeros((), jnp.int32),
            jnp.zeros((), bool),
            zeros_accumulator(params) if independent_batch else (),
        )

    def scheduled(scale: Array, failures: Array, count: Array, rate: Array) -> tuple[Array, Array]:
        if period is None:
            return scale, jnp.zeros_like(failures)
        due = count % period == 0
        many = failures / period > schedule_share / (2 if independent_batch else 1)
        higher = jnp.where(rate / schedule_factor <= max_lr, scale / schedule_factor, scale)
        changed = jnp.where(many, scale * schedule_factor, higher)
        return jnp.where(due, changed, scale).astype(scale.dtype), jnp.where(due, 0, failures)

    def update(
        updates: Params,
        state: SmbState,
        params: Params | None = None,
        *,
        value: Number | None = None,
        value_fn: Callable[[Params], Scalar] | None = None,
        grad_fn: Callable[[Params], Params] | None = None,
        **extra_args: Any,
    ) -> tuple[Params, SmbState]:
        del extra_args
        if params is None or value_fn is None or grad_fn is None:
            raise ValueError(
                "smb tries its steps on the batch: call tx.update(grads, state, params, value=…, value_fn=…, grad_fn=…) "
                "with functions params -> loss and params -> gradients"
            )
        kind = state.scale.dtype
        count = optax.safe_increment(state.count)
        rate = (learning_rate(state.count) if callable(learning_rate) else learning_rate) * state.scale
        square = squared_norm(updates).astype(kind)
        trial = scaled(-rate, updates)
        there = optax.apply_updates(params, trial)
        wanted = the_value(value, kind, where="smb") - c * rate * square
        # NaN fails
        failed = ~(jnp.asarray(value_fn(there), kind) <= wanted) & ~(jnp.sqrt(square) < 1e-8)

        def build(line: Params) -> Callable[[Params], Params]:
            def work(_: Params) -> Params:
                def of_leaf(g: Array, g_trial: Array, s: Array, line: Array) -> Array:
                    return model_building_step(g, g_trial.astype(g.dtype), s, eta=eta, linear=line)

                return jax.tree.map(of_leaf, updates, grad_fn(there), trial, line)

            return work

        if not independent_batch:
            step = run_if(failed, build(updates), trial)
            scale, failures = scheduled(state.scale, state.failures + failed, count, rate)
            return step, SmbState(count, scale, failures, state.building, ())
        building = state.building
        waits = failed & ~building
        step = run_if(building, build(state.previous), trial)
        step = jax.tree.map(lambda u: jnp.where(waits, jnp.zeros_like(u), u), step)
        previous = jax.tree.map(lambda old, g: jnp.where(building, old, g.astype(old.dtype)), state.previous, updates)
        scale, failures = scheduled(state.scale, state.failures + building, count, rate)
        return step, SmbState(count, scale, failures, waits, previous)

    return optax.GradientTransformationExtraArgs(init, update)
