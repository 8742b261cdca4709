"""The study of aggregators against attacks: every rule is traced, and the page is what the result says."""

import functools
import json

import jax
import jax.numpy as jnp

from experiments import _aggregators_page, aggregators
from experiments.aggregation import _byzantine as b


def test_every_rule_trains_under_every_attack():
    """Traced, not computed."""
    keys = jax.random.split(jax.random.key(0), 1)
    shares = jnp.full((aggregators.WORKERS, 10), 0.1)
    found = jax.eval_shape(
        functools.partial(b.starts, rounds=3, batch=8, byzantine=aggregators.BYZANTINE), keys, shares
    )
    start = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), found)
    for rule in aggregators.RULES.values():
        run = functools.partial(b.train, rule=rule, names=tuple(aggregators.ATTACKS), byzantine=3, beta=0.9)
        assert jax.eval_shape(run, start, jnp.float32(0.1), jnp.int32(0))["test_accuracy"].shape == ()


def test_the_page_is_made_of_the_result():
    result = json.loads(aggregators.RESULT.read_text(encoding="utf-8"))
    assert list(result["found"]) == list(aggregators.RULES)
    assert _aggregators_page.page(result) == aggregators.PAGE.read_text(encoding="utf-8")
