"""What the averages along a run share: the shape of their state, and how an average is found in a chain."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxtrain.core import OptState, Params


class SwaState(NamedTuple):
    """State of :func:`swa`: completed steps, captured models, their mean (float32 at least, shaped like the params)."""

    step: Int[Array, ""]
    count: Int[Array, ""]
    average: Params


class SwitchEmaState(NamedTuple):
    """State of :func:`switch_ema`: completed steps and the average (float32 at least, shaped like the params)."""

    step: Int[Array, ""]
    average: Params


_AVERAGES = (SwaState, SwitchEmaState)
# These leave the updates as they are, so that others may follow them.
_OBSERVERS = (SwaState,)


def accumulator_like(params: Params) -> Params:
    """A copy of the parameters in which small increments are not lost: half precision becomes float32."""
    return jax.tree.map(lambda p: jnp.array(p, jnp.promote_types(p.dtype, jnp.float32)), params)


def params_after(name: str, params: Params | None, updates: Params) -> Params:
    """The parameters after the step, in the precision of the average."""
    if params is None:
        raise ValueError(f"{name} averages parameters: call tx.update(updates, state, params) with the parameters")
    # apply_updates rounds to the parameters' dtype: what is averaged is what the model will hold
    return optax.apply_updates(params, updates)


def _is_average(node: Any) -> bool:
    return isinstance(node, _AVERAGES)


def _averages(state: OptState) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(state, is_leaf=_is_average) if _is_average(leaf)]


def _check_nothing_follows(state: OptState) -> None:
    """Raises where, in some chain, what changes the updates stands behind an average."""
    if _is_average(state):
        return
    if type(state) is tuple:  # the state of an optax.chain; a NamedTuple is one transformation
        members = list(enumerate(state))
    elif isinstance(state, dict):  # optax.named_chain keeps the order; partition holds groups side by side
        for child in state.values():
            _check_nothing_follows(child)
        return
    elif hasattr(state, "_fields"):
        for child in state:
            _check_nothing_follows(child)
        return
    else:
        return
    averaging = None
    for place, child in members:
        if averaging is not None and not isinstance(child, _OBSERVERS):
            held = _averages(child)
            if not held or not all(isinstance(h, _OBSERVERS) for h in held) or type(child) is not tuple:
                raise ValueError(
                    f"an average must come last in its chain: {averaging[1]} stands at place {averaging[0]} and "
                    f"{type(child).__name__} at place {place} changes the updates after it, so that it averages "
                    "parameters that the model never has. Move the averages to the end (switch_ema before swa)"
                )
        if held := _averages(child):
            averaging = averaging or (place, type(held[0]).__name__)
        _check_nothing_follows(child)


def averaged_params(opt_state: OptState, params: Params, *, kind: type | None = None) -> Params:
    """The averaged parameters, wherever in a chain their average is kept.

    Works through ``optax.chain``, ``masked``, ``partition``, ``inject_hyperparams``, ``MultiSteps``,
    ``apply_if_finite`` and their nestings. Parameters that are not averaged (masked out), and all of them before the
    first model is captured, are the live ones. Nothing is changed: the live parameters stay in the training state.

    Args:
      opt_state: the state of a chain that ends in an average.
      params: the live parameters.
      kind: which average, ``SwaState`` or ``SwitchEmaState``, where the chain carries several.

    Returns:
      Parameters of the structure and dtypes of ``params``.

    Raises:
      ValueError: there is no such average, there are several, or something that changes updates stands behind it.

    >>> from jaxtrain.averaging import swa
    >>> tx = optax.chain(optax.sgd(1.0), swa(start_step=1, period=1))
    >>> params = jnp.array(4.0)
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(jnp.array(1.0), state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> float(params), float(averaged_params(state, params))
    (2.0, 2.5)
    """
    _check_nothing_follows(opt_state)
    wanted = (kind,) if kind is not None else _AVERAGES
    found = [average for average in _averages(opt_state) if isinstance(average, wanted)]
    if not found:
        names = ", ".join(sorted({type(a).__name__ for a in _averages(opt_state)})) or "none at all"
        raise ValueError(f"the optimizer state holds no {kind.__name__ if kind else 'average'}; it holds {names}")
    leaves, structure = jax.tree.flatten(params)
    chosen: list[Any] = [None] * len(leaves)
    for average in found:
        values = structure.flatten_up_to(average.average)
        captured = average.count > 0 if isinstance(average, SwaState) else True
        for i, (live, value) in enumerate(zip(leaves, values, strict=True)):
            if isinstance(value, optax.MaskedNode):
                continue
            if chosen[i] is not None:
                names = ", ".join(type(a).__name__ for a in found)
                raise ValueError(f"the optimizer state holds several averages ({names}): say which with kind=…")
            chosen[i] = jnp.where(captured, value.astype(live.dtype), live)
    return structure.unflatten([live if c is None else c for live, c in zip(leaves, chosen, strict=True)])
