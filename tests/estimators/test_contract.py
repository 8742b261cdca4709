"""The contract kit over every estimator."""

import jax
import numpy as np
import pytest

from jaxtrain.estimators import lcv_sliced_wasserstein, sliced_wasserstein, ucv_sliced_wasserstein, wasserstein_1d
from jaxtrain.testing import check_estimator

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)), RNG.normal(size=(12, 3)) + 2.0


@pytest.mark.parametrize("estimator", [sliced_wasserstein, lcv_sliced_wasserstein, ucv_sliced_wasserstein])
def test_sliced(estimator):
    exact = sliced_wasserstein(
        jax.numpy.asarray(X, "float32"), jax.numpy.asarray(Y, "float32"), key=jax.random.key(1), num_projections=50_000
    )
    # a bias of O(1/L) of the root and of the coefficient, and the error of 50,000 directions
    check_estimator(estimator, X, Y, takes_key=True, exact=float(exact), bias=0.02)


def test_one_dimension():
    check_estimator(wasserstein_1d, X[:, 0], Y[:, 0])
