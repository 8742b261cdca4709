"""A transformation's state, saved here and gone on with in a fresh process: bit for bit."""

import hashlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxtrain.testing import _problem
from jaxtrain.testing._violations import Violation, demand, named_leaves, raised

_LAW = "resume"


def _step(tx: optax.GradientTransformation) -> Callable[..., Any]:
    tx = optax.with_extra_args_support(tx)

    @jax.jit
    def step(params, state, batch, t):
        key = jax.random.fold_in(jax.random.key(7), t)
        grads = jax.grad(_problem.value_fn(batch))(params)
        extras = _problem.standard_extra_args(params, grads, batch, key)
        updates, state = tx.update(grads, state, params, **extras)
        return optax.apply_updates(params, updates), state

    return step


def _digests(tree: Any) -> dict[str, str]:
    def data(x):
        x = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        return jax.device_get(x)

    return {name: hashlib.sha256(data(x).tobytes()).hexdigest() for name, x in named_leaves(tree).items()}


def _batch(params: Any, t: int) -> Any:
    return jax.tree.map(lambda x: x[t], _problem.batches(params))


def _resume(folder: Path) -> None:
    """What the fresh process does: restores every state against its abstract tree and takes one step."""
    from orbax.checkpoint import v1 as ocp

    found = {}
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for number, case in enumerate(json.loads((folder / "cases.json").read_text())):
        try:
            tx = getattr(importlib.import_module(case["module"]), case["name"])(**case["hyperparams"])
            params = _problem.default_params()
            carry = {"params": params, "state": jax.eval_shape(tx.init, params)}
            wanted = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), carry)
            carry = ocp.load(folder / str(number), wanted)
            after = _step(tx)(carry["params"], carry["state"], _batch(params, 2), jnp.int32(2))
            found[number] = _digests(after)
        except Exception as error:
            found[number] = {"": raised(error)}
    (folder / "found.json").write_text(json.dumps(found))


def find_resume_violations(
    cases: Sequence[tuple[Callable[..., optax.GradientTransformation], Mapping[str, Any]]],
) -> list[Violation]:
    """Where a run that is saved, loaded in a fresh process and continued differs; see :func:`check_resume`."""
    from orbax.checkpoint import v1 as ocp

    listed, expected = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).absolute()
        for number, (factory, hyperparams) in enumerate(cases):
            module, attribute = factory.__module__, factory.__qualname__
            if getattr(importlib.import_module(module), attribute, None) is not factory:
                raise ValueError(
                    f"a fresh process cannot import {module}.{attribute}; define it at the top of a module"
                )
            listed.append({"module": module, "name": attribute, "hyperparams": dict(hyperparams)})
            tx, params = factory(**hyperparams), _problem.default_params()
            step, carry = _step(tx), (params, tx.init(params))
            for t in range(2):
                carry = step(*carry, _batch(params, t), jnp.int32(t))
            ocp.save(folder / str(number), {"params": carry[0], "state": carry[1]})
            expected.append(_digests(step(*carry, _batch(params, 2), jnp.int32(2))))
        (folder / "cases.json").write_text(json.dumps(listed))
        # the same platform and flags give the same machine code, hence the same bits
        environment = os.environ | {
            "JAX_PLATFORMS": jax.default_backend(),
            "JAX_NUM_CPU_DEVICES": str(jax.config.jax_num_cpu_devices),
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        }
        command = [sys.executable, "-m", "jaxtrain.testing.resume", str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return [Violation(_LAW, "", f"the fresh process failed: {done.stderr.strip().splitlines()[-1]}")]
        found = json.loads((folder / "found.json").read_text())
    violations = []
    for number, (case, wanted) in enumerate(zip(listed, expected, strict=True)):
        got = found[str(number)]
        who = f"{case['module']}.{case['name']}"
        if "" in got and "" not in wanted:
            violations.append(Violation(_LAW, "", f"{who} {got['']}"))
            continue
        leaf = next((k for k in wanted if got.get(k) != wanted[k]), None)
        if leaf is not None:
            violations.append(Violation(_LAW, leaf, f"{who}: the step after restoring has other bits"))
    return violations


def check_resume(
    cases: Sequence[tuple[Callable[..., optax.GradientTransformation], Mapping[str, Any]]],
) -> None:
    """Raises :class:`ContractError` unless runs that are saved and continued in a fresh process keep every bit.

    Two steps, a save through ``orbax.checkpoint.v1``, and the third step twice: here, and in a process that has only
    the files and the factories. One process serves all cases; it starts in some seconds.

    Args:
      cases: pairs of a factory at the top of a module and its hyperparameters, which JSON can hold.

    Raises:
      ContractError: parameters or state after the third step differ.
      ValueError: a factory that cannot be imported by name.

    >>> check_resume([(lambda: optax.sgd(0.1), {})])
    Traceback (most recent call last):
    ValueError: a fresh process cannot import jaxtrain.testing.resume.<lambda>; define it at the top of a module
    """
    demand("the transformations", find_resume_violations(cases))


if __name__ == "__main__":
    _resume(Path(sys.argv[1]))
