"""Distributed Shampoo: block-diagonal Kronecker preconditioners, grafted on a diagonal method."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from jaxtrain.core import Number, Params, check_decays, check_finite_number
from jaxtrain.core.numerics import accumulator_dtype, run_if, static_int, zero_after, zeros_accumulator
from jaxtrain.optimizers._blocks import Plan
from jaxtrain.optimizers.matrix_roots import METHODS, matrix_inverse_root
from jaxtrain.optimizers.subset_norm import accumulate

HIGHEST = jax.lax.Precision.HIGHEST
GRAFTS = ("adam", "rmsprop", "adagrad", "sgd", None)


class ShampooState(NamedTuple):
    """State of :func:`scale_by_distributed_shampoo`, in float32 at least.

    ``mu`` and ``nu`` are shaped like the parameters (``nu`` is None where the graft needs none). ``factors`` and
    ``roots`` are dictionaries of pools: all n × n matrices with one root, over all parameters, axes, layers and blocks,
    are one array (number, n, n), so that they are decomposed, and may be spread over devices, together.
    """

    count: Int[Array, ""]
    mu: Params
    nu: Params | None
    factors: dict[str, Float[Array, "number n n"]]
    roots: dict[str, Float[Array, "number n n"]]


def _mesh_size(axis: str | None) -> int:
    if axis is None:
        return 1
    mesh = jax.sharding.get_abstract_mesh()
    if axis not in mesh.shape:
        raise ValueError(
            f"shard_roots={axis!r} is no axis of the mesh {dict(mesh.shape)}: call init and update under "
            f"jax.set_mesh(mesh) of a mesh that has it"
        )
    return mesh.shape[axis]


def _along(x: Array, root: Array, axis: int) -> Array:
    """Blocks (k, …) with one axis multiplied by the matrix of each block."""
    moved = jnp.moveaxis(x, axis, -1)
    flat = moved.reshape(len(x), -1, moved.shape[-1])
    return jnp.moveaxis(jnp.matmul(flat, root, precision=HIGHEST).reshape(moved.shape), -1, axis)


def _gram(x: Array, axis: int) -> Array:
    """Blocks (k, …): the outer products over all other axes."""
    flat = jnp.moveaxis(x, axis, 1).reshape(len(x), x.shape[axis], -1)
    return jnp.matmul(flat, jnp.swapaxes(flat, 1, 2), precision=HIGHEST)


def _norms(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(x * x, axis=tuple(range(1, x.ndim)), keepdims=True))


def scale_by_distributed_shampoo(
    b1: Number = 0.9,
    b2: Number = 1.0,
    epsilon: Number = 1e-12,
    *,
    max_preconditioner_dim: Number = 1024,
    precondition_frequency: Number = 1,
    start_preconditioning_step: Number | None = None,
    grafting: str | None = "adam",
    grafting_b2: Number = 0.999,
    grafting_epsilon: Number = 1e-8,
    root: Number | None = None,
    root_method: str = "eigh",
    use_bias_correction: bool = True,
    stacked_axes: int = 0,
    shard_roots: str | None = None,
) -> optax.GradientTransformation:
    r"""Preconditions each block of each parameter by roots of the covariances of its axes (Shampoo).

    For a block :math:`G` (m × n), with weights :math:`1 - \beta_2`, or 1 where :math:`\beta_2 = 1`:

    .. math:: L \leftarrow \beta_2 L + (1 - \beta_2)\, G G^\top, \quad R \leftarrow \beta_2 R + (1 - \beta_2)\, G^\top G,
       \quad M \leftarrow \beta_1 M + (1 - \beta_1)\, G,

    .. math:: D = (\hat L + \epsilon I)^{-1/4}\, \hat M\, (\hat R + \epsilon I)^{-1/4}, \qquad
       U = \frac{\|N\|_F}{\|D\|_F}\, D, \qquad N = \frac{\hat M}{\sqrt{\hat A} + \epsilon_g},

    hats for :math:`1/(1 - \beta^t)`. A tensor with w axes has a factor for each and the roots :math:`-1/(2w)`; of a vector
    that is full-matrix AdaGrad. :math:`N` is the step of the grafted method, whose second moment :math:`A` runs beside:
    ``"adam"``; ``"rmsprop"`` (:math:`A` not corrected); ``"adagrad"`` (:math:`A` a sum); ``"sgd"``
    (:math:`N = \hat M`). Before ``start_preconditioning_step`` it is taken itself.

    Small neighbouring axes are merged and long ones cut (:func:`jaxtrain.optimizers.block_and_merge_dims`): so a matrix
    with at most ``max_preconditioner_dim`` entries is one vector with a full matrix. Roots are computed at step
    ``start_preconditioning_step`` and then at multiples of ``precondition_frequency``, and cost nothing in the steps
    between, under ``vmap`` too; therefore there is no reverse-mode derivative through this. Not-a-number gradients spoil
    the state: put ``optax.apply_if_finite`` around it. So do those whose squares overflow (above some 1e19 in float32):
    clip them before.

    Args:
      b1: decay of the filtered gradient, in [0, 1).
      b2: decay of the factors, in [0, 1]; 1: they are summed up.
      epsilon: added to the factors' eigenvalues, > 0. For float32 factors rounding alone is
        some 1e-7 of the largest: with less, directions without gradients yet are noise, and so is a share of the update.
      max_preconditioner_dim: the longest axis of a block; a Python integer.
      precondition_frequency: steps between roots, ≥ 1.
      start_preconditioning_step: the first step (from 1) with roots; None: ``precondition_frequency``. Without grafting
        the roots are the identity before.
      grafting: ``"adam"``, ``"rmsprop"``, ``"adagrad"``, ``"sgd"``, or None: :math:`U = D`.
      grafting_b2: decay of :math:`A` for ``"adam"`` and ``"rmsprop"``.
      grafting_epsilon: :math:`\epsilon_g` ≥ 0.
      root: r of the exponents :math:`-1/r` for all blocks; None: 2 w.
      root_method: see :func:`jaxtrain.optimizers.matrix_inverse_root`; ``"newton"`` has no decompositions.
      use_bias_correction: whether :math:`M` and the factors are divided by :math:`1 - \beta^t`.
      stacked_axes: so many leading axes of every parameter only stack layers, each with blocks of its own.
      shard_roots: a mesh axis over which factors and roots are spread: each device holds, and computes the roots of, its
        share. The pools are padded to a multiple of its size. init and update then run under ``jax.set_mesh``.

    Returns:
      A transformation with :class:`ShampooState`. For an m × n block it holds 2 (m² + n²) numbers besides the graft's.

    Raises:
      ValueError: a number or a name out of range; from init and update: the mesh has no axis ``shard_roots``.
      TypeError: ``max_preconditioner_dim`` or ``stacked_axes`` is traced.

    Source: Shi, Lee, Iwasaki, Gallego-Posada, Li, Rangadurai, Mudigere, Rabbat (2023), arXiv 2309.06497; Gupta, Koren,
    Singer (2018), arXiv 1802.09568.

    >>> tx = scale_by_distributed_shampoo(b1=0.0, grafting=None, max_preconditioner_dim=2)
    >>> G = jnp.array([[3.0, 0.0], [0.0, -0.5]])
    >>> updates, state = tx.update(G, tx.init(G))  # without a sum it is U Vᵀ
    >>> updates.round(3).tolist(), state.roots["order2_size2"].shape
    ([[1.0, 0.0], [0.0, -1.0]], (2, 2, 2))
    """
    check_decays(b1=b1, grafting_b2=grafting_b2)
    check_finite_number("b2", b2, low=0.0, high=1.0)
    check_finite_number("epsilon", epsilon, low=1e-38)
    check_finite_number("grafting_epsilon", grafting_epsilon, low=0.0)
    check_finite_number("precondition_frequency", precondition_frequency, low=1)
    start = precondition_frequency if start_preconditioning_step is None else start_preconditioning_step
    check_finite_number("start_preconditioning_step", start, low=1)
    if grafting not in GRAFTS:
        raise ValueError(f"grafting must be one of {', '.join(map(repr, GRAFTS))}, got {grafting!r}")
    if root_method not in METHODS:
        raise ValueError(f"root_method must be one of {', '.join(METHODS)}, got {root_method!r}")
    stacked = static_int("stacked_axes", stacked_axes, low=0)

    def plan_of(leaves):
        longest = static_int("max_preconditioner_dim", max_preconditioner_dim, low=1)
        return Plan([leaf.shape for leaf in leaves], longest, stacked)

    def spread(pool):
        if shard_roots is None:
            return pool
        return jax.lax.with_sharding_constraint(pool, PartitionSpec(shard_roots, None, None))

    def init(params):
        leaves = jax.tree.leaves(params)
        plan, share = plan_of(leaves), _mesh_size(shard_roots)
        dtype = jnp.result_type(jnp.float32, *leaves)
        factors, roots = {}, {}
        for pool, number in plan.sizes.items():
            number, n = -(-number // share) * share, plan.kinds[pool][1]
            factors[pool] = spread(jnp.zeros((number, n, n), dtype))
            roots[pool] = spread(jnp.broadcast_to(jnp.eye(n, dtype=dtype), (number, n, n)).copy())
        nu = None if grafting in ("sgd", None) else zeros_accumulator(params)
        return ShampooState(jnp.zeros((), jnp.int32), zeros_accumulator(params), nu, factors, roots)

    def roots_of(plan, factors, correction):
        roots, wait = {}, jnp.zeros(())
        for pool, matrices in factors.items():
            order, _ = plan.kinds[pool]

            def compute(matrices, order=order):
                exponent = 2 * order if root is None else root
                return matrix_inverse_root(matrices, root=exponent, epsilon=epsilon, method=root_method)

            if shard_roots is not None:
                part = PartitionSpec(shard_roots)
                compute = jax.shard_map(compute, in_specs=part, out_specs=part, check_vma=False)
            corrected = (matrices / correction + wait).astype(matrices.dtype)
            roots[pool] = spread(compute(corrected))
            # one batch of decompositions after the other; roots have entries of any size, their tanh has not
            wait = zero_after(jnp.tanh(roots[pool][:1, :1, :1]))
        return roots

    def update(updates, state, params=None):
        del params
        t = optax.safe_increment(state.count)
        leaves, structure = jax.tree.flatten(updates)
        plan = plan_of(leaves)
        wide = [g.astype(accumulator_dtype(g)) for g in leaves]
        mu = [
            (b1 * m + (1 - b1) * g).astype(m.dtype)
            for m, g in zip(structure.flatten_up_to(state.mu), wide, strict=True)
        ]
        filtered = [m / (1 - b1**t) for m in mu] if use_bias_correction else mu
        diagonal, nu = filtered, None
        if state.nu is not None:
            decay = 1.0 if grafting == "adagrad" else grafting_b2
            nu = [accumulate(a, g * g, decay) for a, g in zip(structure.flatten_up_to(state.nu), wide, strict=True)]
            second = 1 - grafting_b2**t if grafting == "adam" else 1.0
            diagonal = [m / (jnp.sqrt(a / second) + grafting_epsilon) for m, a in zip(filtered, nu, strict=True)]

        blocks = [leaf.split(g) for leaf, g in zip(plan.leaves, wide, strict=True)]
        grams: dict[str, list[Array]] = {pool: [] for pool in plan.sizes}
        for of_leaf, places in zip(blocks, plan.places, strict=True):
            for x, of_group in zip(of_leaf, places, strict=True):
                for axis, (pool, _, _) in enumerate(of_group, start=1):
                    grams[pool].append(_gram(x, axis))
        factors = {}
        for pool, old in state.factors.items():
            new = jnp.concatenate([g.astype(old.dtype) for g in grams[pool]])
            new = jnp.pad(new, ((0, len(old) - len(new)), (0, 0), (0, 0)))
            factors[pool] = spread(accumulate(old, new, b2))

        beta2 = jnp.asarray(b2)
        correction = jnp.where(beta2 == 1, 1.0, 1 - beta2**t) if use_bias_correction else 1.0
        due = (t == start) | ((t > start) & (t % precondition_frequency == 0))
        roots = run_if(due, lambda _: roots_of(plan, factors, correction), state.roots) if factors else {}

        def step(leaf, places, m, n):
            out = []
            for x, base, of_group in zip(leaf.split(m), leaf.split(n), places, strict=True):
                d = x
                for axis, (pool, first, last) in enumerate(of_group, start=1):
                    d = _along(d, roots[pool][first:last].astype(d.dtype), axis)
                if grafting is not None:
                    # the released constant is below what float32 resolves, and keeps 0 / 0 away
                    d = jnp.where(t < start, base, d * (_norms(base) / (_norms(d) + 1e-16)))
                out.append(d)
            return leaf.join(out) if out else m

        rows = zip(plan.leaves, plan.places, filtered, diagonal, strict=True)
        updates = [step(*row).astype(g.dtype) for row, g in zip(rows, leaves, strict=True)]
        unflatten = structure.unflatten
        return unflatten(updates), ShampooState(t, unflatten(mu), None if nu is None else unflatten(nu), factors, roots)

    return optax.GradientTransformation(init, update)


def distributed_shampoo(
    learning_rate: optax.ScalarOrSchedule,
    b1: Number = 0.9,
    b2: Number = 1.0,
    epsilon: Number = 1e-12,
    momentum: Number | None = None,
    weight_decay: Number = 0.0,
    *,
    nesterov: bool = False,
    decoupled: bool = True,
    mask: Any = None,
    max_preconditioner_dim: Number = 1024,
    precondition_frequency: Number = 1,
    start_preconditioning_step: Number | None = None,
    grafting: str | None = "adam",
    grafting_b2: Number = 0.999,
    grafting_epsilon: Number = 1e-8,
    root: Number | None = None,
    root_method: str = "eigh",
    use_bias_correction: bool = True,
    stacked_axes: int = 0,
    shard_roots: str | None = None,
) -> optax.GradientTransformation:
    r"""Distributed Shampoo with weight decay and momentum.

    .. math:: P = U + \lambda\theta, \qquad B \leftarrow \mu B + P, \qquad \theta \leftarrow \theta - \eta B .

    Args:
      learning_rate: :math:`\eta`, a number or a schedule; with Adam's graft that of Adam.
      b1, b2, epsilon: see :func:`scale_by_distributed_shampoo`, which gives :math:`U`.
      momentum: :math:`\mu` in [0, 1); None: none, and no memory for it.
      weight_decay: :math:`\lambda` ≥ 0.
      nesterov: :math:`\theta \leftarrow \theta - \eta\,(P + \mu B)` instead.
      decoupled: as above; otherwise :math:`\lambda\theta` is added to the gradient before everything else.
      mask: which parameters decay: a tree of booleans, or a function from the parameters to one; None: all.
      max_preconditioner_dim, precondition_frequency, start_preconditioning_step, grafting, grafting_b2, grafting_epsilon,
        root, root_method, use_bias_correction, stacked_axes, shard_roots: see :func:`scale_by_distributed_shampoo`.

    Returns:
      A transformation; with weight decay its update needs ``params``.

    Raises:
      ValueError, TypeError: as :func:`scale_by_distributed_shampoo`.

    Source: Shi, Lee, Iwasaki, Gallego-Posada, Li, Rangadurai, Mudigere, Rabbat (2023), arXiv 2309.06497.

    >>> tx = distributed_shampoo(0.1, epsilon=1e-3)
    >>> w = jnp.array([[2.0, 1.0], [-1.0, 3.0]])
    >>> state, update = tx.init(w), jax.jit(tx.update)
    >>> for _ in range(5):
    ...     updates, state = update(w, state, w)  # the gradient of |w|²/2
    ...     w = optax.apply_updates(w, updates)
    >>> [round(v, 2) for v in w.ravel().tolist()]  # along w, steps as long as Adam's
    [1.49, 0.74, -0.74, 2.23]
    """
    check_finite_number("weight_decay", weight_decay, low=0.0)
    if momentum is not None:
        check_decays(momentum=momentum)
    decay = optax.add_decayed_weights(weight_decay, mask)
    shampoo = scale_by_distributed_shampoo(
        b1,
        b2,
        epsilon,
        max_preconditioner_dim=max_preconditioner_dim,
        precondition_frequency=precondition_frequency,
        start_preconditioning_step=start_preconditioning_step,
        grafting=grafting,
        grafting_b2=grafting_b2,
        grafting_epsilon=grafting_epsilon,
        root=root,
        root_method=root_method,
        use_bias_correction=use_bias_correction,
        stacked_axes=stacked_axes,
        shard_roots=shard_roots,
    )
    return optax.chain(
        *((shampoo, decay) if decoupled else (decay, shampoo)),
        optax.identity() if momentum is None else optax.trace(momentum, nesterov=nesterov),
        optax.scale_by_learning_rate(learning_rate),
    )
