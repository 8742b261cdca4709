"""Is confidence worth its name: how far it is from accuracy, and whether it tells right from wrong."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from jaxtrain.core.numerics import static_int


def _checked(where: str, conf: Array, correct: Array) -> tuple[Array, Array]:
    """Both as vectors in float32 at least."""
    if conf.ndim != 1 or conf.shape != correct.shape or not len(conf):
        raise ValueError(
            f"{where}: one confidence and one answer (right or wrong) for each example, got {conf.shape} and "
            f"{correct.shape}"
        )
    conf = conf.astype(jnp.promote_types(conf.dtype, jnp.float32))
    return conf, correct.astype(conf.dtype)


def expected_calibration_error(
    conf: Float[Array, " n"], correct: Shaped[Array, "..."], *, num_bins: int = 15
) -> Float[Array, ""]:
    r"""How far confidence is from accuracy, bin by bin.

    .. math:: \sum_b \frac{n_b}{n}\,|\mathrm{acc}_b - \mathrm{conf}_b|

    over bins :math:`(lo, hi]` of equal width, the first with 0. Biased upwards: bins of few examples are off by chance.

    Args:
      conf: ``(n,)`` confidences in [0, 1].
      correct: ``(n,)`` whether the prediction was right.
      num_bins: how many bins.

    Returns:
      A scalar in [0, 1], in float32 at least.

    Raises:
      ValueError: shapes that disagree, no examples, or no bins.

    Source: Naeini, Cooper, Hauskrecht (2015); Guo, Pleiss, Sun, Weinberger (2017), arXiv 1706.04599.

    >>> float(expected_calibration_error(jnp.array([0.75, 0.75, 1.0]), jnp.array([True, False, True]), num_bins=4))
    0.1666666716337204
    """
    conf, correct = _checked("expected_calibration_error", conf, correct)
    num_bins = static_int("num_bins", num_bins, low=1)
    place = jnp.clip(jnp.ceil(conf * num_bins).astype(jnp.int32) - 1, 0, num_bins - 1)
    gap = jnp.zeros(num_bins, conf.dtype).at[place].add(correct - conf)
    return jnp.sum(jnp.abs(gap)) / len(conf)


def confidence_auroc(conf: Float[Array, " n"], correct: Shaped[Array, "..."]) -> Float[Array, ""]:
    r"""How well confidence separates right from wrong: the chance that a right prediction has more of it than a wrong one.

    Ties count one half. From mean ranks, O(n log n).

    Args:
      conf: ``(n,)`` confidences; only their order matters.
      correct: ``(n,)`` whether the prediction was right.

    Returns:
      A scalar in [0, 1], in float32 at least; 1/2 says nothing. NaN where all are right or all wrong, or a confidence is.

    Raises:
      ValueError: shapes that disagree, or no examples.

    Source: Hanley, McNeil (1982), The meaning and use of the area under a ROC curve.

    >>> float(confidence_auroc(jnp.array([0.9, 0.8, 0.8, 0.1]), jnp.array([True, True, False, False])))
    0.875
    """
    conf, correct = _checked("confidence_auroc", conf, correct)
    ordered = jnp.sort(conf)
    below, up_to = (jnp.searchsorted(ordered, conf, side=side) for side in ("left", "right"))
    right = jnp.sum(correct)
    rank = jnp.sum(correct * (below + up_to + 1) / 2) / right
    area = (rank - (right + 1) / 2) / (len(conf) - right)
    return jnp.where(jnp.any(jnp.isnan(conf)), jnp.nan, area)  # sorting would put it above all others
