"""What optimizers of one moment or more have in common: the papers' numbers by default, and decay that is masked."""

import inspect

import jax.numpy as jnp
import optax
import pytest

from jaxtrain import optimizers as o

ADAM = {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
BOUND = {**ADAM, "final_learning_rate": 0.1, "gamma": 1e-3}
# of the authors' code, or of the paper where there is none; AMSGrad's and AdEMAMix's rates are the user's to choose
DEFAULTS = {
    "adabelief": {**ADAM, "eps": 1e-16},
    "adabound": BOUND,
    "adafactor": {"decay_exponent": 0.8, "eps1": 1e-30, "eps2": 1e-3, "clipping_threshold": 1.0, "b1": None},
    "adam_l2": {k: v for k, v in ADAM.items() if k != "weight_decay"} | {"l2": 0.0},
    "adam_nc": {"b1": 0.9, "eps": 1e-8},
    "adamw_original": ADAM,
    "adan": {**ADAM, "b1": 0.98, "b2": 0.92, "b3": 0.99},
    "ademamix": {**ADAM, "learning_rate": inspect.Parameter.empty, "b3": 0.9999, "alpha": 5.0},
    "amsbound": BOUND,
    "amsgrad": {"b1": 0.9, "b2": 0.99, "eps": 1e-8},
    "diffgrad": ADAM,
    "grams": {**ADAM, "eps": 1e-6},
    "sgdw": {"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.0},
}


def defaults(function):
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_the_papers_and_those_of_the_rule(name):
    found, rule = defaults(getattr(o, name)), defaults(getattr(o, f"scale_by_{name}", lambda: None))
    assert {key: found[key] for key in DEFAULTS[name]} == DEFAULTS[name]
    shared = found.keys() & rule.keys()
    assert {key: found[key] for key in shared} == {key: rule[key] for key in shared}


MASK = {"decays": True, "stays": False}
MASKED = {
    "adabelief": o.adabelief(0.1, weight_decay=0.5, mask=MASK),
    "adabelief_l2": o.adabelief(0.1, weight_decay=0.5, mask=MASK, decouple=False),
    "adam_l2": o.adam_l2(0.1, l2=0.5, mask=MASK),
    "adamw_original": o.adamw_original(0.1, weight_decay=0.5, mask=MASK),
    "adan": o.adan(0.1, weight_decay=0.5, mask=MASK),
    "adan_no_prox": o.adan(0.1, weight_decay=0.5, mask=MASK, proximal=False),
    "ademamix": o.ademamix(0.1, weight_decay=0.5, mask=MASK),
    "diffgrad": o.diffgrad(0.1, weight_decay=0.5, mask=MASK),
    "grams": o.grams(0.1, weight_decay=0.5, mask=MASK),
    "sgdw": o.sgdw(0.1, weight_decay=0.5, mask=MASK),
}


@pytest.mark.parametrize("name", MASKED)
def test_what_the_mask_leaves_out_does_not_decay(name):
    params = {"decays": jnp.full(2, 4.0), "stays": jnp.full(2, 4.0)}
    updates, _ = MASKED[name].update(optax.tree.zeros_like(params), MASKED[name].init(params), params)
    assert (updates["decays"] < 0).all() and (updates["stays"] == 0).all()
