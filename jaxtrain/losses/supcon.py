"""The supervised contrastive loss: embeddings of a class attract each other among all of the batch."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxtrain.core import Number, check_finite_number
from jaxtrain.losses._logits import unit_rows

_TINY = float(np.finfo(np.float32).tiny)


def supcon_loss(
    embeddings: Float[Array, "batch d"],
    labels: Int[Array, "..."],
    *,
    temperature: Number = 0.1,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, " batch"]:
    r"""Every other example of an anchor's class is to be found among all others of the batch.

    .. math:: L_i = -\frac1{|P(i)|} \sum_{p \in P(i)} \log \frac{\exp(z_i \cdot z_p / T)}{\sum_{a \ne i} \exp(z_i \cdot z_a / T)},
       \qquad P(i) = \{p \ne i : y_p = y_i\}

    with embeddings brought to length 1. An anchor whose class has no other example has the loss 0. The examples of a batch
    are coupled. Give several views of each input as rows with the same label; without labels, number the inputs.

    Args:
      embeddings: ``(batch, d)``, of any length.
      labels: ``(batch,)`` integers, any.
      temperature: :math:`T` > 0; may be traced.
      where: ``(batch,)``, False for rows that are not there: no anchors, and not among the others; None: all are.

    Returns:
      ``(batch,)``, one loss for each example, in the dtype of the embeddings.

    Raises:
      ValueError: shapes that disagree, or a temperature out of range.

    Source: Khosla et al. (2020), arXiv 2004.11362; Roy, Park, Fahrezi, Etemad (2024), arXiv 2403.14392.

    >>> z = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> loss = supcon_loss(z, jnp.array([0, 0, 1]), temperature=1.0)
    >>> [round(float(x), 4) for x in loss]  # -log(e / (e + 1)), twice; the third is alone
    [0.3133, 0.3133, 0.0]
    """
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"supcon_loss: labels of shape {labels.shape} for embeddings {embeddings.shape}; give (batch, d)"
        )
    if where is not None and where.shape != labels.shape:
        raise ValueError(f"supcon_loss: where of shape {where.shape} for labels {labels.shape}")
    check_finite_number("temperature", temperature, low=_TINY)
    there = jnp.ones(len(labels), bool) if where is None else where
    # what padding holds may be anything, NaN too, which no mask of the scores would keep out of the gradient
    z = unit_rows(jnp.where(there[:, None], embeddings, 0))
    scores = jnp.matmul(z, z.T, precision="highest") / temperature
    others = there[:, None] & there & ~jnp.eye(len(labels), dtype=bool)
    positive = others & (labels[:, None] == labels)
    count = positive.sum(axis=1)
    # a row without positives has nothing to normalise: any finite number does, and passes no gradient
    total = jax.nn.logsumexp(jnp.where(others | (count == 0)[:, None], scores, -jnp.inf), axis=1)
    attraction = jnp.sum(jnp.where(positive, scores, 0.0), axis=1) / jnp.maximum(count, 1)
    return jnp.where(count > 0, total - attraction, 0.0).astype(embeddings.dtype)
