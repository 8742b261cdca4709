"""Subspace momentum, and SNSM: subspace momentum over the root of a subset norm."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxtrain.core import Number, Params, check_decays, check_finite_number
from jaxtrain.core.numerics import accumulator_dtype, run_if, static_int, zero_after
from jaxtrain.optimizers._decay import decay_after_step
from jaxtrain.optimizers.subset_norm import Subsets, accumulate, bias, check_subset

HIGHEST = jax.lax.Precision.HIGHEST
PROJECTIONS = ("svd", "uniform", "topk")


class SubspaceMomentumState(NamedTuple):
    """State of :func:`scale_by_subspace_momentum`.

    Of a matrix ``mu`` holds its momentum in the subspace and ``projectors`` an orthonormal basis of that (``"svd"``) or
    indices of rows or columns; of other leaves the momentum is shaped like them, and there is no projector.
    """

    count: Int[Array, ""]
    mu: Params
    projectors: Any


class _Subspace:
    """The subspace of one matrix: its shape and the way there and back."""

    def __init__(self, shape: tuple[int, ...], rank: int, projection: str):
        self.shape, self.projection = shape, projection
        self.tall = shape[0] >= shape[1]
        # bases lie along the shorter side (GaLore), indices along the longer one
        self.axis = (1 if self.tall else 0) if projection == "svd" else (0 if self.tall else 1)
        self.rank = min(rank, shape[self.axis])

    def empty(self, dtype):
        """Momentum and projector of the start."""
        low = list(self.shape)
        low[self.axis] = self.rank
        if self.projection == "svd":
            return jnp.zeros(low, dtype), jnp.zeros((self.rank, self.shape[self.axis]), dtype)
        return jnp.zeros(low, dtype), jnp.arange(self.rank, dtype=jnp.int32)

    def choose(self, g: Array, key: Array) -> Array:
        if self.projection == "svd":
            # of the smaller side: g = U S Vh, and its transpose has V instead of U
            return jnp.linalg.svd(g if self.tall else g.T, full_matrices=False)[2][: self.rank]
        if self.projection == "uniform":
            return jax.random.permutation(key, self.shape[self.axis])[: self.rank].astype(jnp.int32)
        return jax.lax.top_k(jnp.linalg.norm(g, axis=1 - self.axis), self.rank)[1].astype(jnp.int32)

    def into(self, g: Array, projector: Array) -> Array:
        if self.projection != "svd":
            return jnp.take(g, projector, axis=self.axis)
        if self.tall:
            return jnp.matmul(g, projector.T, precision=HIGHEST)
        return jnp.matmul(projector, g, precision=HIGHEST)

    def back(self, low: Array, projector: Array) -> Array:
        if self.projection != "svd":
            at = (projector, slice(None)) if self.axis == 0 else (slice(None), projector)
            return jnp.zeros(self.shape, low.dtype).at[at].set(low)
        if self.tall:
            return jnp.matmul(low, projector, precision=HIGHEST)
        return jnp.matmul(projector.T, low, precision=HIGHEST)


def scale_by_subspace_momentum(
    b1: Number = 0.9,
    *,
    rank: Number = 128,
    update_interval: Number = 200,
    projection: str = "svd",
    seed: int = 0,
    bias_correction: bool = True,
) -> optax.GradientTransformation:
    r"""Momentum in a subspace of each matrix, the raw gradient outside of it.

    With a projector :math:`P` (orthonormal rows):

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) P g, \qquad
       u = \frac1{1 - \beta_1^t}\big(P^\top m + (g - P^\top P g)\big) .

    At the first step, and whenever :math:`t` is a multiple of ``update_interval``, the subspace is chosen anew from the
    gradient and :math:`m` starts from zero. A refresh costs nothing in the steps between, under ``vmap`` too; therefore
    there is no reverse-mode derivative through this. Leaves that are not matrices have plain momentum. Not-a-number
    gradients spoil the state.

    Args:
      b1: decay of the momentum, in [0, 1).
      rank: of the subspace, ≥ 0; a Python integer. 0 is SGD; as large as the matrix is plain momentum.
      update_interval: steps between choices, ≥ 1.
      projection: ``"svd"``: the leading singular directions of the shorter side; ``"topk"``: the rows or columns with the
        largest norms, along the longer side; ``"uniform"``: random ones.
      seed: of the random ones.
      bias_correction: whether the fraction in front is there.

    Returns:
      A transformation with :class:`SubspaceMomentumState`. For an m × n matrix with m ≥ n and ``"svd"``: rank · (m + n)
      numbers.

    Raises:
      ValueError: a number out of range, or an unknown projection.
      TypeError: ``rank`` is traced.

    Source: Nguyen, Nguyen (2024), arXiv 2411.07120.

    >>> tx = scale_by_subspace_momentum(0.5, rank=1, bias_correction=False)
    >>> G = jnp.diag(jnp.array([4.0, 2.0]))
    >>> updates, _ = tx.update(G, tx.init(G))  # half of the large direction, all of the other
    >>> updates.round(5).tolist()
    [[2.0, 0.0], [0.0, 2.0]]
    """
    check_decays(b1=b1)
    check_finite_number("update_interval", update_interval, low=1)
    rank = static_int("rank", rank, low=0)
    if projection not in PROJECTIONS:
        raise ValueError(f"projection must be one of {', '.join(PROJECTIONS)}, got {projection!r}")

    def subspace(p):
        return _Subspace(p.shape, rank, projection) if p.ndim == 2 and p.size else None

    def init(params):
        leaves, structure = jax.tree.flatten(params)
        starts = [
            space.empty(accumulator_dtype(p))
            if (space := subspace(p))
            else (jnp.zeros(p.shape, accumulator_dtype(p)), None)
            for p in leaves
        ]
        mu, projectors = (structure.unflatten([start[i] for start in starts]) for i in range(2))
        return SubspaceMomentumState(jnp.zeros((), jnp.int32), mu, projectors)

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        leaves, structure = jax.tree.flatten(updates)
        mus, projectors = structure.flatten_up_to(state.mu), structure.flatten_up_to(state.projectors)
        spaces = [subspace(g) for g in leaves]
        wide = [g.astype(mu.dtype) for g, mu in zip(leaves, mus, strict=True)]

        def refresh(carry):
            mus, projectors = list(carry[0]), list(carry[1])
            wait = jnp.zeros(())
            keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), count), len(leaves))
            for i, space in enumerate(spaces):
                if space is not None and space.rank:
                    projectors[i] = space.choose(wide[i] + wait.astype(wide[i].dtype), keys[i])
                    mus[i] = jnp.zeros_like(mus[i])
                    if projection == "svd":
                        wait = zero_after(projectors[i])
            return mus, projectors

        if any(space is not None and space.rank for space in spaces):
            due = (count == 1) | (count % update_interval == 0)
            mus, projectors = run_if(due, refresh, (mus, projectors))
        scale = 1 / (1 - b1**count) if bias_correction else 1.0
        out, moments = [], []
        for g, g32, mu, projector, space in zip(leaves, wide, mus, projectors, spaces, strict=True):
            low = g32 if space is None else space.into(g32, projector)
            mu = (b1 * mu + (1 - b1) * low).astype(mu.dtype)
            # back is linear: one product for momentum and complement
            u = mu if space is None else g32 + space.back(mu - low, projector)
            out.append((scale * u).astype(g.dtype))
            moments.append(mu)
        unflatten = structure.unflatten
        return unflatten(out), SubspaceMomentumState(count, unflatten(moments), unflatten(projectors))

    return optax.GradientTransformation(init, update)


class SnsmState(NamedTuple):
    """State of :func:`scale_by_snsm`: that of the momentum, and one second moment for each subset."""

    momentum: SubspaceMomentumState
    nu: Params


def scale_by_snsm(
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-6,
    *,
    rank: Number = 128,
    update_interval: Number = 200,
    projection: str = "svd",
    seed: int = 0,
    subset: str | int = "rows",
    bias_correction: bool = True,
) -> optax.GradientTransformation:
    r"""Subspace momentum over the root of a subset norm (SNSM).

    With the momentum's :math:`n = P^\top m + (g - P^\top P g)` and the second moments of the whole gradient:

    .. math:: u_j = \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\,\frac{n_j}{\sqrt{v_i} + \epsilon}, \quad j \in \Psi_i .

    Args:
      b1, rank, update_interval, projection, seed: see :func:`scale_by_subspace_momentum`.
      b2, eps, subset: see :func:`jaxtrain.optimizers.scale_by_subset_norm`.
      bias_correction: whether the fraction in front is there.

    Returns:
      A transformation with :class:`SnsmState`: for an m × n matrix with m ≥ n and the defaults rank · (m + n) + m
      numbers, where Adam has 2 m n.

    Raises:
      ValueError: a number out of range, an unknown projection or subset.
      TypeError: ``rank`` is traced.

    Source: Nguyen, Nguyen (2024), arXiv 2411.07120.

    >>> tx = scale_by_snsm(0.5, 0.0, 0.0, rank=1, bias_correction=False)
    >>> G = jnp.diag(jnp.array([4.0, 2.0]))
    >>> updates, _ = tx.update(G, tx.init(G))
    >>> updates.round(5).tolist()
    [[0.5, 0.0], [0.0, 1.0]]
    """
    check_finite_number("b2", b2, low=0.0, high=1.0)
    check_finite_number("eps", eps, low=0.0)
    check_subset(subset)
    momentum = scale_by_subspace_momentum(
        b1, rank=rank, update_interval=update_interval, projection=projection, seed=seed, bias_correction=False
    )

    def init(params):
        nu = jax.tree.map(lambda p: jnp.zeros_like(Subsets(p.shape, subset).squares(p), accumulator_dtype(p)), params)
        return SnsmState(momentum.init(params), nu)

    def update(updates, state, params=None):
        del params
        wide = jax.tree.map(lambda g: g.astype(accumulator_dtype(g)), updates)
        numerators, inner = momentum.update(wide, state.momentum)
        scale = bias(inner.count, b1, b2) if bias_correction else 1.0
        nu = jax.tree.map(lambda g, nu: accumulate(nu, Subsets(g.shape, subset).squares(g), b2), wide, state.nu)

        def divide(g, n, nu):
            return (scale * Subsets(g.shape, subset).divide(n, jnp.sqrt(nu) + eps)).astype(g.dtype)

        return jax.tree.map(divide, updates, numerators, nu), SnsmState(inner, nu)

    return optax.GradientTransformation(init, update)


def snsm(
    learning_rate: optax.ScalarOrSchedule,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-6,
    weight_decay: Number = 0.0,
    *,
    rank: Number = 128,
    update_interval: Number = 200,
    projection: str = "svd",
    seed: int = 0,
    subset: str | int = "rows",
    bias_correction: bool = True,
) -> optax.GradientTransformation:
    r"""SNSM, and weight decay after the step: :math:`\theta \leftarrow (1 - \eta\lambda)(\theta - \eta u)`.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule; about ten times Adam's.
      b1, b2, eps, rank, update_interval, projection, seed, subset, bias_correction: see :func:`scale_by_snsm`, which
        gives :math:`u`.
      weight_decay: :math:`\lambda` ≥ 0.

    Returns:
      A transformation whose update needs ``params``.

    Raises:
      ValueError: a number out of range, an unknown projection or subset; from its update: without ``params``.
      TypeError: ``rank`` is traced.

    Source: Nguyen, Nguyen (2024), arXiv 2411.07120.

    >>> w = jnp.diag(jnp.array([4.0, 2.0]))
    >>> tx = snsm(0.5, 0.5, 0.0, 0.0, rank=1, bias_correction=False)
    >>> updates, _ = tx.update(w, tx.init(w), w)
    >>> jnp.diagonal(updates).round(5).tolist()
    [-0.25, -0.5]
    """
    check_finite_number("weight_decay", weight_decay, low=0.0)
    return optax.chain(
        scale_by_snsm(
            b1,
            b2,
            eps,
            rank=rank,
            update_interval=update_interval,
            projection=projection,
            seed=seed,
            subset=subset,
            bias_correction=bias_correction,
        ),
        optax.scale_by_learning_rate(learning_rate),
        decay_after_step("snsm", learning_rate, weight_decay),
    )
