"""Steepest descent under a norm for each layer: sign descent, Muon and their like as one method."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxtrain.core import Number, Params, Scalar, check_decays, check_finite_number
from jaxtrain.core.numerics import accumulator_dtype, static_int, zeros_accumulator
from jaxtrain.optimizers._labels import label_leaves
from jaxtrain.optimizers.norms import LENGTHS, NORMS, ROLES, DualPair, base_and_scale, dual_pair, norm_over


def norms_by_role(params: Params, *, embeddings: Sequence[str] = ("embed",)) -> Any:
    """A norm for each parameter by what it does: ``"embedding"``, ``"linear"`` (two axes or more) or ``"rms"``.

    Args:
      params: a tree.
      embeddings: regular expressions for the paths of tables that are indexed by tokens.

    Returns:
      A tree of names like the parameters.

    Source: Bernstein, Newhouse (2024), arXiv 2409.20325, who leave the choice open and suggest these.

    >>> norms_by_role({"embed": jnp.ones((9, 2)), "mlp": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}})
    {'embed': 'embedding', 'mlp': {'bias': 'rms', 'kernel': 'linear'}}
    """

    def role(path, p):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if jnp.ndim(p) < 2:
            return "rms"
        return "embedding" if any(re.search(pattern, name) for pattern in embeddings) else "linear"

    return jax.tree_util.tree_map_with_path(role, params)


class _Leaf:
    """One parameter under its norm."""

    def __init__(self, role: str, shape: tuple[int, ...], stacked: int):
        if role not in NORMS + ROLES:
            raise ValueError(f"norms: expected one of {', '.join(NORMS + ROLES)}, got {role!r}")
        own = shape[stacked:]
        if role in ("spectral", "row_l2", "col_l2", "linear", "embedding"):
            if len(own) < 2:
                raise ValueError(
                    f"norms: {role!r} is of matrices, and a parameter has shape {shape}"
                    + (f" of which the first {stacked} stack layers" if stacked else "")
                )
            # the kernel of a convolution (…, in, out) maps all that it sees
            own = (math.prod(own[:-1]), own[-1])
        self.shape, self.view, self.axes = shape, (*shape[:stacked], *own), len(own)
        self.base, self.scale = base_and_scale(role, own) if 0 not in shape else ("l2", 1.0)

    def pair(self, g: Array, num_steps: int | None, wait: Array) -> DualPair:
        if not g.size:
            return DualPair(g, jnp.zeros((), g.dtype), wait)
        pair = dual_pair(g.reshape(self.view), self.base, num_axes=self.axes, num_steps=num_steps, wait=wait)
        return DualPair(pair.direction.reshape(self.shape), pair.norm, pair.wait)

    def norm_of(self, w: Array) -> Array:
        """The largest over stacked layers of the norm itself."""
        w = w.reshape(self.view)
        axes = tuple(range(w.ndim - self.axes, w.ndim))
        if self.base == "linf":
            sizes = jnp.abs(w)
        elif self.base == "spectral":
            sizes = jnp.linalg.svd(w, compute_uv=False)
        else:
            sizes = norm_over(w, axes[LENGTHS[self.base]])
        return self.scale * jnp.max(sizes, initial=0)


def _leaves(norms: Any, tree: Params, stacked: int) -> list[_Leaf]:
    roles = jax.tree.leaves(label_leaves(norms, tree))
    return [_Leaf(role, jnp.shape(leaf), stacked) for role, leaf in zip(roles, jax.tree.leaves(tree), strict=True)]


def modular_norm(params: Params, norms: Any = norms_by_role, *, stacked_axes: int = 0) -> Scalar:
    r"""The largest of all parameters' norms, each in its own: :math:`\max_l \|W_l\|_l`.

    Args:
      params: a tree.
      norms: as in :func:`scale_by_steepest_descent`.
      stacked_axes: likewise.

    Returns:
      A number, in float32 at least.

    Raises:
      ValueError: an unknown name, or one that does not fit a shape.

    Source: Bernstein, Newhouse (2024), arXiv 2409.20325; Large, Liu, Huh, Bahng, Isola, Bernstein (2024), arXiv 2405.14813.

    >>> round(float(modular_norm({"kernel": 3 * jnp.eye(2), "bias": jnp.array([1.0, 1.0])})), 5)
    3.0
    """
    wide = [p.astype(accumulator_dtype(p)) for p in jax.tree.leaves(params)]
    leaves = _leaves(norms, params, static_int("stacked_axes", stacked_axes, low=0))
    return jnp.max(jnp.stack([leaf.norm_of(p) for leaf, p in zip(leaves, wide, strict=True)]))


class SteepestDescentState(NamedTuple):
    """State of :func:`scale_by_steepest_descent`: the mean of gradients, in float32 at least, or None without."""

    mu: Params | None


def scale_by_steepest_descent(
    norms: Any = norms_by_role,
    *,
    b1: Number | None = None,
    combine: str = "none",
    sharpness: Number = 1.0,
    num_steps: int | None = 5,
    stacked_axes: int = 0,
) -> optax.GradientTransformation:
    r"""The direction of steepest descent under a norm for each parameter.

    With the dual norms :math:`\|g_l\|_l^*` and the unit directions
    :math:`t_l = \arg\max_{\|t\|_l = 1}\langle g_l, t\rangle`:

    .. math:: u_l = t_l \quad (\text{``none''}), \qquad
       u_l = \frac1\lambda \Big(\sum_k \|g_k\|_k^*\Big)\, t_l \quad (\text{``max''}),

    the second being (with the sign of descent) the minimum of
    :math:`\langle g, \Delta\rangle + \frac\lambda2 \max_l \|\Delta_l\|_l^2`: all layers move as far, each in its norm.

    Norms by name: those of :func:`jaxtrain.optimizers.dual_map`, of the matrix as it is; and by role

    - ``"linear"``: a kernel (…, in, out), from root mean square to root mean square:
      :math:`t = \sqrt{d_{out}/d_{in}}\; U V^\top`;
    - ``"embedding"``: a table (tokens, d): each row over its root mean square;
    - ``"rms"``: the whole over its root mean square; ``"sign"``: the sign of each entry.

    ``"sign"`` everywhere is Adam without its averages (sign descent), ``"spectral"`` Shampoo without its sums, and
    with ``b1`` Muon; the roles are what makes rates fit all widths. Not-a-number gradients give not-a-number updates.

    Args:
      norms: a name for all, a tree of names like the parameters or a prefix of them, or a function from the parameters to
        one.
      b1: decay of a mean of gradients that is taken before, in [0, 1); None: none, and no memory for it.
      combine: ``"none"``: each direction has norm one; ``"max"``: as above.
      sharpness: :math:`\lambda` > 0, for ``"max"``.
      num_steps: of Newton-Schulz (:func:`jaxtrain.optimizers.newton_schulz_orthogonalize`) for spectral norms, which is
        within 30 %; None: exact, by a singular value decomposition at every step.
      stacked_axes: so many leading axes of every parameter only stack layers, each with a direction of its own.

    Returns:
      A transformation with :class:`SteepestDescentState`.

    Raises:
      ValueError: a number out of range; from init and update: an unknown name, or one that does not fit a shape.

    Source: Bernstein, Newhouse (2024), arXiv 2409.20325.

    >>> tx = scale_by_steepest_descent({"w": "spectral", "b": "sign"}, combine="max", num_steps=None)
    >>> grads = {"w": jnp.diag(jnp.array([3.0, -4.0])), "b": jnp.array([0.5, -0.5])}
    >>> updates, _ = tx.update(grads, tx.init(grads))  # dual norms 7 and 1
    >>> jnp.diagonal(updates["w"]).round(4).tolist(), updates["b"].round(4).tolist()
    ([8.0, -8.0], [8.0, -8.0])
    """
    if b1 is not None:
        check_decays(b1=b1)
    check_finite_number("sharpness", sharpness, low=1e-38)
    if combine not in ("none", "max"):
        raise ValueError(f"combine must be 'none' or 'max', got {combine!r}")
    if num_steps is not None:
        static_int("num_steps", num_steps, low=1)
    stacked = static_int("stacked_axes", stacked_axes, low=0)

    def init(params):
        _leaves(norms, params, stacked)  # mistakes are told here
        return SteepestDescentState(None if b1 is None else zeros_accumulator(params))

    def update(updates, state, params=None):
        del params
        wide = jax.tree.map(lambda g: g.astype(accumulator_dtype(g)), updates)
        mu = None
        if b1 is not None:
            mu = wide = jax.tree.map(lambda m, g: (b1 * m + (1 - b1) * g).astype(m.dtype), state.mu, wide)
        grads, structure = jax.tree.flatten(updates)
        pairs, wait = [], jnp.zeros(())
        leaves = _leaves(norms, updates, stacked)
        for leaf, g in zip(leaves, jax.tree.leaves(wide), strict=True):
            pairs.append(leaf.pair(g, num_steps, wait))
            wait = pairs[-1].wait
        factor: Any = 1.0
        if combine == "max":
            factor = sum(jnp.sum(pair.norm) / leaf.scale for pair, leaf in zip(pairs, leaves, strict=True)) / sharpness
        out = [
            (factor / leaf.scale * pair.direction).astype(g.dtype)
            for leaf, pair, g in zip(leaves, pairs, grads, strict=True)
        ]
        return structure.unflatten(out), SteepestDescentState(mu)

    return optax.GradientTransformation(init, update)


def steepest_descent(
    learning_rate: optax.ScalarOrSchedule,
    norms: Any | Callable[[Params], Any] = norms_by_role,
    *,
    b1: Number | None = None,
    combine: str = "none",
    sharpness: Number = 1.0,
    num_steps: int | None = 5,
    stacked_axes: int = 0,
    weight_decay: Number = 0.0,
    mask: Any = None,
) -> optax.GradientTransformation:
    r"""Steepest descent under a norm for each parameter: :math:`\theta \leftarrow \theta - \eta\,(u + \lambda\theta)`.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule.
      norms, b1, combine, sharpness, num_steps, stacked_axes: see :func:`scale_by_steepest_descent`, which gives :math:`u`.
      weight_decay: :math:`\lambda` ≥ 0.
      mask: which parameters decay: a tree of booleans, or a function from the parameters to one; None: all.

    Returns:
      A transformation; with weight decay its update needs ``params``.

    Raises:
      ValueError: as :func:`scale_by_steepest_descent`.

    Source: Bernstein, Newhouse (2024), arXiv 2409.20325.

    >>> tx = steepest_descent(0.1, "sign")
    >>> w = jnp.array([3.0, -0.2])
    >>> updates, _ = tx.update(w, tx.init(w), w)
    >>> (10 * updates).round(4).tolist()
    [-1.0, 1.0]
    """
    check_finite_number("weight_decay", weight_decay, low=0.0)
    return optax.chain(
        scale_by_steepest_descent(
            norms,
            b1=b1,
            combine=combine,
            sharpness=sharpness,
            num_steps=num_steps,
            stacked_axes=stacked_axes,
        ),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
