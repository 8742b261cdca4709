"""The comparison of averages: flatness against a whole Hessian, and every average read."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from experiments import _averages_page, averages
from experiments import supervised as s
from experiments._flatness import top_hessian_eigenvalue


def test_lanczos_finds_the_largest_eigenvalue_of_the_hessian(x64):
    params = jax.tree.map(lambda p: p.astype(jnp.float64), s.mlp(jax.random.key(0), (4, 5, 3)))
    x = jax.random.normal(jax.random.key(1), (20, 4))
    y = jnp.arange(20) % 3
    loss = lambda p: s.cross_entropy(p, x, y)  # noqa: E731
    flat, unravel = ravel_pytree(params)
    want = jnp.linalg.eigvalsh(jax.hessian(lambda v: loss(unravel(v)))(flat))[-1]
    got = jax.jit(lambda p: top_hessian_eigenvalue(loss, p, jax.random.key(2)))(params)
    # 30 steps in 43 dimensions
    np.testing.assert_allclose(got, want, rtol=1e-8)
    # a quadratic of two eigenvalues ends after two steps, and the rest of the steps must not spoil it
    d = jnp.array([5.0, 5.0, -7.0, 5.0])
    got = top_hessian_eigenvalue(lambda v: 0.5 * jnp.sum(d * v**2), jnp.ones(4), jax.random.key(0))
    np.testing.assert_allclose(got, 5.0, rtol=1e-12)


def test_every_run_is_read_to_the_last_average():
    """Traced, not computed: a name, a kind or an index that is wrong fails while tracing."""
    problem = averages.PROBLEMS["digits"](True)
    count = 0
    for run in averages.runs(problem):
        trace = jax.eval_shape(lambda key, run=run: averages._trace(problem, run, key), jax.random.key(0))
        assert trace[0].shape == (len(run.readers), averages.CHECKPOINTS)
        count += len(run.readers)
    assert count == 14


def test_the_page_is_made_of_the_result(tmp_path):
    result = json.loads(averages.RESULT.read_text(encoding="utf-8"))
    assert list(result["problems"]) == list(averages.PROBLEMS)
    assert _averages_page.page(result) == averages.PAGE.read_text(encoding="utf-8")
    _averages_page.draw(result, tmp_path / "averages.png")
    assert (tmp_path / "averages.png").stat().st_size > 10_000
