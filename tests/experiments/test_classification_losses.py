"""The study of classification losses: every loss is traced, the data is what is said, and the page is the result's."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _classification_losses_page
from experiments import classification_losses as study

LABELS = jnp.tile(jnp.arange(10), 60)


@pytest.mark.parametrize("name", study.LOSSES)
def test_every_loss_trains(name):
    """Traced, not computed; all have the same number of settings."""
    loss = study.LOSSES[name]
    assert study.settings(loss).shape == (15, 2)
    x = jax.ShapeDtypeStruct((600, 64), jnp.float32)
    problem = (jax.ShapeDtypeStruct((600,), jnp.int32), jax.ShapeDtypeStruct((600,), jnp.float32))
    params = jax.eval_shape(
        functools.partial(study.fit, loss=loss, steps=3), jax.random.key(0), jnp.ones(2), problem, x
    )
    assert [p["w"].shape for p in params] == [(64, 128), (128, 10)]


def test_tails_and_wrong_labels_are_as_large_as_said():
    labels, chances = study.spoilt(jax.random.key(0), LABELS, "tail", 100.0)
    np.testing.assert_array_equal(labels, LABELS)
    counts = np.sort(np.bincount(LABELS, weights=np.asarray(chances) > 0))[::-1]
    np.testing.assert_array_equal(counts, np.maximum(np.round(60 * 100.0 ** (-np.arange(10) / 9)), 1))
    np.testing.assert_allclose(chances.sum(), 1, rtol=1e-6)
    labels, chances = study.spoilt(jax.random.key(0), LABELS, "pair", 0.4)
    assert int((labels == (LABELS + 1) % 10).sum()) == 240 and float(chances.max()) == float(chances.min())


def test_the_page_is_made_of_the_result():
    result = json.loads(study.RESULT.read_text(encoding="utf-8"))
    assert list(result["found"]) == list(study.LOSSES) and result["problems"] == list(study.PROBLEMS)
    assert _classification_losses_page.page(result) == study.PAGE.read_text(encoding="utf-8")
    best = _classification_losses_page.verdicts(result, result["problems"].index("symmetric 60 %"))
    assert best["ELR"][1] == "+" and best["sparsemax"][1] == "−"
