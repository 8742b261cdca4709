"""A classifier trained on the distributions of the classes' features instead of on stored examples (DBGC, AMarX)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxtrain.core import Number, check_finite_number, labels_in_range
from jaxtrain.core.numerics import static_int
from jaxtrain.losses._logits import surprise, widened


def gaussian_class_stats(
    features: Float[Array, "..."], labels: Int[Array, "..."], *, num_classes: int
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    r"""Mean, covariance and number of the features of each class.

    Args:
      features: ``(n, d)``.
      labels: ``(n,)`` classes in ``[0, num_classes)``.
      num_classes: :math:`K` ≥ 2.

    Returns:
      ``(K, d)``, ``(K, d, d)`` and ``(K,)``, in float32 at least. Covariances are divided by the number of examples; a
      class without examples has zeros.

    Raises:
      ValueError: shapes that disagree, or a label out of range.
      TypeError: labels that are no integers.

    Source: Yao, Chang (2024), arXiv 2409.13275.

    >>> means, covs, counts = gaussian_class_stats(jnp.array([[1.0], [3.0]]), jnp.array([0, 0]), num_classes=2)
    >>> means[:, 0].tolist(), covs[:, 0, 0].tolist(), counts.tolist()
    ([2.0, 0.0], [1.0, 0.0], [2.0, 0.0])
    """
    k = static_int("num_classes", num_classes, low=2)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"gaussian_class_stats: features (examples, d) and labels (examples,) are needed, "
            f"got {features.shape} and {labels.shape}"
        )
    x = widened(features)
    labels = labels_in_range(labels, k, where="gaussian_class_stats")
    own = jax.nn.one_hot(labels, k, dtype=x.dtype)
    counts = own.sum(axis=0)
    per_class = jnp.maximum(counts, 1)
    # kept for long: not rounded to less than single precision on accelerators
    means = jnp.matmul(own.T, x, precision="highest") / per_class[:, None]
    centred = x - means[labels]
    covs = jnp.einsum("nk,ni,nj->kij", own, centred, centred, precision="highest") / per_class[:, None, None]
    return means, covs, counts


def variance_enlarge(
    covs: Float[Array, "..."], *, lam: Number, mask_old: Bool[Array, "..."] | None = None
) -> Float[Array, "..."]:
    r"""Covariances with more variance in every direction of the axes: :math:`\Sigma_k + \lambda\,\mathrm{diag}(\Sigma_k)`.

    Args:
      covs: ``(K, d, d)``.
      lam: :math:`\lambda` ≥ 0; may be traced.
      mask_old: ``(K,)``, which classes; all of them without it.

    Returns:
      ``(K, d, d)``.

    Raises:
      ValueError: shapes that disagree, or lam out of range.

    Source: Yao, Chang (2024), arXiv 2409.13275.

    >>> variance_enlarge(jnp.array([[[2.0, 1.0], [1.0, 4.0]]]), lam=0.5).tolist()
    [[[3.0, 1.0], [1.0, 6.0]]]
    """
    check_finite_number("lam", lam, low=0.0)
    if covs.ndim != 3 or covs.shape[1] != covs.shape[2]:
        raise ValueError(f"variance_enlarge: covs need shape (classes, d, d), got {covs.shape}")
    if mask_old is not None and mask_old.shape != covs.shape[:1]:
        raise ValueError(f"variance_enlarge: mask_old of shape {mask_old.shape} for {covs.shape[0]} classes")
    factor = 1 + lam * jnp.eye(covs.shape[-1], dtype=covs.dtype)
    enlarged = (covs * factor).astype(covs.dtype)
    return enlarged if mask_old is None else jnp.where(mask_old[:, None, None], enlarged, covs)


def distribution_classifier_loss(
    weights: Float[Array, "..."], bias: Float[Array, "..."], means: Float[Array, "..."], covs: Float[Array, "..."]
) -> Float[Array, "..."]:
    r"""A bound on the expected cross-entropy of a linear classifier for Gaussian features of each class.

    .. math:: L_k = \log \sum_j \exp\big(v_{jk}^\top \mu_k + b_j - b_k + \tfrac12 v_{jk}^\top \Sigma_k v_{jk}\big)
       \ge \mathbb E_{x \sim N(\mu_k, \Sigma_k)} \big[-\log p_k(x)\big], \qquad v_{jk} = w_j - w_k.

    Nothing is sampled, and every class counts the same however many examples it had.

    Args:
      weights: ``(K, d)``, one row for each class, K ≥ 2.
      bias: ``(K,)``.
      means: ``(K, d)``, :math:`\mu`.
      covs: ``(K, d, d)``, :math:`\Sigma`, symmetric and not negative.

    Returns:
      ``(K,)``, one loss for each *class*, in the dtype of the weights. Their mean is the loss.

    Raises:
      ValueError: shapes that disagree, or fewer than two classes.

    Source: Yao, Chang (2024), arXiv 2409.13275; the bound is that of Wang et al. (2019), arXiv 1909.12220.

    >>> weights, zeros = jnp.array([[1.0], [0.0]]), jnp.zeros(2)
    >>> loss = distribution_classifier_loss(weights, zeros, jnp.array([[0.5], [-0.5]]), jnp.ones((2, 1, 1)))
    >>> [round(x, 4) for x in loss.tolist()]  # log(1 + e^(-1/2 + 1/2))
    [0.6931, 0.6931]
    """
    k, d = weights.shape if weights.ndim == 2 else (0, 0)
    shapes = {"bias": (bias, (k,)), "means": (means, (k, d)), "covs": (covs, (k, d, d))}
    if k < 2:
        raise ValueError(f"distribution_classifier_loss: weights need shape (classes ≥ 2, d), got {weights.shape}")
    for name, (array, wanted) in shapes.items():
        if array.shape != wanted:
            raise ValueError(f"distribution_classifier_loss: {name} needs shape {wanted}, got {array.shape}")
    w, b = widened(weights), widened(bias)

    def exponents(w_k, b_k, mean, cov):
        v = w - w_k
        return v @ mean + b - b_k + 0.5 * jnp.sum((v @ cov) * v, axis=-1)

    return surprise(jax.vmap(exponents)(w, b, widened(means), widened(covs)), jnp.arange(k)).astype(weights.dtype)


def amarx_loss(
    weights: Float[Array, "..."],
    bias: Float[Array, "..."],
    means: Float[Array, "..."],
    covs: Float[Array, "..."],
    *,
    lam: Number = 1.0,
) -> Float[Array, "..."]:
    r"""The same with enlarged variances: the margins adapt to each pair of classes.

    It is the cross-entropy at the class means with :math:`\tfrac12 v_{jk}^\top (\Sigma_k + \lambda\,\mathrm{diag}\,\Sigma_k) v_{jk}`
    added to the logit of each other class :math:`j`. Features of old classes drift while new ones are learned; a wider
    distribution makes room for where they are now. To enlarge the old classes only, give
    :func:`distribution_classifier_loss` what :func:`variance_enlarge` returns.

    Args:
      weights: ``(K, d)``, one row for each class, K ≥ 2.
      bias: ``(K,)``.
      means: ``(K, d)``.
      covs: ``(K, d, d)``.
      lam: :math:`\lambda` ≥ 0; 0 is :func:`distribution_classifier_loss`; may be traced.

    Returns:
      ``(K,)``, one loss for each *class*, in the dtype of the weights.

    Raises:
      ValueError: shapes that disagree, fewer than two classes, or lam out of range.

    Source: Yao, Chang (2024), arXiv 2409.13275.

    >>> weights, zeros = jnp.array([[1.0], [0.0]]), jnp.zeros(2)
    >>> loss = amarx_loss(weights, zeros, jnp.array([[1.0], [-1.0]]), jnp.ones((2, 1, 1)), lam=1.0)
    >>> [round(x, 4) for x in loss.tolist()]  # log(1 + e^(-1 + (1 + 1) / 2))
    [0.6931, 0.6931]
    """
    return distribution_classifier_loss(weights, bias, means, variance_enlarge(covs, lam=lam))
