"""Latest weight averaging."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxtrain.averaging._base import params_after
from jaxtrain.core import Number, Params, check_finite_number


class LawaState(NamedTuple):
    """State of :func:`lawa`: completed steps, captured models, and the last of them.

    ``ring`` has the structure and dtypes of the parameters with a leading axis of ``window`` models; model ``n`` lies
    at place ``n % window``.
    """

    step: Int[Array, ""]
    count: Int[Array, ""]
    ring: Params
    observes = True

    @property
    def started(self):
        return self.count > 0

    def read(self):
        def mean(ring):
            ring = jax.device_put(ring, jax.memory.Space.Device)
            dtype = jnp.promote_types(ring.dtype, jnp.float32)
            stored = (jnp.arange(ring.shape[0]) < self.count).astype(dtype)
            return jnp.tensordot(stored / jnp.maximum(stored.sum(), 1), ring.astype(dtype), 1)

        return (jax.tree.map(mean, self.ring),)


def lawa(
    window: int, period: Number = 1, *, start_step: Number = 0, on_host: bool = False
) -> optax.GradientTransformationExtraArgs:
    r"""The mean of the last ``window`` captured models (LAWA): a uniform average that forgets.

    With :math:`k` completed steps, where :math:`k \ge s` and :math:`(k - s) \bmod c = 0`, :math:`\theta_k` takes the place
    of the oldest of :math:`K` stored models; the average is the mean of those that are stored. The updates pass
    unchanged. :func:`averaged_params` reads it.

    Cost: memory of :math:`K` models, in device memory or, ``on_host``, in the host's; a capture writes one of them, and
    steps between captures move nothing. Reading the average reads all :math:`K`.

    Args:
      window: how many models :math:`K`, ≥ 1.
      period: steps between captures :math:`c`, ≥ 1: usually an epoch.
      start_step: first captured step :math:`s`, ≥ 0.
      on_host: keep the models in pinned memory of the host.

    Returns:
      A transformation with :class:`LawaState`. Its update raises ``ValueError`` without ``params``.

    Raises:
      ValueError: a number out of range.

    Source: Kaddour (2022), arXiv 2209.14981.

    >>> from jaxtrain.averaging import averaged_params
    >>> tx = optax.chain(optax.sgd(1.0), lawa(window=2, period=2))
    >>> params = jnp.array(10.0)
    >>> state = tx.init(params)
    >>> for _ in range(6):
    ...     updates, state = tx.update(jnp.array(1.0), state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> float(params), float(averaged_params(state, params))  # mean of 6 and 4
    (4.0, 5.0)
    """
    if not isinstance(window, int) or window < 1:
        raise ValueError(f"window is a number of models, an int of at least 1, got {window!r}")
    check_finite_number("period", period, low=1)
    check_finite_number("start_step", start_step, low=0)

    def put(x):
        return jax.device_put(x, jax.memory.Space.Host) if on_host else x

    def init(params):
        ring = jax.tree.map(lambda p: put(jnp.zeros((window, *jnp.shape(p)), p.dtype)), params)
        return LawaState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), ring)

    def update(updates, state, params=None, **extra_args):
        del extra_args
        new = params_after("lawa", params, updates)
        step = optax.safe_increment(state.step)
        due = (step >= start_step) & ((step - start_step) % period == 0)

        def capture(ring):
            place = state.count % window
            return jax.tree.map(
                lambda r, p: jax.lax.dynamic_update_index_in_dim(r, put(p.astype(r.dtype)), place, 0), ring, new
            )

        ring = jax.lax.cond(due, capture, lambda ring: ring, state.ring)
        return updates, LawaState(step, state.count + due.astype(jnp.int32), ring)

    return optax.GradientTransformationExtraArgs(init, update)
