"""Surrogates for offline optimization that do not tilt when their parameters are moved: IGNITE."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxtrain.core import (
    Aux,
    GradFn,
    Key,
    ModelState,
    Number,
    Objective,
    Params,
    Scalar,
    check_finite_number,
    check_key,
)
from jaxtrain.core.tree import safe_norm
from jaxtrain.gradients.perturbation import ascent, at_perturbed

_TINY = 1e-30


def _prediction_gradients(prediction: Objective, r: Number) -> Callable[..., tuple[Params, Params]]:
    """The gradient of the mean prediction at the parameters, and at ``r`` up along it: SAM's two passes, both kept."""

    def keeps_its_gradient(params, model_state, batch, key):
        _, grads = jax.value_and_grad(prediction, has_aux=True)(params, model_state, batch, key)
        return grads, grads

    return at_perturbed(keeps_its_gradient, lambda params, _, grads: ascent(params, grads, r))


def ignite2(
    grad_fn: GradFn, prediction: Objective, *, weight: Number = 1e-2, rho: Number = 0.2, r: Number = 0.2
) -> GradFn:
    r"""The gradient of a loss plus a fixed weight times the sharpness of the predictions (IGNITE-2).

    With :math:`G(\beta)` the mean prediction over the batch, the most that a perturbation of length :math:`\rho` changes
    it is :math:`\rho \|\nabla G\|` to first order, and the gradient of that is found by a finite difference:

    .. math:: \nabla L(\beta) + \lambda \frac{\rho}{r} \big( \nabla G(\beta + r u) - \nabla G(\beta) \big), \qquad
       u = \nabla G(\beta) / \|\nabla G(\beta)\|_2

    As :math:`r \to 0` the difference over :math:`r` is :math:`\nabla^2 G\, u`. Of a model that is linear in its
    parameters it is zero. Parameters that the mean does not depend on, such as those of a variance, get the loss's
    gradient alone; at :math:`\nabla G = 0` all do. Costs one call of ``grad_fn`` and two gradients of ``prediction``.

    Args:
      grad_fn: gradient function of the fit.
      prediction: ``(params, model_state, batch, key) -> (mean prediction, Aux)``, on clean inputs also where the fit sees
        noisy ones; its Aux is dropped.
      weight: :math:`\lambda` ≥ 0; 0 gives ``grad_fn``'s gradient.
      rho: :math:`\rho` ≥ 0.
      r: step of the difference, > 0.

    Returns:
      A gradient function; ``prediction_gradient_norm``, :math:`\|\nabla G\|`, joins its metrics.

    Raises:
      ValueError: a number out of range.

    Source: Dao, Nguyen, Truong, Hoang (2024), arXiv 2503.04242.

    >>> from jaxtrain.gradients import value_and_grad
    >>> fit = value_and_grad(lambda b, s, x, k: (jnp.sum(b**2) / 2, Aux(s, {})))
    >>> cubic = lambda b, s, x, k: (b[0] ** 3 / 3, Aux(s, {}))
    >>> grad_fn = ignite2(fit, cubic, weight=1.0, rho=0.1, r=0.01)
    >>> (_, aux), grads = grad_fn(jnp.array([2.0, 1.0]), {}, None, jax.random.key(0))
    >>> [round(float(g), 3) for g in grads], float(aux.metrics["prediction_gradient_norm"])  # 2 + 0.1 · (2 b + r), 1
    ([2.401, 1.0], 4.0)
    """
    check_finite_number("weight", weight, low=0.0)
    check_finite_number("rho", rho, low=0.0)
    check_finite_number("r", r, low=_TINY)
    pair = _prediction_gradients(prediction, r)

    def sharp(params, model_state, batch, key):
        (loss, aux), grads = grad_fn(params, model_state, batch, key)
        here, there = pair(params, model_state, batch, key)
        metrics = aux.metrics | {"prediction_gradient_norm": safe_norm(here)}
        grads = jax.tree.map(lambda g, h, t: (g + weight * rho / r * (t - h)).astype(g.dtype), grads, here, there)
        return (loss, Aux(aux.model_state, metrics)), grads

    return sharp


class IgniteState(NamedTuple):
    """The model state of :func:`ignite`: the multiplier, a scalar, and the model's own state."""

    multiplier: Scalar
    model_state: ModelState


def ignite(
    grad_fn: GradFn,
    prediction: Objective,
    *,
    rho: Number = 0.05,
    r: Number = 0.05,
    epsilon: Number = 0.1,
    dual_rate: Number = 1e-3,
) -> GradFn:
    r"""The gradient of a loss under a bound on the sharpness of the predictions, with a learned multiplier (IGNITE).

    .. math:: \min_\beta L(\beta) \text{ subject to } \rho \|\nabla G(\beta)\| \le \epsilon

    The gradient is that of :func:`ignite2` with the multiplier for its weight; after it
    :math:`\lambda \leftarrow \max(0, \lambda + \eta (\rho \|\nabla G\| - \epsilon))`. (The released code lets
    :math:`\lambda` become negative, which rewards sharpness.) The multiplier lives in the model state, so that any
    training step carries it: wrap the model's own as ``IgniteState(jnp.array(1e-3), model_state)``. Costs one call of
    ``grad_fn`` and two gradients of ``prediction``.

    Args:
      grad_fn: gradient function of the fit; it sees the model's own state.
      prediction: ``(params, model_state, batch, key) -> (mean prediction, Aux)``; its Aux is dropped.
      rho: :math:`\rho` ≥ 0.
      r: step of the difference, > 0.
      epsilon: the bound, ≥ 0.
      dual_rate: :math:`\eta` ≥ 0; 0 keeps the multiplier.

    Returns:
      A gradient function; ``multiplier`` (the one used) and ``prediction_gradient_norm`` join its metrics.

    Raises:
      ValueError: a number out of range.
      TypeError: while tracing, the model state is no :class:`IgniteState`.

    Source: Dao, Nguyen, Truong, Hoang (2024), arXiv 2503.04242.

    >>> from jaxtrain.gradients import value_and_grad
    >>> fit = value_and_grad(lambda b, s, x, k: (jnp.sum(b**2) / 2, Aux(s, {})))
    >>> cubic = lambda b, s, x, k: (b[0] ** 3 / 3, Aux(s, {}))
    >>> grad_fn = ignite(fit, cubic, rho=0.1, r=0.01, epsilon=0.2, dual_rate=1.0)
    >>> state = IgniteState(jnp.array(1.0), {})
    >>> (_, aux), _ = grad_fn(jnp.array([2.0, 1.0]), state, None, jax.random.key(0))
    >>> round(float(aux.model_state.multiplier), 4)  # 1 + (0.1 · 4 - 0.2)
    1.2
    """
    check_finite_number("rho", rho, low=0.0)
    check_finite_number("r", r, low=_TINY)
    check_finite_number("epsilon", epsilon, low=0.0)
    check_finite_number("dual_rate", dual_rate, low=0.0)

    def constrained(params, model_state, batch, key):
        if not isinstance(model_state, IgniteState):
            raise TypeError(
                f"ignite keeps its multiplier in the model state: start from IgniteState(jnp.array(1e-3), model_state), "
                f"got {type(model_state).__name__}"
            )
        multiplier, inner = model_state
        fixed = ignite2(grad_fn, prediction, weight=multiplier, rho=rho, r=r)
        (loss, aux), grads = fixed(params, inner, batch, key)
        norm = aux.metrics["prediction_gradient_norm"]
        risen = jnp.maximum(multiplier + dual_rate * (rho * norm - epsilon), 0).astype(multiplier.dtype)
        return (loss, Aux(IgniteState(risen, aux.model_state), aux.metrics | {"multiplier": multiplier})), grads

    return constrained


def surrogate_sharpness(
    predict: Callable[[Params], Scalar], params: Params, key: Key, *, rho: Number, num_samples: int = 32
) -> Scalar:
    r"""How much a perturbation of the parameters of length ``rho`` can change a prediction: a lower bound by search.

    .. math:: \max_{\|d\|_2 \le \rho} |G(\beta + d) - G(\beta)| \;\approx\; \rho \|\nabla G(\beta)\|_2

    The largest over random directions and over both signs of the gradient, which is exact for models that are linear
    in their parameters. Costs one gradient and ``num_samples + 3`` predictions, one after the other.

    Args:
      predict: ``params -> mean prediction``.
      params: where.
      key: for the directions.
      rho: length of the perturbations, ≥ 0; may be traced.
      num_samples: random directions, ≥ 0.

    Returns:
      A scalar.

    Raises:
      ValueError: a number out of range.

    Source: Dao, Nguyen, Truong, Hoang (2024), arXiv 2503.04242.

    >>> key = jax.random.key(0)
    >>> round(float(surrogate_sharpness(lambda b: b @ jnp.array([3.0, 4.0]), jnp.ones(2), key, rho=0.1)), 4)
    0.5
    """
    check_key(key, where="surrogate_sharpness")
    check_finite_number("rho", rho, low=0.0)
    check_finite_number("num_samples", num_samples, low=0)
    here, grads = jax.value_and_grad(predict)(params)

    def change(direction, length):
        moved = jax.tree.map(jnp.add, params, ascent(params, direction, length))
        return jnp.abs(predict(moved) - here)

    def of_sample(k):
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(k, len(leaves))
        noise = [jax.random.normal(k, p.shape, p.dtype) for k, p in zip(keys, leaves, strict=True)]
        return change(structure.unflatten(noise), rho)

    along = jnp.maximum(change(grads, rho), change(grads, -rho))
    return jnp.max(jax.lax.map(of_sample, jax.random.split(key, num_samples)), initial=along) if num_samples else along


def offline_gradient_ascent(
    predict: Callable[[Float[Array, "..."]], Float[Array, " designs"]],
    designs: Float[Array, "designs ..."],
    *,
    steps: int,
    rate: Number,
) -> Float[Array, "designs ..."]:
    r"""Designs that a surrogate promises more of: ``steps`` of gradient ascent on its predictions.

    .. math:: x \leftarrow x + \eta \nabla_x g(x)

    Each design climbs on its own. The released code starts from the 128 best of the data, takes 200 steps and scales
    the rate 0.01 by the square root of the dimension.

    Args:
      predict: ``(designs, ...) -> (designs,)`` values of the surrogate; a design's value must not depend on the others.
      designs: where to start.
      steps: ≥ 0.
      rate: :math:`\eta` ≥ 0; may be traced.

    Returns:
      Designs of the same shape and dtype.

    Raises:
      ValueError: a number out of range, or predictions that are not one for each design.

    Source: as the search of Dao, Nguyen, Truong, Hoang (2024), arXiv 2503.04242.

    >>> parabola = lambda x: -jnp.sum((x - 1.0) ** 2, axis=1) / 2
    >>> offline_gradient_ascent(parabola, jnp.array([[0.0], [3.0]]), steps=2, rate=0.5).tolist()
    [[0.75], [1.5]]
    """
    check_finite_number("steps", steps, low=0)
    check_finite_number("rate", rate, low=0.0)
    values = jax.eval_shape(predict, designs)
    if values.shape != designs.shape[:1]:
        raise ValueError(
            f"offline_gradient_ascent: {designs.shape[0]} designs need as many predictions, got {values.shape}"
        )
    slope = jax.grad(lambda x: jnp.sum(predict(x)))

    def climb(x, _):
        return (x + rate * slope(x)).astype(x.dtype), None

    return jax.lax.scan(climb, designs, None, steps)[0]
