"""The laws of a loss: one value for each example, no reduction."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain.testing._violations import Violation, as_numpy, chosen, demand, describe, differing_values, guarded

LOSS_LAWS: Mapping[str, str] = {
    "shape": "one value for each example",
    "dtype": "values have the dtype of the predictions, in bfloat16, float32 and float64",
    "jit": "jit(loss) gives what loss gives",
    "vmap": "vmap over batches gives what the loop gives",
    "batch": "an example's loss does not depend on the others",
    "permutation": "reordering the examples reorders the losses",
    "finite": "no NaN, and no infinity unless declared, at extreme and at equal predictions",
    "finite_gradient": "the same of the gradient",
    "gradient": "the gradient is that of central differences in float64",
    "bfloat16": "values in bfloat16 are those in float32, up to bfloat16's rounding",
    "labels": "integer labels out of range are refused or, as under jit, taken as the nearest class",
    "class_permutation": "renaming the classes changes nothing (only where it is asked for)",
}
"""The laws that :func:`check_loss` checks, and what each says."""

_ASKED_FOR = ("class_permutation",)
_BATCH = 6


def _default_inputs(num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return 2 * rng.standard_normal((_BATCH, num_classes)), rng.permutation(np.arange(_BATCH) % num_classes)


class _Subject:
    def __init__(self, fn, predictions, targets, extreme, may_be_infinite, rtol):
        self.fn, self.extreme, self.may_be_infinite, self.rtol = fn, extreme, may_be_infinite, rtol
        self.predictions = np.asarray(predictions, np.float64)
        self.targets = np.asarray(targets)

    def inputs(self, dtype=jnp.float32, predictions=None):
        """Predictions and targets; floating targets follow the predictions' dtype."""
        x = jnp.asarray(self.predictions if predictions is None else predictions, dtype)
        floating = np.issubdtype(self.targets.dtype, np.floating)
        return x, jnp.asarray(self.targets, dtype if floating else jnp.int32)

    @functools.cached_property
    def jitted(self):
        return jax.jit(self.fn)

    @functools.cached_property
    def expected(self):
        return self.fn(*self.inputs())

    @functools.cached_property
    def gradient(self):
        return jax.jit(jax.grad(lambda x, y: jnp.sum(self.fn(x, y))))

    def extremes(self):
        """Names and predictions at which losses break: every entry or one at a time far out, all alike, zero."""
        shape, big = self.predictions.shape, self.extreme
        rng = np.random.default_rng(1)
        yield f"predictions of ±{big:g}", big * rng.choice([-1.0, 1.0], shape)
        if len(shape) > 1:
            # each class in turn far above and far below: the right one and the wrong ones
            for sign in (1.0, -1.0):
                for k in range(min(shape[-1], 3)):
                    x = np.zeros(shape)
                    x[..., k] = sign * big
                    yield f"entry {k} at {sign * big:g}, the others 0", x
            if np.issubdtype(self.targets.dtype, np.integer) and self.targets.ndim == len(shape) - 1:
                right = np.eye(shape[-1])[self.targets]
                yield f"the right class at {big:g}, the others 0", big * right
                yield f"the right class at {-big:g}, the others 0", -big * right
                yield "the right class above by 100", 100.0 * right
        yield "predictions of 0", np.zeros(shape)
        yield f"equal predictions of {big:g}", np.full(shape, big)


def _shape(s: _Subject):
    if s.expected.shape != s.predictions.shape[:1]:
        yield Violation("shape", "", f"{s.predictions.shape[0]} examples gave {describe(s.expected)}")


def _dtype(s: _Subject):
    with jax.enable_x64(True):
        for dtype in (jnp.bfloat16, jnp.float32, jnp.float64):
            out = jax.eval_shape(s.fn, *s.inputs(dtype))
            if out.dtype != dtype:
                yield Violation("dtype", "", f"predictions of {jnp.dtype(dtype).name} gave {out.dtype.name}")
                return


def _jit(s: _Subject):
    return differing_values("jit", s.expected, s.jitted(*s.inputs()), s.rtol, left="eager", right="jit")


def _vmap(s: _Subject):
    x, y = s.inputs()
    xs, ys = jnp.stack([x, x[::-1] * 0.5]), jnp.stack([y, y])
    loop = jnp.stack([s.fn(xs[i], ys[i]) for i in range(2)])
    return differing_values("vmap", loop, jax.vmap(s.fn)(xs, ys), s.rtol, left="the loop", right="vmap")


def _batch(s: _Subject):
    x, y = s.inputs()
    half = len(x) // 2
    for n, part in ((half, "half of it"), (1, "one example alone")):
        broken = list(
            differing_values("batch", s.expected[:n], s.fn(x[:n], y[:n]), s.rtol, left="the whole batch", right=part)
        )
        if broken:
            return broken
    return []


def _permutation(s: _Subject):
    x, y = s.inputs()
    order = np.random.default_rng(2).permutation(len(x))
    got = s.fn(x[order], y[order])
    return differing_values("permutation", s.expected[order], got, s.rtol, left="in order", right="reordered")


def _bad(s: _Subject, array):
    return np.isnan(array) if s.may_be_infinite else ~np.isfinite(array)


def _extreme(s: _Subject, law: str, fn: Callable[..., Any]):
    for dtype in (jnp.float32, jnp.bfloat16):
        for name, x in s.extremes():
            got = as_numpy(fn(*s.inputs(dtype, x)))
            wrong = np.argwhere(_bad(s, got))
            if len(wrong):
                index = tuple(int(i) for i in wrong[0])
                yield Violation(law, "", f"{got[index]} for example {index[0]}: {name} ({jnp.dtype(dtype).name})")
                return


def _finite(s: _Subject):
    return _extreme(s, "finite", s.jitted)


def _finite_gradient(s: _Subject):
    return _extreme(s, "finite_gradient", s.gradient)


def _gradient(s: _Subject):
    with jax.enable_x64(True):
        x, y = s.inputs(jnp.float64)
        got = np.asarray(jax.grad(lambda x: jnp.sum(s.fn(x, y)))(x))
        # 6e-6 balances the cubic error against float64's rounding; every entry of an example is moved in turn
        h, size = 6e-6, int(np.prod(x.shape[1:], dtype=int))
        moves = np.eye(size).reshape(size, 1, *x.shape[1:]) * h
        difference = (jax.vmap(lambda d: s.fn(x + d, y))(moves) - jax.vmap(lambda d: s.fn(x - d, y))(moves)) / (2 * h)
        expected = np.moveaxis(np.asarray(difference), 0, 1).reshape(x.shape)
    return differing_values("gradient", expected, got, 1e-6, left="central differences", right="the gradient")


def _bfloat16(s: _Subject):
    x, y = s.inputs(jnp.bfloat16)
    wanted = s.fn(x.astype(jnp.float32), y.astype(jnp.float32) if jnp.issubdtype(y.dtype, jnp.floating) else y)
    # a few roundings of 2^-8
    return differing_values("bfloat16", wanted, s.fn(x, y), 2.0**-5, left="float32", right="bfloat16")


def _labels(s: _Subject):
    x, y = s.inputs()
    if not jnp.issubdtype(y.dtype, jnp.integer) or y.shape != x.shape[:-1]:
        return
    n = x.shape[-1]
    for wrong, nearest in ((n, n - 1), (-1, 0)):
        for how, fn in (("eager", s.fn), ("under jit", s.jitted)):
            try:
                got = fn(x, y.at[0].set(wrong))
            except ValueError:
                continue
            wanted = fn(x, y.at[0].set(nearest))
            broken = list(differing_values(
                "labels", wanted, got, s.rtol, left=f"label {nearest}", right=f"label {wrong} of {n} classes, {how},"
            ))  # fmt: skip
            if broken:
                yield from broken
                return


def _class_permutation(s: _Subject):
    x, y = s.inputs()
    order = np.random.default_rng(3).permutation(x.shape[-1])
    renamed = y[..., order] if y.ndim == x.ndim else jnp.asarray(np.argsort(order))[y]
    got = s.fn(x[..., order], renamed)
    return differing_values("class_permutation", s.expected, got, s.rtol, left="before", right="after renaming")


_CHECKS = {
    "shape": _shape,
    "dtype": _dtype,
    "jit": _jit,
    "vmap": _vmap,
    "batch": _batch,
    "permutation": _permutation,
    "finite": _finite,
    "finite_gradient": _finite_gradient,
    "gradient": _gradient,
    "bfloat16": _bfloat16,
    "labels": _labels,
    "class_permutation": _class_permutation,
}


def find_loss_violations(
    fn: Callable[[Any, Any], Any],
    *,
    predictions: Any = None,
    targets: Any = None,
    num_classes: int = 5,
    extreme: float = 1e4,
    may_be_infinite: bool = False,
    class_symmetric: bool = False,
    rtol: float = 1e-5,
    laws: Iterable[str] | None = None,
    except_: Iterable[str] = (),
) -> list[Violation]:
    """The laws that a loss breaks; arguments as in :func:`check_loss`.

    >>> def naive(logits, labels):
    ...     return -jnp.log(jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], 1)[:, 0])
    >>> [v.law for v in find_loss_violations(naive)]
    ['finite', 'finite_gradient', 'labels']
    """
    wanted = chosen(LOSS_LAWS, laws, except_)
    if laws is None and not class_symmetric:
        wanted = tuple(law for law in wanted if law not in _ASKED_FOR)
    x, y = _default_inputs(num_classes)
    x = x if predictions is None else predictions
    s = _Subject(fn, x, y if targets is None else targets, extreme, may_be_infinite, rtol)
    found: list[Violation] = []
    for law in wanted:
        broken = guarded(law, functools.partial(_CHECKS[law], s))
        found += broken
        # without one value for each example there is nothing to compare
        if law == "shape" and broken:
            break
    return found


def check_loss(
    fn: Callable[[Any, Any], Any],
    *,
    predictions: Any = None,
    targets: Any = None,
    num_classes: int = 5,
    extreme: float = 1e4,
    may_be_infinite: bool = False,
    class_symmetric: bool = False,
    rtol: float = 1e-5,
    laws: Iterable[str] | None = None,
    except_: Iterable[str] = (),
) -> None:
    """Raises :class:`ContractError`, one line for each broken law, unless a loss keeps all of :data:`LOSS_LAWS`.

    Args:
      fn: ``(predictions, targets) -> (batch,)``; bind hyperparameters with ``functools.partial``.
      predictions: ``(batch, ...)``; default: six rows of normal logits of ``num_classes`` classes.
      targets: for them; default: integer labels. Floating targets take the dtype of the predictions.
      num_classes: of the default inputs.
      extreme: the size of extreme predictions.
      may_be_infinite: infinities are right at extreme predictions; NaN never is.
      class_symmetric: also check that renaming the classes changes nothing.
      rtol: how far two orders of computation may differ, relative to the largest value: some dozens of roundings.
      laws: only these.
      except_: all but these.

    Raises:
      ContractError: a law is broken; its ``violations`` list them.
      ValueError: an unknown law.

    >>> import optax
    >>> loss = optax.losses.softmax_cross_entropy_with_integer_labels
    >>> check_loss(loss, class_symmetric=True, except_=("labels",))  # NaN there
    """
    found = find_loss_violations(
        fn,
        predictions=predictions,
        targets=targets,
        num_classes=num_classes,
        extreme=extreme,
        may_be_infinite=may_be_infinite,
        class_symmetric=class_symmetric,
        rtol=rtol,
        laws=laws,
        except_=except_,
    )
    demand("the loss", found)
