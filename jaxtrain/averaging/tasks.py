"""Task arithmetic and TIES: what fine-tuning added to a base, scaled, trimmed, and added up over tasks."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxtrain.averaging._models import along_members, check_base, check_models, deltas, member_weights, wide
from jaxtrain.core import Number, Params, check_finite_number

_GRANULARITIES = ("global", "leaf")
_MODES = ("mean", "sum")


def task_vectors(stacked: Params, base: Params) -> Params:
    r"""What each model differs by from the base, :math:`\tau_k = \theta_k - \theta_0`.

    Args:
      stacked: tree with leaves ``(member, ...)``: models fine-tuned from ``base``.
      base: the model they come from.

    Returns:
      Tree with leaves ``(member, ...)``, in single precision at least, so that the base and a vector give its model.

    Raises:
      ValueError: trees that differ (the path is named), an empty stack.
      TypeError: a leaf that is not floating.

    Source: Ilharco et al. 2022, "Editing Models with Task Arithmetic", arXiv 2212.04089.

    >>> task_vectors(jnp.array([[1.0, 2.0], [3.0, 0.0]]), jnp.array([1.0, 1.0])).tolist()
    [[0.0, 1.0], [2.0, -1.0]]
    """
    check_base(base, stacked, where="task_vectors")
    return deltas(stacked, base)


def merge_task_vectors(vectors: Params, base: Params, coeffs: Any) -> Params:
    r"""The base with scaled task vectors added, :math:`\theta^l = \theta_0^l + \sum_k \lambda_k^l \tau_k^l`.

    Args:
      vectors: tree with leaves ``(member, ...)``, from :func:`task_vectors` or :func:`ties_trim_elect`.
      base: :math:`\theta_0`.
      coeffs: :math:`\lambda`: one number for all, ``(member,)``, or a tree of either that is a prefix of the base's
        tree, hence one for every layer or leaf. May be traced. Negative ones take a task away.

    Returns:
      The merged model, in the dtypes of the base; summed in single precision at least.

    Raises:
      ValueError: trees that differ, coefficients of another length or in a tree that is no prefix of the base's.

    Source: Ilharco et al. 2022, arXiv 2212.04089; layer by layer: Yang et al. 2023, arXiv 2310.02575.

    >>> base, vectors = {"a": jnp.zeros(2), "b": jnp.ones(())}, {"a": jnp.eye(2), "b": jnp.array([1.0, 2.0])}
    >>> coeffs = {"a": jnp.array([0.5, 0.25]), "b": 1.0}
    >>> {name: x.tolist() for name, x in merge_task_vectors(vectors, base, coeffs).items()}
    {'a': [0.5, 0.25], 'b': 4.0}
    """
    count = check_vectors(vectors, base, where="merge_task_vectors")
    try:
        coeffs = jax.tree.broadcast(coeffs, base)
    except ValueError as error:
        raise ValueError(
            f"merge_task_vectors: coeffs must be a number, an array ({count},), or a tree of them that is a prefix of "
            f"the base's tree: {error}"
        ) from None

    def of_leaf(b: Array, v: Array, c: Any) -> Array:
        weights = member_weights(c, count, where="merge_task_vectors", name="a coefficient")
        total = jnp.sum(along_members(weights, v) * wide(v), axis=0)
        return (wide(b) + total.astype(jnp.promote_types(b.dtype, jnp.float32))).astype(b.dtype)

    return jax.tree.map(of_leaf, base, vectors, coeffs)


def task_arithmetic(stacked: Params, base: Params, coeffs: Any) -> Params:
    r"""The base with scaled differences of fine-tuned models added, :math:`\theta_0 + \sum_k \lambda_k (\theta_k - \theta_0)`.

    :func:`merge_task_vectors` of :func:`task_vectors`. With coefficients that sum to 1 it is their weighted mean.

    Args:
      stacked: tree with leaves ``(member, ...)``: models fine-tuned from ``base``.
      base: the model they come from.
      coeffs: as in :func:`merge_task_vectors`; 0.3 to 0.4 for all is usual.

    Returns:
      The merged model, in the dtypes of the base.

    Raises:
      ValueError: trees that differ (the path is named), an empty stack, coefficients of another length.

    Source: Ilharco et al. 2022, "Editing Models with Task Arithmetic", arXiv 2212.04089.

    >>> task_arithmetic(jnp.array([[1.0, 2.0], [3.0, 0.0]]), jnp.array([1.0, 1.0]), 0.5).tolist()
    [2.0, 1.0]
    """
    return merge_task_vectors(task_vectors(stacked, base), base, coeffs)


def ties_trim(vectors: Params, *, keep: Number = 0.2, granularity: str = "global") -> Params:
    """Zeroes all but the largest entries of each task vector.

    ``int(keep * n)`` of n entries stay, at least one; entries of the magnitude of the smallest that stays, stay too.
    The threshold is found without sorting and without joining the leaves: bit by bit, by counting the entries above it,
    in 31 passes over the vectors (63 in float64). So sharded leaves stay where they are and only counts travel.

    Args:
      vectors: tree with leaves ``(member, ...)``, from :func:`task_vectors`.
      keep: share that stays, in (0, 1]. Where it is traced the number is computed in single precision.
      granularity: ``"global"``: the largest of the whole task vector, as in the paper; ``"leaf"``: of every leaf.

    Returns:
      The vectors with zeros, in their dtypes. NaN counts as the largest and stays.

    Raises:
      ValueError: ``keep`` out of range, an unknown granularity, leading axes that disagree.

    Source: Yadav et al. 2023, "TIES-Merging", arXiv 2306.01708.

    >>> ties_trim(jnp.array([[0.1, -3.0, 2.0, 0.5]]), keep=0.5).tolist()
    [[0.0, -3.0, 2.0, 0.0]]
    """
    count = check_models(vectors, where="ties_trim")
    if granularity not in _GRANULARITIES:
        raise ValueError(f"granularity must be one of {_GRANULARITIES}, got {granularity!r}")
    check_finite_number("keep", keep, low=0.0, high=1.0)
    traced = isinstance(keep, jax.core.Tracer)
    if not traced and float(keep) == 0:
        raise ValueError("keep must be above 0: nothing would be left of the task vectors")

    def trim(leaves: list[Array]) -> list[Array]:
        total = sum(x.size // count for x in leaves)
        if total == 0:
            return leaves
        if traced:
            number = jnp.clip(jnp.floor(keep * total).astype(jnp.int32), 1, total)
        else:
            number = jnp.asarray(min(max(int(float(keep) * total), 1), total), jnp.int32)
        bits = [_magnitude_bits(x, jnp.result_type(*leaves)) for x in leaves]
        threshold = _largest_with(bits, number, total)
        return [
            jnp.where(b >= threshold.reshape(-1, *[1] * (x.ndim - 1)), x, 0) for x, b in zip(leaves, bits, strict=True)
        ]

    leaves, structure = jax.tree.flatten(vectors)
    groups = [[x] for x in leaves] if granularity == "leaf" else [leaves]
    return structure.unflatten([x for group in groups for x in trim(group)])


def _magnitude_bits(x: Array, dtype: Any) -> Array:
    """The magnitude as an integer of the same order: what IEEE 754 arranged."""
    dtype = jnp.promote_types(dtype, jnp.float32)
    kind = {4: jnp.uint32, 8: jnp.uint64}[jnp.dtype(dtype).itemsize]
    return jax.lax.bitcast_convert_type(jax.lax.stop_gradient(jnp.abs(x.astype(dtype))), kind)


def _largest_with(bits: list[Array], number: Int[Array, ""], total: int) -> Array:
    """For each member the largest threshold that at least ``number`` entries reach."""
    if total >= 2**31:
        raise ValueError(f"ties_trim counts entries in 32 bits, the task vectors have {total}; use granularity='leaf'")
    kind = bits[0].dtype
    top = 8 * kind.itemsize - 2  # the sign is zero

    def body(i: Array, threshold: Array) -> Array:
        candidate = threshold | (jnp.ones((), kind) << (top - i).astype(kind))
        reach = [
            jnp.sum(b >= candidate.reshape(-1, *[1] * (b.ndim - 1)), axis=tuple(range(1, b.ndim)), dtype=jnp.int32)
            for b in bits
        ]
        return jnp.where(sum(reach) >= number, candidate, threshold)

    return jax.lax.fori_loop(0, top + 1, body, jnp.zeros(bits[0].shape[0], kind))


def ties_trim_elect(vectors: Params, *, keep: Number = 0.2, granularity: str = "global") -> Params:
    r"""Trims task vectors and zeroes the entries that disagree with the sign that carries more weight.

    After :func:`ties_trim` every entry elects :math:`\operatorname{sign}(\sum_k \tau_k)`; where the sum is 0 it takes
    the sign that most entries elected. The vectors stay apart: AdaMerging++ learns a coefficient for each.

    Args:
      vectors: tree with leaves ``(member, ...)``, from :func:`task_vectors`.
      keep: share of the entries that stays, in (0, 1]; may be traced.
      granularity: as in :func:`ties_trim`.

    Returns:
      The vectors with zeros, in their dtypes. An entry where some vector is NaN stays NaN.

    Raises:
      ValueError: as :func:`ties_trim`.

    Source: Yadav et al. 2023, arXiv 2306.01708; Yang et al. 2023, arXiv 2310.02575.

    >>> ties_trim_elect(jnp.array([[1.0, 2.0], [-3.0, 1.0]]), keep=1.0).tolist()
    [[0.0, 2.0], [-3.0, 1.0]]
    """
    trimmed = ties_trim(vectors, keep=keep, granularity=granularity)
    return _elect(trimmed, jnp.ones(check_models(vectors, where="ties_trim_elect")))


def _elect(trimmed: Params, weights: Float[Array, " member"]) -> Params:
    signs = jax.tree.map(lambda x: jnp.sign(jnp.sum(along_members(weights, x) * wide(x), axis=0)), trimmed)
    majority = jnp.sign(sum(jnp.nansum(s) for s in jax.tree.leaves(signs)))

    def agreeing(x: Array, sign: Array) -> Array:
        sign = jnp.where(sign == 0, majority.astype(sign.dtype), sign)
        # a NaN agrees with nothing, and must not be dropped for it
        return jnp.where((jnp.sign(x) == sign) | jnp.isnan(x), x, 0)

    return jax.tree.map(agreeing, trimmed, signs)


def ties(
    stacked: Params,
    base: Params,
    *,
    keep: Number = 0.2,
    scale: Number = 1.0,
    weights: Any = 1.0,
    mode: str = "mean",
    granularity: str = "global",
) -> Params:
    r"""TIES: trims task vectors, elects a sign for every entry, and adds up those that agree with it.

    .. math:: \theta = \theta_0 + \lambda\,
        \frac{\sum_k w_k \tilde\tau_k}{\sum_k w_k [\tilde\tau_k \ne 0]}

    for every entry, with :math:`\tilde\tau` of :func:`ties_trim_elect` (elected by the weighted sum); entries that no
    vector keeps are the base's. ``mode="sum"`` leaves the denominator out.

    Args:
      stacked: tree with leaves ``(member, ...)``: models fine-tuned from ``base``.
      base: the model they come from.
      keep: share of the entries of each vector that stays, in (0, 1]; may be traced.
      scale: :math:`\lambda`; about 1 with the mean, 0.3 with the sum; may be traced.
      weights: :math:`w`, one number or ``(member,)``, ≥ 0; may be traced.
      mode: ``"mean"``: the disjoint mean of the paper; ``"sum"``.
      granularity: ``"global"``: trims the whole task vector, as in the paper; ``"leaf"``: every leaf, as mergekit does.

    Returns:
      The merged model, in the dtypes of the base.

    Raises:
      ValueError: trees that differ (the path is named), a number out of range, an unknown mode or granularity.

    Source: Yadav, Tam, Choshen, Raffel, Bansal 2023, "TIES-Merging", arXiv 2306.01708. The released code keeps one
    entry more.

    >>> models = jnp.array([[1.0, 2.0, 0.1], [3.0, -4.0, 0.1]])
    >>> ties(models, jnp.zeros(3), keep=0.7).tolist()
    [2.0, -4.0, 0.0]
    """
    if mode not in _MODES:
        raise ValueError(f"mode must be one of {_MODES}, got {mode!r}")
    check_finite_number("scale", scale)
    check_finite_number("weights", weights, low=0.0)
    count = check_base(base, stacked, where="ties")
    weights = member_weights(weights, count, where="ties")
    elected = _elect(ties_trim(deltas(stacked, base), keep=keep, granularity=granularity), weights)

    def of_leaf(b: Array, x: Array) -> Array:
        w = along_members(weights, x)
        total = jnp.sum(w * x, axis=0)
        if mode == "mean":
            share = jnp.sum(w * (x != 0), axis=0)
            total = total / jnp.where(share > 0, share, 1)
        return (wide(b) + jnp.asarray(scale).astype(x.dtype) * total).astype(b.dtype)

    return jax.tree.map(of_leaf, base, elected)


def check_vectors(vectors: Params, base: Params, *, where: str) -> int:
    # task vectors of half-precision models are wider than they
    same = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.float32), (vectors, base))
    check_base(same[1], same[0], where=where)
    return check_models(vectors, where=where)
