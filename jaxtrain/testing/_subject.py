"""What the laws of a gradient transformation share: its runs, each made once."""

import functools

import jax
import jax.numpy as jnp
import optax

from jaxtrain.testing import _problem


class Subject:
    """A transformation with all that the laws share, each thing computed once."""

    def __init__(self, tx, params, extra_args, rtol, non_finite, factory, hyperparams, static_args):
        self.tx = optax.with_extra_args_support(tx)
        self.given_params = params
        self.extra_args = extra_args
        self.rtol = rtol
        self.non_finite = non_finite
        self.factory, self.hyperparams, self.static_args = factory, hyperparams, static_args
        self.traces = 0

    @functools.cached_property
    def params(self):
        return _problem.default_params() if self.given_params is None else jax.tree.map(jnp.asarray, self.given_params)

    @functools.cached_property
    def batches(self):
        return _problem.batches(self.params)

    def batch(self, t, of=None):
        return jax.tree.map(lambda x: x[t], self.batches if of is None else of)

    def extras(self, params, grads, batch, key):
        return dict(self.extra_args(params, grads, batch, key))

    def grads(self, params, batch):
        return jax.grad(_problem.value_fn(batch))(params)

    def update(self, params, state, batch, t, *, tx=None, grads=None, **more):
        """One step; ``t`` makes the key."""
        key = jax.random.fold_in(jax.random.key(7), t)
        grads = self.grads(params, batch) if grads is None else grads
        extras = self.extras(params, grads, batch, key)
        return (tx or self.tx).update(grads, state, params, **extras, **more)

    def step(self, carry, inputs):
        """One step as scan wants it; counts its traces."""
        self.traces += 1
        params, state = carry
        updates, state = self.update(params, state, *inputs)
        return (optax.apply_updates(params, updates), state), updates

    @functools.cached_property
    def eager(self):
        """Updates and final state of a run without jit."""
        carry, updates = (self.params, self.tx.init(self.params)), []
        for t in range(_problem.STEPS):
            carry, u = self.step(carry, (self.batch(t), jnp.int32(t)))
            updates.append(u)
        return updates, carry[1]

    @functools.cached_property
    def jitted(self):
        return jax.jit(self.step)

    def loop(self, params, of=None, state=None):
        """Updates and final state of a run of the jitted step."""
        carry, updates = (params, self.tx.init(params) if state is None else state), []
        for t in range(_problem.STEPS):
            carry, u = self.jitted(carry, (self.batch(t, of), jnp.int32(t)))
            updates.append(u)
        return updates, carry[1]

    @functools.cached_property
    def first(self):
        """The run that others are compared with, and how often it was traced."""
        before = self.traces
        run = self.loop(self.params)
        return run, self.traces - before

    @functools.cached_property
    def other(self):
        """Another member: parameters and minibatches of its own."""
        params = jax.tree.map(lambda p: (0.5 * p + 0.1).astype(p.dtype), self.params)
        return params, jax.tree.map(lambda b: (0.7 * b - 0.2).astype(b.dtype), self.batches)

    def abstract(self, dtype=None):
        """Shapes of parameters, state before, updates and state after, found without computing."""
        cast = (lambda p: p.astype(dtype)) if dtype else (lambda p: p)
        params = jax.tree.map(cast, self.params)
        batch = jax.tree.map(cast, self.batch(0))
        state = jax.eval_shape(self.tx.init, params)

        def update(params, state, batch):
            return self.update(params, state, batch, 0, grads=self.grads(params, batch))

        updates, after = jax.eval_shape(update, params, state, batch)
        return params, state, updates, after
