"""SOAP: Adam in the slowly turning eigenbasis of Shampoo's preconditioner."""

import functools
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, Params, check_decays, check_finite_number
from jaxtrain.core.numerics import (
    accumulator_dtype,
    known_after,
    over_matrices,
    row_major,
    run_if,
    static_int,
    zero_after,
    zeros_accumulator,
)
from jaxtrain.optimizers._decay import decay_after_step
from jaxtrain.optimizers._fused import map_leaves

Factors: TypeAlias = Any
"""For every parameter a tuple with a square matrix, or None, for each of its axes."""


class SoapState(NamedTuple):
    """State of :func:`scale_by_soap`, in float32 at least.

    ``mu`` and ``nu`` are shaped like the parameters and live in the rotated coordinates. ``covariances`` and ``bases``
    cannot be: in place of a parameter of shape (m, n) they hold a tuple with an (m, m) and an (n, n) matrix, or None
    for an axis that is not rotated.
    """

    count: Int[Array, ""]
    mu: Params
    nu: Params
    covariances: Factors
    bases: Factors


def eigenbasis_qr_update(
    P: Float[Array, "n n"], Q: Float[Array, "n n"], v: Float[Array, "..."], axis: int
) -> tuple[Float[Array, "n n"], Float[Array, "..."]]:
    r"""One power iteration with re-orthogonalisation: moves a basis towards the eigenbasis of a matrix.

    With the estimates :math:`\operatorname{diag}(Q^\top P Q)` of the eigenvalues, the columns of :math:`Q` are put in
    descending order and :math:`Q \leftarrow \operatorname{qr}(P Q)`. What is kept for each column, ``v``, is put in the
    same order, and not rotated.

    Args:
      P: a symmetric positive semidefinite matrix.
      Q: an orthogonal matrix near its eigenbasis.
      v: an array whose ``axis`` runs over the columns of ``Q``.
      axis: that axis.

    Returns:
      The new basis and the reordered ``v``.

    Source: Vyas et al. (2024), arXiv 2409.11321.

    >>> Q, v = eigenbasis_qr_update(jnp.diag(jnp.array([1.0, 9.0])), jnp.eye(2), jnp.array([10.0, 20.0]), axis=0)
    >>> jnp.abs(Q).tolist(), v.tolist()
    ([[0.0, 1.0], [1.0, 0.0]], [20.0, 10.0])
    """
    image = jnp.matmul(P, Q, precision=jax.lax.Precision.HIGHEST)
    order = jnp.argsort(jnp.sum(Q * image, axis=0), descending=True)
    return jnp.linalg.qr(image[:, order])[0], jnp.take(v, order, axis=axis)


def _rotate(x: Array, bases: tuple[Array | None, ...], *, back: bool = False) -> Array:
    """Each axis of ``x`` into the coordinates of its basis, or back."""
    for axis, q in enumerate(bases):
        if q is not None:
            # full float32: on accelerators the default precision would round a rotation to some 8 bits
            turned = jnp.tensordot(x, q, axes=(axis, 1 if back else 0), precision=jax.lax.Precision.HIGHEST)
            x = jnp.moveaxis(turned, -1, axis)
    return x


def _add_covariance(c: Array | None, g: Array, axis: int, decay: Number) -> Array | None:
    if c is None:
        return None
    others = [a for a in range(g.ndim) if a != axis]
    new = jnp.tensordot(g, g, axes=(others, others), precision=jax.lax.Precision.HIGHEST)
    return (c + (1 - decay) * (new - c)).astype(c.dtype)


def _refresh(mu: Array, nu: Array, covariances: tuple, bases: tuple) -> tuple[Array, Array, tuple]:
    new = list(bases)
    wait = jnp.zeros((), mu.dtype)
    for axis, (c, q) in enumerate(zip(covariances, bases, strict=True)):
        if q is not None:
            new[axis], nu = eigenbasis_qr_update(c + wait, q, nu, axis)
            wait = zero_after(new[axis])
    return _rotate(_rotate(mu, bases, back=True), tuple(new)), nu, tuple(new)


def scale_by_soap(
    b1: Number = 0.95,
    b2: Number = 0.95,
    eps: Number = 1e-8,
    *,
    shampoo_beta: Number | None = None,
    precondition_frequency: Number = 10,
    max_precond_dim: Number = 10_000,
    precondition_1d: bool = False,
    bias_correction: bool = True,
    normalize: bool = False,
    stacked_axes: int = 0,
) -> optax.GradientTransformation:
    r"""Rescales updates by Adam's rule in the eigenbasis of Shampoo's preconditioner.

    For a matrix :math:`G` with bases :math:`Q_L, Q_R`:

    .. math::
       G' = Q_L^\top G\,Q_R, \quad M \leftarrow \beta_1 M + (1 - \beta_1) G', \quad
       V \leftarrow \beta_2 V + (1 - \beta_2) G'^2, \quad
       U = \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\; Q_L \frac{M}{\sqrt V + \epsilon} Q_R^\top,

    then :math:`L \leftarrow \beta_s L + (1 - \beta_s)\,G G^\top`,
    :math:`R \leftarrow \beta_s R + (1 - \beta_s)\,G^\top G` and, at every ``precondition_frequency``-th step, each
    basis one :func:`eigenbasis_qr_update`, with :math:`M` turned into the new bases. The first call only starts
    :math:`L`, :math:`R` and the bases (by ``eigh``) and returns zeros.
    A tensor has a factor for each axis. Scalars, vectors (without ``precondition_1d``) and axes longer than
    ``max_precond_dim`` are not rotated; without any rotation this is Adam, one step late.

    The refresh costs nothing in the steps between, under ``vmap`` too; therefore there is no reverse-mode derivative
    through this transformation. Not-a-number gradients spoil the state: put ``optax.apply_if_finite`` around it. So do
    those whose squares overflow (above some 1e19 in float32): clip them before.

    Args:
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: added to the root of the (not bias-corrected) second moment, ≥ 0.
      shampoo_beta: decay :math:`\beta_s` of :math:`L` and :math:`R`; None: ``b2``.
      precondition_frequency: steps between refreshes of the bases, ≥ 1.
      max_precond_dim: the longest axis that is rotated. It decides shapes: a Python integer.
      precondition_1d: whether vectors are rotated.
      bias_correction: whether the fraction in front of :math:`U` is there.
      normalize: divide each :math:`U` (before that fraction) by its root mean square.
      stacked_axes: so many leading axes of every parameter only stack layers, each with bases of its own.

    Returns:
      A transformation with :class:`SoapState`. For an m × n matrix it holds 2 (m² + n²) numbers besides Adam's.

    Raises:
      ValueError: a number out of range.
      TypeError: ``max_precond_dim`` or ``stacked_axes`` is traced.

    Source: Vyas, Morwani, Zhao, Shapira, Brandfonbrener, Janson, Kakade (2024), arXiv 2409.11321.

    >>> tx = scale_by_soap()
    >>> G = jnp.array([[3.0, 0.0], [0.0, -0.1]])
    >>> first, state = tx.update(G, tx.init(G))
    >>> second, state = tx.update(G, state)
    >>> first.tolist(), second.round(3).tolist()
    ([[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, -1.0]])
    """
    check_decays(b1=b1, b2=b2)
    decay = b2 if shampoo_beta is None else shampoo_beta
    check_finite_number("shampoo_beta", decay, low=0.0, high=1.0)
    check_finite_number("eps", eps, low=0.0)
    check_finite_number("precondition_frequency", precondition_frequency, low=1)
    stacked = static_int("stacked_axes", stacked_axes, low=0)

    def over_layers(fn, leaf):
        """``fn`` of one layer as a function of the layers that a leaf stacks."""
        for _ in range(min(stacked, leaf.ndim)):
            fn = jax.vmap(fn)
        return fn

    def init(params):
        longest = static_int("max_precond_dim", max_precond_dim, low=1)

        def factors(p):
            lead, shape = p.shape[:stacked], p.shape[stacked:]
            rotated = p.size and (len(shape) > 1 or (len(shape) == 1 and precondition_1d))
            # an axis of length one has nothing to rotate
            return tuple(
                jnp.zeros((*lead, n, n), accumulator_dtype(p)) if rotated and 1 < n <= longest else None for n in shape
            )

        return SoapState(
            jnp.zeros((), jnp.int32),
            zeros_accumulator(params),
            zeros_accumulator(params),
            jax.tree.map(factors, params),
            jax.tree.map(factors, params),
        )

    def update(updates, state, params=None):
        del params
        t = state.count  # Adam's own counter: the first call does not count
        first = t == 0

        def step(g, mu, nu, covariances, bases):
            g32 = g.astype(mu.dtype)
            turned = _rotate(g32, bases)
            mu = jnp.where(first, mu, b1 * mu + (1 - b1) * turned).astype(mu.dtype)
            nu = jnp.where(first, nu, b2 * nu + (1 - b2) * turned**2).astype(nu.dtype)
            u = _rotate(mu / (jnp.sqrt(nu) + eps), bases, back=True)
            if normalize and u.size:
                u = u / (1e-30 + jnp.sqrt(jnp.mean(u**2)))
            if bias_correction:
                steps = jnp.maximum(t, 1)
                u = u * jnp.sqrt(1 - b2**steps) / (1 - b1**steps)
            covariances = tuple(_add_covariance(c, g32, axis, decay) for axis, c in enumerate(covariances))
            return jnp.where(first, 0, u).astype(g.dtype), mu, nu, covariances

        updates, mu, nu, covariances = map_leaves(
            lambda g, *rest: over_layers(step, g)(g, *rest), 4, updates, *state[1:]
        )
        bases = state.bases
        if jax.tree.leaves(bases):

            def start(covariances, _):
                matrices, structure = jax.tree.flatten(covariances)
                found, wait = [], jnp.zeros(())
                for c in matrices:
                    eigenbases = over_matrices(lambda c: jnp.linalg.eigh(c)[1], batch_axes=c.ndim - 2)
                    found.append(eigenbases(c + wait.astype(c.dtype))[..., ::-1])
                    wait = zero_after(found[-1])
                return structure.unflatten(found)

            def refresh(covariances, carry):
                mu, nu, bases = carry
                leaves, structure = jax.tree.flatten(mu)
                columns = [structure.flatten_up_to(tree) for tree in (nu, covariances, bases)]
                results, wait = [], jnp.zeros(())
                for leaf, nu, factors, old in zip(leaves, *columns, strict=True):
                    waiting = jax.tree.map(lambda c, wait=wait: c + wait.astype(c.dtype), factors)
                    each = over_matrices(_refresh, batch_axes=min(stacked, leaf.ndim))
                    results.append(each(leaf, nu, waiting, old))
                    for q in jax.tree.leaves(results[-1][2]):
                        wait = zero_after(q)
                return tuple(structure.unflatten([result[i] for result in results]) for i in range(3))

            def turn(carry):
                mu, nu, bases, covariances = carry
                bases = run_if(first, functools.partial(start, covariances), bases)
                mu, nu, bases = run_if(~first, functools.partial(refresh, covariances), (mu, nu, bases))
                return row_major((mu, nu, bases, covariances))

            # one loop for both, after all that reads the old bases: between refreshes nothing is copied
            due = known_after(t % precondition_frequency == 0, *jax.tree.leaves((updates, mu, nu)))
            mu, nu, bases, covariances = run_if(due, turn, (mu, nu, bases, covariances))
        return updates, SoapState(optax.safe_increment(t), mu, nu, covariances, bases)

    return optax.GradientTransformation(init, update)


def soap(
    learning_rate: optax.ScalarOrSchedule = 3e-3,
    b1: Number = 0.95,
    b2: Number = 0.95,
    eps: Number = 1e-8,
    weight_decay: Number = 0.01,
    *,
    mask: Any = None,
    shampoo_beta: Number | None = None,
    precondition_frequency: Number = 10,
    max_precond_dim: Number = 10_000,
    precondition_1d: bool = False,
    bias_correction: bool = True,
    normalize: bool = False,
    stacked_axes: int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""SOAP: :math:`\theta \leftarrow (1 - \eta\lambda)(\theta - \eta\,U)`, see :func:`scale_by_soap`.

    As in the released code the parameters decay after the step, and the first call leaves them alone. Warm-up of the
    learning rate is recommended.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule.
      b1, b2, eps: see :func:`scale_by_soap`.
      weight_decay: :math:`\lambda` ≥ 0, decoupled.
      mask: which parameters decay: a tree of booleans, or a function from the parameters to one; None: all.
      shampoo_beta, precondition_frequency, max_precond_dim, precondition_1d, bias_correction, normalize,
        stacked_axes: see :func:`scale_by_soap`.

    Returns:
      A transformation whose update needs ``params``.

    Raises:
      ValueError: as :func:`scale_by_soap`; from its update: without ``params``.

    Source: Vyas, Morwani, Zhao, Shapira, Brandfonbrener, Janson, Kakade (2024), arXiv 2409.11321.

    >>> tx = soap(learning_rate=0.1)
    >>> w = jnp.eye(3)
    >>> state = tx.init(w)
    >>> for _ in range(5):
    ...     updates, state = tx.update(w, state, w)  # the gradient of |w|²/2
    ...     w = optax.apply_updates(w, updates)
    >>> round(float(w[0, 0]), 1)
    0.6
    """
    check_finite_number("weight_decay", weight_decay, low=0.0)
    decay = decay_after_step("soap", learning_rate, weight_decay, skip_first=True)
    return optax.chain(
        scale_by_soap(
            b1,
            b2,
            eps,
            shampoo_beta=shampoo_beta,
            precondition_frequency=precondition_frequency,
            max_precond_dim=max_precond_dim,
            precondition_1d=precondition_1d,
            bias_correction=bias_correction,
            normalize=normalize,
            stacked_axes=stacked_axes,
        ),
        optax.scale_by_learning_rate(learning_rate),
        decay if mask is None else optax.masked(decay, mask),
    )
