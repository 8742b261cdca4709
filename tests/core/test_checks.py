"""The checks say what was wrong, with which value, and let traced values pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtrain.core import (
    check_decays,
    check_finite_number,
    check_indices,
    check_key,
    check_leading_axes,
    check_same_structure,
    checked,
    labels_in_range,
)


def test_check_key_names_what_it_got():
    check_key(jax.random.key(1), where="f")
    with pytest.raises(TypeError, match=r"f needs a typed key from jax.random.key\(seed\), got int"):
        check_key(1, where="f")
    with pytest.raises(TypeError, match=r"dtype uint32 and shape \(2,\); wrap an old key"):
        check_key(jnp.zeros(2, jnp.uint32), where="f")
    with pytest.raises(ValueError, match=r"got an array of \(3,\) keys; use jax.vmap"):
        check_key(jax.random.split(jax.random.key(0), 3), where="f")
    jax.jit(lambda key: check_key(key, where="f"))(jax.random.key(0))


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, np.inf, np.array([0.5, 2.0])])
def test_check_finite_number_rejects_what_lies_outside(value):
    with pytest.raises(ValueError, match=r"b1 must lie in \[0.0, 1.0\], got"):
        check_finite_number("b1", value, low=0.0, high=1.0)


def test_check_finite_number_lets_ends_and_traced_values_pass():
    for value in (0.0, 1.0, jnp.array([0.0, 1.0])):
        check_finite_number("b1", value, low=0.0, high=1.0)
    jax.jit(lambda x: check_finite_number("b1", x, low=0.0, high=1.0))(7.0)
    with pytest.raises(TypeError, match="b1 must be a number, got str"):
        check_finite_number("b1", "0.9")


@pytest.mark.parametrize("value", [1.0, 1 - 1e-9, -0.1, float("nan"), np.array([0.5, 1.0])])
def test_check_decays_rejects_what_single_precision_takes_for_one(value):
    with pytest.raises(ValueError, match=r"b2 must lie in \[0.0, 0.99.*\], got"):
        check_decays(b1=0.9, b2=value)


def test_check_decays_lets_the_rest_pass():
    check_decays(b1=0, b2=0.999999, b3=jnp.array([0.0, 0.5]))
    jax.jit(lambda b: check_decays(b1=b))(7.0)


def test_check_leading_axes_names_both_sides():
    assert check_leading_axes({"x": jnp.zeros((3, 2)), "y": jnp.zeros(3)}, where="step") == 3
    with pytest.raises(ValueError, match=r"step: the leading axes of the batch disagree: \['x'\] has 3, \['y'\] has 2"):
        check_leading_axes({"x": jnp.zeros((3, 2)), "y": jnp.zeros(2)}, where="step")
    with pytest.raises(ValueError, match="the batch is empty"):
        check_leading_axes({"x": jnp.zeros((0, 2))}, where="step")
    with pytest.raises(ValueError, match=r"\['x'\] is a scalar"):
        check_leading_axes({"x": jnp.zeros(())}, where="step")
    with pytest.raises(ValueError, match="the batch has no arrays"):
        check_leading_axes({}, where="step")


def test_check_same_structure_names_the_first_paths():
    tree = {"a": jnp.zeros(2), "b": [jnp.zeros((1, 2)), jnp.zeros(3, jnp.int32)]}
    check_same_structure(tree, jax.eval_shape(lambda: tree), where="restore")
    with pytest.raises(ValueError) as error:
        check_same_structure(tree, {"a": jnp.zeros(3), "b": [jnp.zeros((1, 2)), jnp.zeros(3)]}, where="restore")
    assert "['a'] is float32[3], expected float32[2]" in str(error.value)
    assert "['b'][1] is float32[3], expected int32[3]" in str(error.value)
    with pytest.raises(ValueError, match="and 4 more"):
        check_same_structure({}, {str(i): jnp.zeros(1) for i in range(9)}, where="restore")


def test_labels_in_range_refuses_known_labels_and_moves_traced_ones():
    labels = jnp.array([-1, 0, 2, 7])
    with pytest.raises(ValueError, match="f: label -1 is none of the 3 classes"):
        labels_in_range(labels, 3, where="f")
    with pytest.raises(ValueError, match="f: bag 7 is none of the 3 bags"):
        labels_in_range(labels[1:], 3, where="f", names=("bag", "bags"))
    with pytest.raises(TypeError, match="f: labels must be integers, got float32"):
        labels_in_range(jnp.zeros(2), 3, where="f")
    moved = lambda y: labels_in_range(y, 3, where="f")  # noqa: E731
    assert jax.jit(moved)(labels).tolist() == [0, 0, 2, 2]
    with pytest.raises(ValueError, match="f: label -1 is none of the 3 classes"):
        checked(moved)(labels)
    assert labels_in_range(jnp.array([255], jnp.uint8), 300, where="f").dtype == jnp.int32
    assert labels_in_range(jnp.zeros(0, int), 3, where="f").shape == (0,)


def test_check_indices_lets_traced_values_pass():
    check_indices(jnp.array([0, 4]), 5, where="f")
    with pytest.raises(ValueError, match="f: index 5 is none of the 5 examples"):
        check_indices(jnp.array([0, 5]), 5, where="f")
    jax.jit(lambda i: check_indices(i, 5, where="f"))(jnp.array([9]))
