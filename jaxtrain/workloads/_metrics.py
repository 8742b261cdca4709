"""What the workloads report of a classifier."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def expected_calibration_error(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"], *, bins: int = 15
) -> Float[Array, ""]:
    r"""How far confidence is from accuracy: :math:`\sum_b \frac{n_b}{n}\,|\mathrm{acc}_b - \mathrm{conf}_b|`.

    Predictions are put into ``bins`` bins of equal width by their highest probability.

    Source: Naeini, Cooper, Hauskrecht (2015); Guo, Pleiss, Sun, Weinberger (2017), arXiv 1706.04599.

    >>> float(expected_calibration_error(jnp.array([[9.0, -9.0], [9.0, -9.0]]), jnp.array([0, 1])))
    0.5
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.float32))
    confidence, correct = probabilities.max(-1), logits.argmax(-1) == labels
    place = jnp.clip(jnp.ceil(confidence * bins).astype(jnp.int32) - 1, 0, bins - 1)
    gap = jnp.zeros(bins).at[place].add(correct.astype(jnp.float32) - confidence)
    return jnp.sum(jnp.abs(gap)) / len(labels)


def classification_metrics(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> dict[str, Float[Array, ""]]:
    """Accuracy, cross-entropy and calibration error."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return {
        "accuracy": jnp.mean((logits.argmax(-1) == labels).astype(jnp.float32)),
        "loss": -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=-1)),
        "calibration_error": expected_calibration_error(logits, labels),
    }
