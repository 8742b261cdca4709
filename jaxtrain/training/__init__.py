"""Carries a training run: state, step, sharding, ensembles, checkpoints, runs. Knows no method."""

from jaxtrain.training.experiment import DataIterator, Experiment
from jaxtrain.training.state import TrainState, create_state
from jaxtrain.training.step import make_step

__all__ = ["DataIterator", "Experiment", "TrainState", "create_state", "make_step"]
