"""What the averages along a run share: how one is kept, and how it is found in a chain.

A new average is one file: a transformation whose state is an :class:`Average`. Nothing here names any of them.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from jaxtrain.core import OptState, Params


class Average(Protocol):
    """The state of a transformation that averages: a NamedTuple of arrays with these three names besides.

    Attributes:
      observes: the updates pass unchanged, so that other averages may follow in a chain.
      started: whether anything is in the average yet; the live parameters are read before.
    """

    observes: bool

    @property
    def started(self) -> Bool[Array, ""] | bool: ...

    def read(self) -> tuple[Params, ...]:
        """The averages, as a rule one, each of the structure of the parameters (with holes where they are masked)."""
        ...


def accumulator_like(params: Params) -> Params:
    """A copy of the parameters in which small increments are not lost: half precision becomes float32."""
    return jax.tree.map(lambda p: jnp.array(p, jnp.promote_types(p.dtype, jnp.float32)), params)


def params_after(name: str, params: Params | None, updates: Params) -> Params:
    """The parameters after the step, in the precision of the average."""
    if params is None:
        raise ValueError(f"{name} averages parameters: call tx.update(updates, state, params) with the parameters")
    # apply_updates rounds to the parameters' dtype: what is averaged is what the model will hold
    return optax.apply_updates(params, updates)


def toward(average: Params, new: Params, weight: Float[Array, ""]) -> Params:
    r""":math:`\bar\theta + w\,(\theta - \bar\theta)`; a weight of 1 lands on the parameters exactly, one of 0 ignores them."""

    def move(a: Array, p: Array) -> Array:
        p, w = p.astype(a.dtype), weight.astype(a.dtype)
        # the selections cost nothing next to the memory that moves, and keep a NaN out of what has no weight
        return jnp.where(w == 1, p, jnp.where(w == 0, a, a + w * (p - a)))

    return jax.tree.map(move, average, new)


def at(number: Any, step: Array) -> Array:
    """A number, or the value of a schedule of it, as a floating array."""
    value = jnp.asarray(number(step) if callable(number) else number)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.result_type(float))


# Optimizers of optax that carry an average. Lookahead's is in the parameters themselves.
_OPTAX = (optax.contrib.ScheduleFreeState, optax.LookaheadState)


def _is_average(node: Any) -> bool:
    return isinstance(node, _OPTAX) or (hasattr(type(node), "observes") and callable(getattr(node, "read", None)))


def averages_in(state: OptState) -> list[Any]:
    """The states of all averages of a chain, in its order."""
    return [leaf for leaf in jax.tree.leaves(state, is_leaf=_is_average) if _is_average(leaf)]


def _values(average: Any, structure: Any, live: list[Array]) -> list[list[Any]]:
    """For every average that a state holds, its values of the leaves; None where they are masked."""
    if isinstance(average, optax.contrib.ScheduleFreeState):
        parts = structure.flatten_up_to(average.z)
        eval_params = optax.contrib.schedule_free_eval_params
        return [
            [
                None if isinstance(z, optax.MaskedNode) else eval_params(average._replace(z=z), y)
                for z, y in zip(parts, live, strict=True)
            ]
        ]
    found = []
    for tree in average.read():
        parts = structure.flatten_up_to(tree)
        found.append(
            [
                None if isinstance(value, optax.MaskedNode) else jnp.where(average.started, value.astype(y.dtype), y)
                for value, y in zip(parts, live, strict=True)
            ]
        )
    return found


def _only_observes(state: OptState) -> bool:
    if isinstance(state, optax.MaskedState):
        return _only_observes(state.inner_state)
    if type(state) is tuple:
        return bool(state) and all(map(_only_observes, state))
    return _is_average(state) and getattr(state, "observes", False)


def _check_nothing_follows(state: OptState) -> None:
    """Raises where, in some chain, what changes the updates stands behind an average."""
    if isinstance(state, _OPTAX):
        inner = state.fast_state if isinstance(state, optax.LookaheadState) else state.base_optimizer_state
        if held := averages_in(inner):
            raise ValueError(
                f"an average must come last in its chain: {type(held[0]).__name__} stands inside "
                f"{type(state).__name__}, which changes the updates after it. Chain it behind that optimizer"
            )
        return
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
        # an optimizer of optax that carries an average is followed by whatever may follow an optimizer
        held = [h for h in averages_in(child) if not isinstance(h, _OPTAX)]
        if averaging is not None and not _only_observes(child):
            raise ValueError(
                f"an average must come last in its chain: {averaging[1]} stands at place {averaging[0]} and "
                f"{type(child).__name__} at place {place} changes the updates after it, so that it averages "
                "parameters that the model never has. Move the averages to the end (switch_ema before swa)"
            )
        if held:
            averaging = averaging or (place, type(held[0]).__name__)
        _check_nothing_follows(child)


def averaged_params(
    opt_state: OptState, params: Params, *, kind: type | None = None, index: int | None = None
) -> Params:
    """The averaged parameters, wherever in a chain their average is kept.

    Works through ``optax.chain``, ``masked``, ``partition``, ``inject_hyperparams``, ``MultiSteps``,
    ``apply_if_finite`` and their nestings. Parameters that are not averaged (masked out), and all of them before the
    first model is captured, are the live ones. Nothing is changed: the live parameters stay in the training state.

    Optax's own averages are read too: ``optax.contrib.schedule_free`` (the sequence for evaluation) and
    ``optax.lookahead`` (the slow parameters of ``optax.LookaheadParams``).

    Args:
      opt_state: the state of a chain that ends in an average.
      params: the live parameters.
      kind: which average, by the type of its state (``SwaState``, ``optax.LookaheadState`` …), where the chain carries
        several.
      index: which of several of one kind, in the order of the chain (and of its widths for ``power_function_ema``).

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
    everything = averages_in(opt_state)
    found = [average for average in everything if kind is None or isinstance(average, kind)]
    if not found:
        names = ", ".join(sorted({type(a).__name__ for a in everything})) or "none at all"
        raise ValueError(f"the optimizer state holds no {kind.__name__ if kind else 'average'}; it holds {names}")
    names = ", ".join(type(a).__name__ for a in found)
    several = f"the optimizer state holds several averages ({names}): say which with kind=… or index=…"
    if any(isinstance(average, optax.LookaheadState) for average in found):
        if len(found) > 1:
            raise ValueError(several)
        if not isinstance(params, optax.LookaheadParams):
            raise ValueError(f"optax.lookahead keeps its average in optax.LookaheadParams, got {type(params).__name__}")
        return params.slow
    leaves, structure = jax.tree.flatten(params)
    candidates: list[list[Any]] = [[] for _ in leaves]
    for average in found:
        for values in _values(average, structure, leaves):
            for held, value in zip(candidates, values, strict=True):
                if value is not None:
                    held.append(value)
    most = max(map(len, candidates), default=0)
    if index is None and most > 1:
        raise ValueError(several)
    if index is not None and not 0 <= index < most:
        raise ValueError(f"index must lie between 0 and {most - 1}, the number of such averages less one, got {index}")
    place = index or 0
    return structure.unflatten(
        [held[place] if place < len(held) else live for held, live in zip(candidates, leaves, strict=True)]
    )
