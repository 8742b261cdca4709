"""A gradient at moved parameters: which way, how far, which leaves, in how many steps. Sharpness methods are instances."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxtrain.core import GradFn, Number, Params, check_finite_number
from jaxtrain.core.tree import safe_norm

Scope: TypeAlias = Callable[[tuple[Any, ...], Array], bool]
"""``(path, leaf) -> bool``: which leaves of the parameters are perturbed."""

Move: TypeAlias = Callable[[Params, Params, Params], Params]
"""``(params, offset, gradient at params + offset) -> next offset``: one step of an ascent that starts at offset 0."""


def kernels(path: tuple[Any, ...], leaf: Array) -> bool:
    """The scope of weight matrices and convolutions: leaves with at least two axes, whose name has no "bias" in it.

    >>> params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}
    >>> jax.tree_util.tree_map_with_path(kernels, params)
    {'dense': {'bias': False, 'kernel': True}}
    """
    return leaf.ndim > 1 and "bias" not in jax.tree_util.keystr(path[-1:]).lower()


def _inside(scope: Scope | None, tree: Params) -> Params:
    """The tree with zeros outside of the scope."""
    if scope is None:
        return tree
    return jax.tree_util.tree_map_with_path(lambda path, x: x if scope(path, x) else jnp.zeros_like(x), tree)


def _norms(tree: Params, per_leaf: bool) -> Params:
    """For each leaf the norm that it is measured by: its own, or that of all leaves together."""
    if per_leaf:
        return jax.tree.map(safe_norm, tree)
    norm = safe_norm(tree)
    return jax.tree.map(lambda _: norm, tree)


def ascent(
    params: Params,
    grads: Params,
    rho: Number,
    *,
    adaptive: bool = False,
    eta: Number = 0.01,
    per_leaf: bool = False,
    relative: bool = False,
    scope: Scope | None = None,
) -> Params:
    r"""The perturbation of length ``rho`` along which a linear model of the loss rises most.

    .. math:: e = \rho \frac{T^2 g}{\|T g\|_2}, \qquad T = I \text{ (SAM)}, \quad T = |\theta| + \eta \text{ (ASAM)},

    with one norm over all leaves, or one for each leaf. With ``relative`` the length of :math:`e` is
    :math:`\rho \|\theta\|_2`, the norm taken over the same leaves; both at once are the layers of adversarial weight
    perturbation. It is zero where the gradient is zero, and outside of the scope.

    Args:
      params: the parameters.
      grads: shaped like them.
      rho: length, ≥ 0; may be traced.
      adaptive: :math:`T = |\theta| + \eta`.
      eta: of ASAM.
      per_leaf: a ball for each leaf instead of one for all. (A leaf that stacks layers counts as one.)
      relative: measure ``rho`` in norms of the parameters.
      scope: which leaves move; None: all.

    Returns:
      The perturbation, with the structure and dtypes of ``params``.

    >>> ascent(jnp.zeros(2), jnp.array([3.0, 4.0]), 0.5).tolist()
    [0.30000001192092896, 0.4000000059604645]
    """
    grads = _inside(scope, grads)
    if adaptive:
        scaled = jax.tree.map(lambda p, g: (jnp.abs(p) + eta) * g, params, grads)
        direction = jax.tree.map(lambda p, s: (jnp.abs(p) + eta) * s, params, scaled)
    else:
        scaled = direction = grads
    sizes = _norms(_inside(scope, params), per_leaf) if relative else jax.tree.map(lambda _: 1, params)

    def of_leaf(d, p, norm, size):
        factor = jnp.where(norm > 0, rho * size / jnp.where(norm > 0, norm, 1), 0)
        return (factor * d).astype(p.dtype)

    return jax.tree.map(of_leaf, direction, params, _norms(scaled, per_leaf), sizes)


def projected_ascent(
    params: Params,
    offset: Params,
    grads: Params,
    epsilon: Number,
    rate: Number,
    *,
    per_leaf: bool = False,
    scope: Scope | None = None,
) -> Params:
    r"""A step of gradient ascent that is pulled back onto a ball: small gradients give small perturbations.

    .. math:: e \leftarrow \Pi_\epsilon(e + \zeta g), \qquad \Pi_\epsilon(e) = e \min(1, \epsilon / \|e\|_2)

    As :math:`\zeta \to \infty` it is :func:`ascent` of length :math:`\epsilon`.

    Args:
      params: the parameters; they give the dtypes.
      offset: :math:`e`, the perturbation so far.
      grads: :math:`g`, shaped like it.
      epsilon: radius, ≥ 0; may be traced.
      rate: :math:`\zeta`, ≥ 0; may be traced.
      per_leaf: a ball for each leaf instead of one for all.
      scope: which leaves move; None: all.

    Returns:
      The next perturbation, with the structure and dtypes of ``params``.

    >>> zero, g = jnp.zeros(2), jnp.array([3.0, 4.0])
    >>> [projected_ascent(zero, zero, g, 10.0, rate).tolist() for rate in (1.0, 4.0)]
    [[3.0, 4.0], [6.0, 8.0]]
    """
    raised = jax.tree.map(lambda e, g: e + rate * g, offset, _inside(scope, grads))

    def of_leaf(e, p, norm):
        return (e * jnp.where(norm > epsilon, epsilon / jnp.where(norm > 0, norm, 1), 1)).astype(p.dtype)

    return jax.tree.map(of_leaf, raised, params, _norms(raised, per_leaf))


def at_perturbed(grad_fn: GradFn, move: Move, *, steps: int = 1, report: str = "first") -> GradFn:
    r"""The gradient at parameters that are moved first: what SAM, ASAM, ImbSAM, AWP, AMP and IGNITE have in common.

    .. math:: \nabla L(\theta + e_n), \qquad e_0 = 0, \quad e_{k+1} = \text{move}(\theta, e_k, \nabla L(\theta + e_k))

    The parameters themselves are not changed and nothing is differentiated twice. Every pass sees the same batch, key
    and model state. It nests: the gradient function may be microbatched, joined from a Jacobian or perturbed itself.
    Costs ``steps + 1`` calls of ``grad_fn`` and one more copy of the parameters.

    Args:
      grad_fn: any gradient function.
      move: ``(params, offset, grads) -> offset``, such as a partial :func:`ascent` or :func:`projected_ascent`.
      steps: of the ascent, ≥ 0; they are unrolled.
      report: whose loss, metrics and model state (BatchNorm's running statistics) are returned: those of the ``"first"``
        pass, at the parameters themselves, or of the ``"last"``, where the gradient is taken.

    Returns:
      A gradient function.

    Raises:
      ValueError: ``steps`` or ``report`` out of range.

    >>> from jaxtrain.core import Aux
    >>> from jaxtrain.gradients import value_and_grad
    >>> grad_fn = value_and_grad(lambda w, s, x, k: (w**2 / 2, Aux(s, {})))
    >>> uphill = at_perturbed(grad_fn, lambda w, e, g: e + 0.5 * g, steps=2)
    >>> (loss, _), grads = uphill(jnp.array(2.0), {}, None, jax.random.key(0))
    >>> float(loss), float(grads)  # 2 -> 2 + 1 -> 2 + 1 + 1.5
    (2.0, 4.5)
    """
    check_finite_number("steps", steps, low=0)
    if report not in ("first", "last"):
        raise ValueError(f"report must be 'first' or 'last', got {report!r}")

    def perturbed(params, model_state, batch, key):
        first, grads = grad_fn(params, model_state, batch, key)
        last = first
        offset = jax.tree.map(jnp.zeros_like, params)
        for _ in range(steps):
            offset = move(params, offset, grads)
            moved = jax.tree.map(jnp.add, params, offset)
            last, grads = grad_fn(moved, model_state, batch, key)
        return (first if report == "first" else last), grads

    return perturbed
