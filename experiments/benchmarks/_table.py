"""Every optimizer, how to make it from a learning rate, and optax's nearest: what the benchmarks run over."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

import jaxtrain.optimizers as ours


class Entry(NamedTuple):
    """An optimizer.

    Attributes:
      make: from a learning rate, or a schedule where ``scheduled``.
      nearest: the name of optax's nearest; its own where it is optax's.
      rate: about where its learning rates lie on small problems; grids go up and down from there.
      scheduled: whether ``make`` takes a schedule.
      asks: the extra arguments that an update needs.
      period: steps after which its work repeats.
    """

    make: Callable[[optax.ScalarOrSchedule], optax.GradientTransformation]
    nearest: str
    rate: float = 0.01
    scheduled: bool = True
    asks: tuple[str, ...] = ()
    period: int = 1


def table() -> dict[str, Entry]:
    """optax's own, then ours."""
    return {
        "optax.sgd": Entry(optax.sgd, "optax.sgd", 0.1),
        "optax.sgd, momentum": Entry(lambda r: optax.sgd(r, momentum=0.9), "optax.sgd, momentum", 0.03),
        "optax.adagrad": Entry(optax.adagrad, "optax.adagrad", 0.03),
        "optax.adamw": Entry(lambda r: optax.adamw(r, weight_decay=0.0), "optax.adamw"),
        "optax.amsgrad": Entry(optax.amsgrad, "optax.amsgrad"),
        "optax.adabelief": Entry(optax.adabelief, "optax.adabelief"),
        "optax.adafactor": Entry(
            lambda r: optax.adafactor(r, multiply_by_parameter_scale=False), "optax.adafactor"
        ),
        "optax.adan": Entry(optax.adan, "optax.adan"),
        "optax.contrib.ademamix": Entry(optax.contrib.ademamix, "optax.contrib.ademamix"),
        "optax.lion": Entry(lambda r: optax.lion(r, weight_decay=0.0), "optax.lion", 1e-3),
        "optax.contrib.muon": Entry(optax.contrib.muon, "optax.contrib.muon", 0.01),
        "optax.polyak_sgd": Entry(
            lambda r: optax.polyak_sgd(max_learning_rate=r), "optax.polyak_sgd", 1.0, scheduled=False, asks=("value",)
        ),
        "adabelief": Entry(ours.adabelief, "optax.adabelief"),
        "adabound": Entry(lambda r: ours.adabound(r, 0.1), "optax.adamw"),
        "adafactor": Entry(ours.adafactor, "optax.adafactor"),
        "adagrad_norm": Entry(ours.adagrad_norm, "optax.sgd", 1.0),
        "adahessian": Entry(ours.adahessian, "optax.adamw", 0.1, asks=("grad_fn", "key")),
        "adam_sn": Entry(ours.adam_sn, "optax.adamw"),
        "adam_nc": Entry(ours.adam_nc, "optax.adamw"),
        "adamp": Entry(ours.adamp, "optax.adamw"),
        "adamw in bfloat16": Entry(
            lambda r: ours.with_moment_dtype(optax.adamw(r, weight_decay=0.0)), "optax.adamw"
        ),
        "adamw_original": Entry(
            lambda r: ours.adamw_original(1.0, schedule=r) if callable(r) else ours.adamw_original(r), "optax.adamw"
        ),
        "adan": Entry(ours.adan, "optax.adan", 0.03),
        "ademamix": Entry(lambda r: ours.ademamix(r, warmup_steps=400), "optax.contrib.ademamix"),
        "alr_heavy_ball": Entry(
            lambda r: ours.alr_heavy_ball(max_lr=r), "optax.polyak_sgd", 0.1, scheduled=False, asks=("value",)
        ),
        "alr_mag": Entry(lambda r: ours.alr_mag(max_lr=r), "optax.polyak_sgd", 0.1, scheduled=False, asks=("value",)),
        "amsbound": Entry(lambda r: ours.amsbound(r, 0.1), "optax.adamw"),
        "amsgrad": Entry(ours.amsgrad, "optax.amsgrad"),
        "cautious adamw": Entry(lambda r: ours.cautious(optax.adamw(r, weight_decay=0.0)), "optax.adamw"),
        "clip_adagrad": Entry(ours.clip_adagrad, "optax.adagrad", 0.03),
        "clip_adam": Entry(ours.clip_adam, "optax.adamw"),
        "clip_radagradd": Entry(ours.clip_radagradd, "optax.sgd", 0.3),
        "diffgrad": Entry(ours.diffgrad, "optax.adamw"),
        "distributed_shampoo": Entry(
            lambda r: ours.distributed_shampoo(r, b2=0.99, precondition_frequency=10, max_preconditioner_dim=1024),
            "optax.adamw", period=10,
        ),
        "grams": Entry(ours.grams, "optax.adamw"),
        "gravity": Entry(ours.gravity, "optax.sgd, momentum", 0.1),
        "mars": Entry(ours.mars, "optax.adamw", 0.01),
        "mars, lion": Entry(lambda r: ours.mars(r, base="lion"), "optax.lion", 1e-3),
        "mars, shampoo": Entry(lambda r: ours.mars(r, base="shampoo"), "optax.contrib.muon", 0.01),
        "median momentum": Entry(
            lambda r: optax.chain(ours.scale_by_median_momentum(1.0), optax.scale_by_learning_rate(r)),
            "optax.sgd, momentum", 0.3,
        ),
        "o2nc": Entry(lambda r: ours.o2nc(r, 0.03), "optax.sgd", 0.01, asks=("key",)),
        "optimistic_omd": Entry(ours.optimistic_omd, "optax.sgd", 0.1),
        "orthogonalized adam": Entry(
            lambda r: optax.chain(ours.orthogonalize_gradients(), optax.adam(r)), "optax.adamw"
        ),
        "psps": Entry(
            lambda r: ours.psps("adam", max_lr=r), "optax.polyak_sgd", 0.1, scheduled=False, asks=("value",)
        ),
        "ranger21": Entry(
            lambda r: ours.ranger21(r, 400, weight_decay=0.0), "optax.adamw", 0.01, scheduled=False, period=5
        ),
        "sgd_sai": Entry(lambda r: ours.sgd_sai(r, weight_decay=0.0), "optax.sgd, momentum", 0.01),
        "sgdp": Entry(ours.sgdp, "optax.sgd, momentum", 0.03),
        "smb": Entry(ours.smb, "optax.sgd", 0.3, asks=("value", "value_fn", "grad_fn")),
        "snsm": Entry(lambda r: ours.snsm(r, rank=8, update_interval=50), "optax.adamw", period=50),
        "soap": Entry(
            lambda r: ours.soap(r, weight_decay=0.0, precondition_frequency=10, max_precond_dim=1024),
            "optax.adamw", period=10,
        ),
        "steepest_descent": Entry(lambda r: ours.steepest_descent(r, b1=0.95), "optax.contrib.muon", 0.03),
    }  # fmt: skip


def extra_arguments(
    entry: Entry, loss: Callable[[optax.Params], jax.Array], params: optax.Params, key: jax.Array
) -> dict:
    """What an update of the optimizer asks for."""
    known = {
        "value": lambda: loss(params),
        "value_fn": lambda: loss,
        "grad_fn": lambda: jax.grad(loss),
        "key": lambda: key,
    }
    return {name: known[name]() for name in entry.asks}
