"""What the workloads report of a classifier."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxtrain.evaluation import expected_calibration_error


def classification_metrics(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> dict[str, Float[Array, ""]]:
    """Accuracy, cross-entropy and calibration error."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return {
        "accuracy": jnp.mean((logits.argmax(-1) == labels).astype(jnp.float32)),
        "loss": -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=-1)),
        "calibration_error": expected_calibration_error(jnp.exp(log_p).max(-1), logits.argmax(-1) == labels),
    }
