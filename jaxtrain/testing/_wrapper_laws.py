"""The laws of an optax gradient transformation inside optax's wrappers."""

import functools

import jax
import jax.numpy as jnp
import optax

from jaxtrain.testing._subject import Subject
from jaxtrain.testing._violations import Violation, differing_values


def inject_hyperparams(s: Subject) -> list[Violation]:
    if s.factory is None:
        return []
    tx = optax.with_extra_args_support(optax.inject_hyperparams(s.factory, s.static_args)(**s.hyperparams))
    state, params, found = tx.init(s.params), s.params, []
    update = jax.jit(lambda p, st, b, t: s.update(p, st, b, t, tx=tx))
    for t in range(2):
        updates, state = update(params, state, s.batch(t), jnp.int32(t))
        params = optax.apply_updates(params, updates)
        found.append(updates)
    return differing_values(
        "inject_hyperparams", s.first[0][0][:2], found, s.rtol, left="the plain form", right="the injected"
    )


def multi_steps(s: Subject) -> list[Violation]:
    # the object itself: what its gradient_transformation() returns takes no extra arguments
    tx = optax.MultiSteps(s.tx, every_k_schedule=2)
    grads, state = s.grads(s.params, s.batch(0)), tx.init(s.params)
    update = jax.jit(lambda st, g: s.update(s.params, st, s.batch(0), 0, tx=tx, grads=g))
    for factor in (0.5, 1.5):
        updates, state = update(state, jax.tree.map(lambda g, f=factor: (f * g).astype(g.dtype), grads))
    expected = s.first[0][0][0]
    return differing_values("multi_steps", expected, updates, s.rtol, left="one step", right="two halves")


def _part(s: Subject):
    """One leaf of the parameters as a tree of the same nodes, and which it is."""
    leaves, structure = jax.tree.flatten(s.params)
    mask = jax.tree.unflatten(structure, [i == len(leaves) - 1 for i in range(len(leaves))])
    hide = functools.partial(jax.tree.map, lambda m, x: x if m else optax.MaskedNode(), mask)
    return mask, hide


def _alone(s: Subject, law: str, tx, rest_moves: bool):
    mask, hide = _part(s)
    batch = s.batch(0)
    grads = s.grads(s.params, batch)
    key = jax.random.fold_in(jax.random.key(7), 0)
    # extra arguments of the whole problem, as a training step gives them; what they make of a part is theirs to do
    extras = s.extras(s.params, grads, batch, key)
    wanted, _ = s.tx.update(hide(grads), s.tx.init(hide(s.params)), hide(s.params), **extras)
    got, _ = optax.with_extra_args_support(tx).update(grads, tx.init(s.params), s.params, **extras)
    found = differing_values(law, wanted, hide(got), s.rtol, left="the leaf alone", right=f"optax.{law}")
    if not found and not rest_moves:
        flip = jax.tree.map(lambda m: not m, mask)
        rest = [x for m, x in zip(jax.tree.leaves(flip), jax.tree.leaves(got), strict=True) if m]
        same = [x for m, x in zip(jax.tree.leaves(flip), jax.tree.leaves(grads), strict=True) if m]
        found = differing_values(law, same, rest, 0.0, left="the other leaf's gradient", right=f"optax.{law}")
    return found


def masked(s: Subject) -> list[Violation]:
    if len(jax.tree.leaves(s.params)) < 2:
        return []
    return _alone(s, "masked", optax.masked(s.tx, _part(s)[0]), rest_moves=False)


def partition(s: Subject) -> list[Violation]:
    if len(jax.tree.leaves(s.params)) < 2:
        return []
    labels = jax.tree.map(lambda m: "one" if m else "rest", _part(s)[0])
    return _alone(s, "partition", optax.partition({"one": s.tx, "rest": optax.set_to_zero()}, labels), rest_moves=True)
