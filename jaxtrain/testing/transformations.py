"""The contract of an optax gradient transformation."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import optax

from jaxtrain.testing import _problem
from jaxtrain.testing._subject import Subject
from jaxtrain.testing._transformation_laws import CHECKS, FOLLOWS, TRANSFORMATION_LAWS, scan_and_vmap
from jaxtrain.testing._violations import Violation, chosen, demand, guarded


def find_violations(
    tx: optax.GradientTransformation | None = None,
    *,
    factory: Callable[..., optax.GradientTransformation] | None = None,
    hyperparams: Mapping[str, Any] | None = None,
    static_args: Sequence[str] = (),
    params: Any = None,
    extra_args: _problem.ExtraArgs = _problem.standard_extra_args,
    non_finite: str | None = "propagates",
    rtol: float = 3e-5,
    laws: Iterable[str] | None = None,
    except_: Iterable[str] = (),
) -> list[Violation]:
    """The laws that a transformation breaks; arguments as in :func:`check_gradient_transformation`.

    >>> import jax.numpy as jnp
    >>> [v.law for v in find_violations(optax.adam(1e-3, mu_dtype=jnp.float32), laws=["dtype", "jit"])]
    ['dtype']
    """
    if tx is None:
        if factory is None:
            raise ValueError("give a transformation, or factory= and hyperparams=")
        tx = factory(**(hyperparams or {}))
    if non_finite not in ("propagates", "skips", "stays_finite", None):
        raise ValueError(f"non_finite must be 'propagates', 'skips', 'stays_finite' or None, got {non_finite!r}")
    wanted = chosen(TRANSFORMATION_LAWS, laws, except_)
    subject = Subject(tx, params, extra_args, rtol, non_finite, factory, dict(hyperparams or {}), static_args)
    found: list[Violation] = []
    silent: set[str] = set()

    def note(law: str, violations: list[Violation]) -> None:
        found.extend(violations)
        if violations:
            silent.update(FOLLOWS.get(law, ()))

    for law in wanted:
        if law in silent or law in ("scan", "vmap") or (law == "sharded" and len(jax.devices()) < 8):
            continue
        note(law, guarded(law, functools.partial(CHECKS[law], subject)))
    pair = [law for law in ("scan", "vmap") if law in wanted and law not in silent]
    if pair:
        found.extend(guarded(pair[0], functools.partial(scan_and_vmap, subject, pair)))
    return found


def check_gradient_transformation(
    tx: optax.GradientTransformation | None = None,
    *,
    factory: Callable[..., optax.GradientTransformation] | None = None,
    hyperparams: Mapping[str, Any] | None = None,
    static_args: Sequence[str] = (),
    params: Any = None,
    extra_args: _problem.ExtraArgs = _problem.standard_extra_args,
    non_finite: str | None = "propagates",
    rtol: float = 3e-5,
    laws: Iterable[str] | None = None,
    except_: Iterable[str] = (),
) -> None:
    """Raises :class:`ContractError`, one line for each broken law, unless a transformation keeps all of them.

    The laws and what they say: :data:`TRANSFORMATION_LAWS`. Runs are three steps on a small smooth loss, whose value
    and gradient also make the extra arguments. About a second for a transformation of Adam's size on one core; a
    broken law that others build on is reported alone. The law ``sharded`` needs eight devices and is left out
    with fewer: ``jax.config.update("jax_num_cpu_devices", 8)`` before the first use of JAX makes them.

    Args:
      tx: the transformation.
      factory: what makes it, for ``inject_hyperparams``; with ``hyperparams`` and without ``tx`` it makes ``tx`` too.
      hyperparams: the arguments of ``factory``.
      static_args: those of the factory's arguments that are not numbers to be traced (counts, flags), as in
        ``optax.inject_hyperparams``.
      params: a tree of floating arrays; default: a (8, 4) matrix and a vector of 8.
      extra_args: ``(params, grads, batch, key) -> dict``; default: those that ``make_step`` gives.
      non_finite: what a NaN in a gradient does: ``"propagates"`` to the update, ``"skips"`` the step and leaves no
        trace, ``"stays_finite"`` in some other way; None: nothing is said.
      rtol: how far two orders of computation may differ, relative to the largest entry of a leaf. 3e-5 is some
        hundred roundings of single precision, over three steps.
      laws: only these.
      except_: all but these.

    Raises:
      ContractError: a law is broken; its ``violations`` list them.
      ValueError: an unknown law.

    >>> check_gradient_transformation(factory=optax.sgd, hyperparams={"learning_rate": 0.1}, laws=["jit", "dtype"])
    """
    found = find_violations(
        tx,
        factory=factory,
        hyperparams=hyperparams,
        static_args=static_args,
        params=params,
        extra_args=extra_args,
        non_finite=non_finite,
        rtol=rtol,
        laws=laws,
        except_=except_,
    )
    demand("the transformation", found)
