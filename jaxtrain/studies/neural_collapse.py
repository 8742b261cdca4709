"""Neural collapse: how far features, class means and classifier have come, and where deep linear theory says they go."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from jaxtrain.core import Number, check_finite_number


def etf_distance(m: Float[Array, "k d"]) -> Float[Array, ""]:
    r"""How far the rows are from a simplex equiangular tight frame.

    .. math:: \Big\| \frac{MM^\top}{\|MM^\top\|_F} - \frac{I - \frac1K 11^\top}{\sqrt{K - 1}} \Big\|_F

    0 where the K rows have one length and all angles are the largest that K vectors can have; at most 2. Rows of class
    means are to be centred before.

    Args:
      m: ``(K, d)`` class means or classifier rows, K ≥ 2, not all zero.

    Returns:
      A number; NaN where all rows are zero.

    Raises:
      ValueError: fewer than two rows.

    Source: Papyan, Han, Donoho (2020), arXiv 2008.08186; Dang et al. (2023), arXiv 2301.00437.

    >>> round(float(etf_distance(jnp.eye(3) - 1 / 3)), 5)
    0.0
    """
    k = _rows("etf_distance", m)
    return _frame_distance(m, (jnp.eye(k) - 1 / k) / np.sqrt(k - 1))


def orthogonal_frame_distance(m: Float[Array, "k d"]) -> Float[Array, ""]:
    r"""How far the rows are from orthogonal rows of one length: :math:`\|MM^\top/\|MM^\top\|_F - I/\sqrt K\|_F`.

    The limit of class means and classifier under squared error without bias and balanced classes.

    Args:
      m: ``(K, d)``, K ≥ 2, not all zero.

    Returns:
      A number; NaN where all rows are zero.

    Raises:
      ValueError: fewer than two rows.

    Source: Dang et al. (2023), arXiv 2301.00437.

    >>> round(float(orthogonal_frame_distance(3 * jnp.eye(4))), 5)
    0.0
    """
    k = _rows("orthogonal_frame_distance", m)
    return _frame_distance(m, jnp.eye(k) / np.sqrt(k))


def _rows(where: str, m: Array) -> int:
    if m.ndim != 2 or len(m) < 2:
        raise ValueError(f"{where} needs a matrix of at least 2 rows, got shape {m.shape}")
    return len(m)


def _frame_distance(m: Array, target: Array) -> Array:
    # brought to size 1 first: the Gramian of tiny means would underflow
    wide = m.astype(jnp.promote_types(m.dtype, jnp.float32))
    wide = wide / jnp.max(jnp.abs(wide))
    gram = jnp.matmul(wide, wide.T, precision="highest")
    return jnp.linalg.norm(gram / jnp.linalg.norm(gram) - target.astype(gram.dtype)).astype(m.dtype)


def nc_metrics(
    features: Float[Array, "n d"],
    labels: Int[Array, " m"],
    classifier: Float[Array, "k e"],
    *,
    num_classes: int,
    frame: str = "etf",
    bias: Float[Array, " k"] | None = None,
) -> dict[str, Float[Array, ""]]:
    r"""The four signs of neural collapse in the features before a linear classifier.

    - ``nc1`` :math:`\frac1K \operatorname{tr}(\Sigma_W \Sigma_B^+)`: spread within classes against spread between them.
    - ``nc2``: distance of the class means from the frame.
    - ``nc3``: distance of :math:`W M^\top` over its norm from the frame's Gramian: classifier and means are aligned.
    - ``nc4``: share of examples where the classifier disagrees with the nearest class mean.

    All go to 0. With ``frame="etf"`` (cross-entropy, or a bias) means are taken relative to the mean of the class means;
    with ``"orthogonal"`` (squared error without bias) as they are. :math:`\Sigma_B` is always the covariance of the class
    means; with unequal classes each class counts alike.

    Args:
      features: ``(n, d)``.
      labels: ``(n,)`` in ``[0, K)``; every class must occur, else the metrics are NaN.
      classifier: ``(K, d)`` rows.
      num_classes: K ≥ 2.
      frame: ``"etf"`` or ``"orthogonal"``.
      bias: ``(K,)`` of the classifier, for ``nc4``.

    Returns:
      ``{"nc1": , "nc2": , "nc3": , "nc4": }``, in single precision at least.

    Raises:
      ValueError: shapes that disagree or an unknown frame.

    Source: Papyan, Han, Donoho (2020), arXiv 2008.08186; Dang et al. (2023), arXiv 2301.00437.

    >>> means = jnp.eye(3) - 1 / 3
    >>> found = nc_metrics(jnp.repeat(means, 2, axis=0), jnp.array([0, 0, 1, 1, 2, 2]), 5 * means, num_classes=3)
    >>> {name: abs(round(float(value), 5)) for name, value in found.items()}
    {'nc1': 0.0, 'nc2': 0.0, 'nc3': 0.0, 'nc4': 0.0}
    """
    if frame not in ("etf", "orthogonal"):
        raise ValueError(f"nc_metrics: frame must be 'etf' or 'orthogonal', got {frame!r}")
    k = num_classes
    if k < 2 or classifier.shape != (k, features.shape[1]) or labels.shape != features.shape[:1]:
        raise ValueError(
            f"nc_metrics: features {features.shape}, labels {labels.shape} and a classifier {classifier.shape} disagree "
            f"for {k} classes; give (n, d), (n,), ({k}, d)"
        )
    dtype = jnp.promote_types(features.dtype, jnp.float32)
    h, w = features.astype(dtype), classifier.astype(dtype)
    member = jax.nn.one_hot(labels, k, dtype=dtype)
    counts = member.sum(axis=0)
    means = jnp.matmul(member.T, h, precision="highest") / counts[:, None]
    within = h - means[labels]
    # each class counts alike
    sigma_w = jnp.matmul((within / (counts[labels] * k)[:, None]).T, within, precision="highest")
    centred = means - means.mean(axis=0)
    sigma_b = jnp.matmul(centred.T, centred, precision="highest") / k
    if frame == "etf":
        target = (jnp.eye(k, dtype=dtype) - 1 / k) / np.sqrt(k - 1)
        used, nc2 = centred, etf_distance(centred)
    else:
        target = jnp.eye(k, dtype=dtype) / np.sqrt(k)
        used, nc2 = means, orthogonal_frame_distance(means)
    aligned = jnp.matmul(w, used.T, precision="highest")
    logits = jnp.matmul(h, w.T, precision="highest")
    logits = logits if bias is None else logits + bias
    distances = jnp.sum(jnp.square(h[:, None] - means), axis=-1)
    return {
        # rank K - 1 by construction: what lies below its rounding is not inverted
        "nc1": jnp.trace(sigma_w @ jnp.linalg.pinv(sigma_b, rtol=k * jnp.finfo(dtype).eps * 10, hermitian=True)) / k,
        "nc2": nc2,
        "nc3": jnp.linalg.norm(aligned / jnp.linalg.norm(aligned) - target),
        # NaN passes on: a class that is missing has no mean
        "nc4": jnp.mean((logits.argmax(-1) != distances.argmin(-1)).astype(dtype)) + 0 * jnp.sum(means),
    }


def ufm_deep_linear_loss(
    ws: Sequence[Float[Array, "..."]],
    h: Float[Array, "d n"],
    y: Shaped[Array, "..."],
    *,
    lam_w: Number | Sequence[Number],
    lam_h: Number,
    loss: str = "mse",
) -> Float[Array, ""]:
    r"""The model of unconstrained features below a deep linear head: weights and features are both free.

    .. math:: \frac{1}{2N} \|W_M \cdots W_1 H - Y\|_F^2 + \sum_j \frac{\lambda_{W_j}}{2} \|W_j\|_F^2
       + \frac{\lambda_H}{2} \|H\|_F^2

    with N examples; ``loss="ce"`` has the mean cross-entropy in place of the first term.

    Args:
      ws: the layers, first one first: ``W_1`` of shape ``(d_1, d)`` ... ``W_M`` of shape ``(K, d_M)``.
      h: ``(d, N)`` features as columns.
      y: ``(K, N)`` targets; with ``"ce"`` probabilities, such as one-hot columns.
      lam_w: one number for all layers, or one for each.
      lam_h: of the features.
      loss: ``"mse"`` or ``"ce"``.

    Returns:
      A number.

    Raises:
      ValueError: no layer, an unknown loss, or shapes that disagree.

    Source: Dang, Tran, Osher, Tran-The, Ho, Nguyen (2023), arXiv 2301.00437.

    >>> float(ufm_deep_linear_loss([jnp.eye(2)], jnp.eye(2), jnp.eye(2), lam_w=0.5, lam_h=0.5))
    1.0
    """
    if not ws or loss not in ("mse", "ce"):
        raise ValueError(f"ufm_deep_linear_loss needs at least one layer and a loss 'mse' or 'ce', got {loss!r}")
    lams = list(lam_w) if isinstance(lam_w, list | tuple) else [lam_w] * len(ws)
    if len(lams) != len(ws):
        raise ValueError(f"ufm_deep_linear_loss: {len(lams)} values of lam_w for {len(ws)} layers")
    z = h
    for w in ws:
        z = w @ z
    if z.shape != y.shape:
        raise ValueError(f"ufm_deep_linear_loss: outputs of shape {z.shape} and targets of shape {y.shape} disagree")
    if loss == "mse":
        fit = jnp.sum(jnp.square(z - y)) / (2 * h.shape[1])
    else:
        fit = -jnp.sum(y * jax.nn.log_softmax(z, axis=0)) / h.shape[1]
    decay = sum(lam * jnp.sum(jnp.square(w)) for lam, w in zip(lams, ws, strict=True))
    return fit + (decay + lam_h * jnp.sum(jnp.square(h))) / 2


def gof_singular_values(class_counts: Shaped[Array, " k"], *, lam_w: Number, lam_h: Number) -> Float[Array, " k"]:
    r"""Lengths of the classifier's rows at the optimum of :func:`ufm_deep_linear_loss`: one layer, squared error.

    .. math:: s_k = \|w_k\| = \sqrt{\max\Big(0,\; \sqrt{n_k \lambda_H / \lambda_W} - N \lambda_H\Big)}, \qquad
       h_k = \frac{w_k}{s_k^2 + N \lambda_H}, \qquad N = \sum_k n_k

    Rows are orthogonal, as are class means. With the features eliminated each class minimises
    :math:`n_k \lambda_H / (2 (s^2 + N\lambda_H)) + \lambda_W s^2 / 2` on its own. A class with
    :math:`n_k \le N^2 \lambda_W \lambda_H` collapses to zero: the minority is not learned.

    Args:
      class_counts: ``(K,)`` examples in each class, integers or floats.
      lam_w: of the layer, > 0; may be traced.
      lam_h: of the features, > 0; may be traced.

    Returns:
      ``(K,)`` lengths.

    Raises:
      ValueError: a number that is not positive.

    Source: Dang et al. (2023), arXiv 2301.00437 (general orthogonal frame).

    >>> [round(float(s), 3) for s in gof_singular_values(jnp.array([16, 1]), lam_w=0.01, lam_h=0.01)]
    [1.957, 0.911]
    """
    check_finite_number("lam_w", lam_w, low=1e-300)
    check_finite_number("lam_h", lam_h, low=1e-300)
    n = jnp.asarray(class_counts, jnp.result_type(class_counts, float))
    squares = jnp.sqrt(n * lam_h / lam_w) - n.sum() * lam_h
    return jnp.sqrt(jnp.maximum(squares, 0.0))
