"""Carries a training run: state, step, sharding, ensembles, checkpoints, runs. Knows no method."""

from jaxtrain.training.checkpoint import Checkpointer, CheckpointError
from jaxtrain.training.ensemble import Ensemble, ensemble
from jaxtrain.training.evaluate import evaluate_batches
from jaxtrain.training.experiment import DataIterator, Experiment
from jaxtrain.training.precision import LossScaled, Policy, loss_scaled, loss_scaling, mixed_precision
from jaxtrain.training.sharding import (
    batch_shardings,
    bytes_per_device,
    count_collectives,
    fsdp,
    make_mesh,
    param_specs,
    put_batch,
    state_shardings,
)
from jaxtrain.training.state import TrainState, create_state
from jaxtrain.training.step import make_step

__all__ = [
    "CheckpointError",
    "Checkpointer",
    "DataIterator",
    "Ensemble",
    "Experiment",
    "LossScaled",
    "Policy",
    "TrainState",
    "batch_shardings",
    "bytes_per_device",
    "count_collectives",
    "create_state",
    "ensemble",
    "evaluate_batches",
    "fsdp",
    "loss_scaled",
    "loss_scaling",
    "make_mesh",
    "make_step",
    "mixed_precision",
    "param_specs",
    "put_batch",
    "state_shardings",
]
