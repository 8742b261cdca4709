"""BANG: fine-tuning that stays modest, so that neither model of a mixture shouts the other down."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxtrain.core import Batch, Key, Number, Params, check_finite_number, check_key


def output_space_ensemble(
    logits_a: Float[Array, "*batch classes"], logits_b: Float[Array, "..."], weight: Number = 0.5
) -> Float[Array, "*batch classes"]:
    r"""The mixture of two models' logits, :math:`(1 - w) f_a + w f_b`: what WiSE-FT does to weights, on outputs.

    Logits, not probabilities: a model whose logits are :math:`\lambda` times as large counts :math:`\lambda` times.

    Args:
      logits_a: of the first model.
      logits_b: of the second.
      weight: w; may be traced.

    Returns:
      The mixed logits, in their dtype.

    Raises:
      ValueError: shapes that disagree, a weight that is not finite.

    Source: Lin et al. 2023, arXiv 2309.17230.

    >>> output_space_ensemble(jnp.array([0.0, 2.0]), jnp.array([4.0, 0.0]), 0.25).tolist()
    [1.0, 1.5]
    """
    if jnp.shape(logits_a) != jnp.shape(logits_b):
        raise ValueError(
            f"output_space_ensemble: logits of shapes {jnp.shape(logits_a)} and {jnp.shape(logits_b)} do not go together"
        )
    check_finite_number("weight", weight)
    dtype = jnp.result_type(logits_a, logits_b)
    w = jnp.asarray(weight, jnp.promote_types(dtype, jnp.float32))
    return ((1 - w) * logits_a + w * logits_b).astype(dtype)


def balanced_finetune_loss(
    key: Key,
    apply_fn: Callable[[Params, Batch], Float[Array, "batch classes"]],
    params: Params,
    x: Float[Array, "batch ..."],
    y: Int[Array, " labels"],
    *,
    label_smoothing: Number = 0.1,
    mixup_alpha: Number | None = None,
) -> Float[Array, " batch"]:
    r"""Cross-entropy with label smoothing, and Mixup if asked for: the loss of BANG's fine-tuning.

    .. math:: -\sum_c t_c \log \operatorname{softmax}_c f(\lambda x + (1 - \lambda) x_\pi), \qquad
        t = (1 - s)\bigl(\lambda e_y + (1 - \lambda) e_{y_\pi}\bigr) + \frac{s}{K}

    with one :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)` and one permutation :math:`\pi` for the batch. A
    fine-tuned model is overconfident off its distribution and dominates the mixture with its pretrained model; this
    loss keeps their confidences alike. Mix the two with :func:`wise_ft` afterwards.

    Args:
      key: one typed key; without Mixup it is not used.
      apply_fn: ``(params, inputs) -> logits``.
      params: what is trained.
      x: floating inputs.
      y: classes.
      label_smoothing: s in [0, 1]; may be traced.
      mixup_alpha: α > 0 of Mixup, may be traced; None: without.

    Returns:
      A loss for every example, in the dtype of the logits.

    Raises:
      ValueError: a number out of range, inputs and labels of different lengths.
      TypeError: an untyped key, labels that are not integers.

    Source: Lin, Tan, Hao, Wong, Dong, Zhang, Yang, Zhang 2023, arXiv 2309.17230; Zhang et al. 2017, "mixup",
    arXiv 1710.09412; Szegedy et al. 2015, arXiv 1512.00567 (label smoothing).

    >>> def apply(w, x):
    ...     return x @ w
    >>> x, y = jnp.eye(2), jnp.array([0, 1])
    >>> loss = balanced_finetune_loss(jax.random.key(0), apply, 2.0 * jnp.eye(2), x, y, label_smoothing=0.2)
    >>> loss.round(4).tolist() == (jnp.log(1 + jnp.exp(-2.0)) + 0.1 * jnp.full(2, 2.0)).round(4).tolist()
    True
    """
    check_key(key, where="balanced_finetune_loss")
    check_finite_number("label_smoothing", label_smoothing, low=0.0, high=1.0)
    y = jnp.asarray(y)
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise TypeError(f"balanced_finetune_loss: labels must be integers, got {y.dtype}")
    if y.ndim != 1 or jnp.shape(x)[:1] != y.shape:
        raise ValueError(f"balanced_finetune_loss: inputs of shape {jnp.shape(x)} and labels of shape {y.shape}")
    lam, order = None, None
    if mixup_alpha is not None:
        check_finite_number("mixup_alpha", mixup_alpha, low=1e-6)
        k_lam, k_order = jax.random.split(key)
        lam = jax.random.beta(k_lam, mixup_alpha, mixup_alpha)
        order = jax.random.permutation(k_order, len(y))
        x = (lam * x + (1 - lam) * x[order]).astype(x.dtype)
    logits = apply_fn(params, x)
    dtype = logits.dtype
    log_p = jax.nn.log_softmax(logits.astype(jnp.promote_types(dtype, jnp.float32)), axis=-1)
    target = jax.nn.one_hot(y, log_p.shape[-1], dtype=log_p.dtype)
    if lam is not None:
        target = lam * target + (1 - lam) * target[order]
    target = (1 - label_smoothing) * target + label_smoothing / log_p.shape[-1]
    return -jnp.sum(target * log_p, axis=-1).astype(dtype)
