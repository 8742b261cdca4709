"""Seeds and hyperparameters as one program."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxtrain.core import Batch, Key, Metrics, check_leading_axes
from jaxtrain.training.checkpoint import Checkpointer, Restored
from jaxtrain.training.sharding import placed, put_batch, state_shardings
from jaxtrain.training.state import TrainState

States: TypeAlias = TrainState | tuple[TrainState, ...]
"""The states of all members: stacked along a leading axis, or with ``mode="loop"`` a tuple."""

MODES = ("auto", "vmap", "map", "loop", "solo")


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
    """Members that train side by side. Made by :func:`ensemble`.

    Attributes:
      seeds: one member for each.
      hyper: numeric hyperparameters, arrays with one value for every member.
      mode: ``vmap``: all members in one vectorised program; ``map``: one after the other inside one program; ``loop``:
        one program for a member, called for each in turn, the state a tuple of theirs; ``solo``: one member, its state
        without a member axis; ``auto``: not chosen yet, see :meth:`resolve`.
    """

    init_fn: Callable[[Key, Any], TrainState]
    step_fn: Callable[[TrainState, Batch, Any], tuple[TrainState, Metrics]]
    seeds: tuple[int, ...]
    hyper: dict[str, np.ndarray]
    batch_axis: int | None
    mode: str
    mesh: Mesh | None
    rules: tuple

    @property
    def num_members(self) -> int:
        """How many members there are."""
        return len(self.seeds)

    @property
    def has_member_axis(self) -> bool:
        """Whether the arrays of the state have a leading member axis."""
        return self.mode in ("vmap", "map")

    def _over_members(self, fn: Callable, in_axes: tuple[int | None, ...]) -> Callable:
        """``fn`` of one member, for all of them."""
        if self.mode == "auto":
            raise ValueError("mode='auto' is chosen by measurement: call ensemble(…).resolve(batch) first")
        if self.mode == "solo":
            # the same axes as in the other modes outside, none inside
            def solo(*args):
                args = [
                    jax.tree.map(lambda x: x[0], a) if axis == 0 and i else a
                    for i, (a, axis) in enumerate(zip(args, in_axes, strict=True))
                ]
                return fn(*args)

            return solo
        spread = self.mesh is not None and self.mesh.shape["member"] > 1
        if self.mode == "vmap":
            return jax.vmap(fn, in_axes, spmd_axis_name="member" if spread else None)

        def one_by_one(*args):
            moving = [a for a, axis in zip(args, in_axes, strict=True) if axis == 0]

            def of_member(moved):
                moved = iter(moved)
                return fn(*[next(moved) if axis == 0 else a for a, axis in zip(args, in_axes, strict=True)])

            return jax.lax.map(of_member, moving)

        if not spread:
            return one_by_one
        specs = tuple(PartitionSpec("member") if axis == 0 else PartitionSpec() for axis in in_axes)
        return jax.shard_map(
            one_by_one,
            mesh=self.mesh,
            in_specs=specs,
            out_specs=PartitionSpec("member"),
            axis_names={"member"},
            check_vma=False,
        )

    def _all_init(self, keys: jax.Array, hyper: Any) -> States:
        if self.mode == "loop":
            return tuple(
                self.init_fn(keys[i], jax.tree.map(lambda x, i=i: x[i], hyper)) for i in range(self.num_members)
            )
        if self.mode == "solo":
            return self.init_fn(keys[0], jax.tree.map(lambda x: x[0], hyper))
        if self.mode == "vmap":
            return jax.vmap(self.init_fn)(keys, hyper)
        return jax.lax.map(lambda args: self.init_fn(*args), (keys, hyper))

    @functools.cached_property
    def _keys(self) -> jax.Array:
        return jax.vmap(jax.random.key)(jnp.asarray(self.seeds, jnp.uint32))

    @functools.cached_property
    def _shardings(self) -> States | None:
        if self.mesh is None:
            return None
        abstract = jax.eval_shape(self._all_init, self._keys, self.hyper)
        if self.mode == "loop":
            return (state_shardings(self.mesh, self.rules, abstract[0]),) * self.num_members
        return state_shardings(self.mesh, self.rules, abstract, members=self.has_member_axis)

    def abstract_state(self) -> States:
        """Shapes, dtypes and shardings of the state, without computing it."""
        abstract = jax.eval_shape(self._all_init, self._keys, self.hyper)
        if self._shardings is None:
            return placed(abstract)
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, self._shardings)

    def init(self) -> States:
        """The state of all members before the first step."""
        if self.mode == "loop":
            one = jax.jit(
                lambda i, keys, hyper: self.init_fn(keys[i], jax.tree.map(lambda x: x[i], hyper)),
                out_shardings=None if self._shardings is None else self._shardings[0],
            )
            return tuple(one(i, self._keys, self.hyper) for i in range(self.num_members))
        return jax.jit(self._all_init, out_shardings=self._shardings)(self._keys, self.hyper)

    def put(self, batch: Batch) -> Batch:
        """A host batch, on the devices."""
        return put_batch(self.mesh, batch, members=self.batch_axis == 0 and self.mode != "solo")

    @functools.cached_property
    def _step(self) -> Callable:
        axes = (0, 0 if self.batch_axis == 0 else None, 0)

        def step(state, batch, hyper):
            self._check_member_axis(batch)
            state, metrics = self._over_members(self.step_fn, axes)(state, batch, hyper)
            if self.mode == "solo":
                metrics = jax.tree.map(lambda x: x[None], metrics)
            return state, metrics

        out = None if self._shardings is None else (self._shardings, None)
        return jax.jit(step, donate_argnums=0, out_shardings=out)

    @functools.cached_property
    def _member_step(self) -> Callable:
        """The step of the member with a given number, which is traced: one program for all of them."""

        def step(state, batch, hyper, i):
            if self.batch_axis == 0:
                batch = jax.tree.map(lambda x: x[i], batch)
            return self.step_fn(state, batch, jax.tree.map(lambda x: x[i], hyper))

        out = None if self._shardings is None else (self._shardings[0], None)
        return jax.jit(step, donate_argnums=0, out_shardings=out)

    def _check_member_axis(self, batch: Batch) -> None:
        if self.batch_axis == 0:
            count = check_leading_axes(batch, where="ensemble step", axis_name="member axis of the batch")
            if count != self.num_members:
                raise ValueError(f"the batch has a member axis of {count}, the ensemble {self.num_members} members")

    def step(self, state: States, batch: Batch) -> tuple[States, Metrics]:
        """One step of every member. The state is donated; metrics have a leading member axis."""
        if self.mode != "loop":
            return self._step(state, batch, self.hyper)
        self._check_member_axis(batch)
        states, metrics = [], []
        for i, member in enumerate(state):
            member, found = self._member_step(member, batch, self.hyper, i)
            states.append(member)
            metrics.append(found)
        return tuple(states), _stacked(metrics)

    def lower(self, batch: Batch) -> jax.stages.Lowered:
        """The step as XLA sees it, for a look at its collectives or memory: ``.compile().as_text()``."""

        def abstract(x: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))

        batch = jax.tree.map(abstract, self.put(batch))
        if self.mode == "loop":
            return self._member_step.lower(self.abstract_state()[0], batch, self.hyper, 0)
        return self._step.lower(self.abstract_state(), batch, self.hyper)

    def map(self, fn: Callable) -> Callable:
        """``fn(state, *shared)`` of one member, jitted for all: results have a leading member axis."""
        if self.mode == "loop":
            one = jax.jit(fn)
            return lambda state, *shared: _stacked([one(member, *shared) for member in state])

        def of_all(state, *shared):
            run = self._over_members(fn, (0, *[None] * len(shared)))
            out = run(state, *shared)
            return jax.tree.map(lambda x: x[None], out) if self.mode == "solo" else out

        return jax.jit(of_all)

    def member(self, state: States, index: int) -> TrainState:
        """The state of one member, as if it had trained alone."""
        self._check_member(index)
        if self.mode == "loop":
            return state[index]
        return jax.tree.map(lambda x: x[index], state) if self.has_member_axis else state

    def _check_member(self, index: int) -> None:
        if not 0 <= index < self.num_members:
            raise IndexError(f"there is no member {index}: the ensemble has members 0 … {self.num_members - 1}")

    def restore_member(self, checkpoints: Checkpointer, index: int, *, step: int | None = None) -> Restored | None:
        """The state of one member out of a checkpoint of all, as if it had trained alone.

        The other members pass through the host; a device holds one. So the program may be built without the mesh of
        the run that wrote the checkpoint, but in its mode (``program.json`` in the run's folder).

        Args:
          checkpoints: of the whole ensemble.
          index: the member.
          step: of this step; the newest one when left out.

        Returns:
          See :meth:`Checkpointer.restore`.

        Raises:
          IndexError: there is no such member.
          ValueError: ``mode="auto"``, or the checkpoint holds another ensemble.
          CheckpointError: there are checkpoints, all of them damaged.
        """
        self._check_member(index)
        if self.mode == "auto":
            raise ValueError("mode='auto' does not say how the checkpoint is laid out: give the mode of its run")

        def on_host(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct | np.ndarray:
            if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):  # NumPy has no keys; they are small
                return jax.ShapeDtypeStruct(x.shape, x.dtype)
            return np.empty(x.shape, x.dtype)

        abstract = jax.eval_shape(self._all_init, self._keys, self.hyper)
        found = checkpoints.restore(jax.tree.map(on_host, abstract), step)
        if found is None:
            return None
        return dataclasses.replace(found, state=jax.tree.map(jnp.asarray, self.member(found.state, index)))

    @functools.cached_property
    def num_parameters(self) -> int:
        """Parameters of one member."""
        abstract = jax.eval_shape(self.init_fn, self._keys[0], jax.tree.map(lambda x: x[0], self.hyper))
        return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(abstract.params))

    def resolve(self, batch: Batch, *, repeats: int = 3) -> "Ensemble":
        """With ``mode="auto"``, times a real step in every mode and returns the ensemble in the fastest.

        On a CPU convolutions are slow when vectorised over members, and slower still inside a loop that XLA runs; on
        accelerators and for small members ``vmap`` wins. ``loop`` is left out where members are spread over a mesh.
        """
        if self.mode != "auto":
            return self
        times = {}
        spread = self.mesh is not None and self.mesh.shape["member"] > 1
        for mode in ("vmap", "map") if spread else ("vmap", "map", "loop"):
            candidate = dataclasses.replace(self, mode=mode)
            state, placed = candidate.init(), candidate.put(batch)
            state, _ = candidate.step(state, placed)  # compiles
            laps = []
            for _ in range(repeats):
                jax.block_until_ready(state)
                start = time.perf_counter()
                state, _ = jax.block_until_ready(candidate.step(state, placed))
                laps.append(time.perf_counter() - start)
            times[mode] = (statistics.median(laps), candidate)
        return min(times.values(), key=lambda pair: pair[0])[1]


@jax.jit
def _stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def ensemble(
    init: Callable[[Key, Any], TrainState],
    step: Callable[[TrainState, Batch, Any], tuple[TrainState, Metrics]],
    *,
    seeds: Sequence[int],
    hyper: Mapping[str, Any] | None = None,
    batch_axis: int | None = None,
    mode: str = "auto",
    mesh: Mesh | None = None,
    rules: Sequence[Any] = (),
) -> Ensemble:
    """Trains several seeds, and any numeric hyperparameters, as one program that is traced once.

    Args:
      init: ``(key, hyper) -> TrainState`` of one member.
      step: ``(state, batch, hyper) -> (state, metrics)`` of one member; not jitted.
      seeds: one member for each; its root key is ``jax.random.key(seed)``.
      hyper: numbers by name, each with one value for every member (or one for all); ``init`` and ``step`` get those of
        their member as traced scalars.
      batch_axis: 0 where batches carry a leading member axis, None where all members see the same batch.
      mode: ``vmap``, ``map``, ``loop``, ``solo`` (one member only) or ``auto``: the fastest of the first three,
        measured by :meth:`Ensemble.resolve`; one member is always ``solo``.
      mesh: from :func:`make_mesh`; members are spread over its ``member`` axis.
      rules: how parameters are laid out on the mesh.

    Raises:
      ValueError: no seeds, a hyperparameter with another number of values, an unknown mode, a mesh that does not
        divide the members.

    >>> import optax
    >>> from jaxtrain.training import create_state
    >>> def init(key, hyper):
    ...     return create_state(jax.random.normal(key, ()), optax.identity(), key)
    >>> def step(state, batch, hyper):
    ...     params = state.params - hyper["lr"] * (state.params - batch.mean())
    ...     return state.replace(params=params, step=state.step + 1), {"distance": abs(params - batch.mean())}
    >>> program = ensemble(init, step, seeds=(0, 1), hyper={"lr": [0.5, 1.0]}, mode="vmap")
    >>> state, metrics = program.step(program.init(), program.put(jnp.ones(4)))
    >>> metrics["distance"].shape, float(metrics["distance"][1])
    ((2,), 0.0)
    """
    seeds = tuple(int(seed) for seed in seeds)
    if not seeds:
        raise ValueError("an ensemble needs at least one seed")
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if batch_axis not in (0, None):
        raise ValueError(f"batch_axis must be 0 or None, got {batch_axis!r}")
    values = {}
    for name, value in (hyper or {}).items():
        array = np.asarray(value)
        if not np.issubdtype(array.dtype, np.number):
            raise TypeError(f"hyperparameter {name!r} must be numeric, got dtype {array.dtype}")
        if array.dtype == np.float64:
            array = array.astype(jnp.result_type(float))
        if array.ndim == 0:
            array = np.full(len(seeds), array)
        if len(array) != len(seeds):
            raise ValueError(f"hyperparameter {name!r} has {len(array)} values for {len(seeds)} seeds")
        values[name] = array
    if mode == "solo" and len(seeds) > 1:
        raise ValueError(f"mode='solo' trains one member, got {len(seeds)} seeds")
    spread = mesh is not None and mesh.shape["member"] > 1
    if spread and len(seeds) % mesh.shape["member"]:
        raise ValueError(f"{len(seeds)} members do not spread evenly over a member axis of {mesh.shape['member']}")
    if mode == "loop" and spread:
        raise ValueError(
            "mode='loop' runs members in turn; a mesh with a member axis spreads them: use 'vmap' or 'map'"
        )
    if len(seeds) == 1 and not spread:
        mode = "solo"
    return Ensemble(init, step, seeds, values, batch_axis, mode, mesh, tuple(rules))
