"""Golden steps of IGNITE: ``python tests/golden/make_ignite.py gradient_ascent_IGNITE/trainers.py gradient_ascent_IGNITE2/trainers.py``.

Needs TensorFlow, which [reference] does not hold. The files are those of github.com/cuong-dm/IGNITE at c7026148c927, run eagerly with
a small float64 model and plain gradient descent in place of its network and Adam; what the trainers import besides (noise on
the inputs, here none, and a rank correlation that is only logged) is stubbed.
"""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import tensorflow as tf

tf.function = lambda *args, **kwargs: lambda fn: fn
utils = types.ModuleType("design_baselines.utils")
utils.spearman = lambda a, b: tf.constant(0.0)
utils.soft_noise = utils.cont_noise = lambda x, noise: x
tfp = types.ModuleType("tensorflow_probability")
tfp.distributions = None
stubs = {"design_baselines": types.ModuleType("design_baselines"), "design_baselines.utils": utils}
sys.modules |= stubs | {"tensorflow_probability": tfp}

STEPS, RHO, R, EPSILON, DUAL_RATE, MULTIPLIER, RATE = 5, 0.2, 0.05, 0.02, 3.0, 0.5, 0.05


class Descent:
    def __init__(self, learning_rate):
        self.rate = learning_rate

    def apply_gradients(self, pairs):
        for gradient, variable in pairs:
            variable.assign_sub(self.rate * gradient)


class Gaussian:
    def __init__(self, loc, log_scale):
        self.loc, self.log_scale = loc, log_scale

    def mean(self):
        return self.loc

    def log_prob(self, y):
        return -0.5 * ((y - self.loc) / tf.exp(self.log_scale)) ** 2 - self.log_scale - 0.5 * np.log(2 * np.pi)


class Model:
    """One hidden layer and a scale that the mean does not depend on."""

    def __init__(self, start):
        self.trainable_variables = [tf.Variable(v) for v in start.values()]

    def get_distribution(self, x, training):
        w1, b1, w2, log_scale = self.trainable_variables
        return Gaussian(tf.tanh(x @ w1 + b1) @ w2, log_scale)


rng = np.random.default_rng(0)
start = {
    "w1": rng.normal(size=(3, 4)),
    "b1": rng.normal(size=4),
    "w2": rng.normal(size=(4, 1)),
    "log_scale": np.array([0.3]),
}
x, y = rng.normal(size=(STEPS, 7, 3)), rng.normal(size=(STEPS, 7, 1))
out = start | {"x": x, "y": y, "rho": RHO, "r": R, "epsilon": EPSILON, "dual_rate": DUAL_RATE, "multiplier": MULTIPLIER}
out |= {"rate": RATE, "tensorflow_version": tf.__version__}
for name, path in (("ignite", sys.argv[1]), ("ignite2", sys.argv[2])):
    spec = importlib.util.spec_from_file_location(f"official_{name}", path)
    official = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(official)
    model = Model(start)
    trainer = official.MaximumLikelihood(model, forward_model_optim=Descent, forward_model_lr=RATE)
    multiplier, iterates, multipliers = tf.constant(MULTIPLIER, tf.float64), [], []
    for bx, by in zip(x, y, strict=True):
        arguments = [tf.constant(bx), tf.constant(by), tf.ones((7, 1), tf.float64), 7]
        if name == "ignite":
            _, multiplier = trainer.train_step(*arguments, DUAL_RATE, EPSILON, multiplier, RHO, R)
            multipliers.append(float(multiplier))
        else:
            trainer.train_step(*arguments, multiplier, RHO, R)
        iterates.append(np.concatenate([v.numpy().ravel() for v in model.trainable_variables]))
    out[f"{name}_iterates"] = np.array(iterates)
    if multipliers:
        out["multipliers"] = np.array(multipliers)
np.savez(Path(__file__).parent / "ignite.npz", **out)
