"""Eight fake CPU devices for every test and float64 on request."""

import os
from importlib import metadata

import jax
import pytest

from tests._agreement import pytest_addoption, pytest_configure  # noqa: F401  (hooks)

# The suite compiles thousands of tiny programs that run once, which takes most of its time: little optimisation takes
# half as much. Processes that tests start inherit it. `XLA_FLAGS= make test` tests what the default compiler makes.
_FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
if metadata.version("jaxlib").startswith("0.10."):  # others end the process at a flag that they do not know
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(_FLAGS))

# Before the first use of a backend: sharding tests need devices, and the others do not mind.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")

# They import the peers (and replace what these import needlessly); tests need only what they wrote.
collect_ignore_glob = ["golden/make_*.py"]


@pytest.fixture
def x64():
    """Double precision inside one test."""
    with jax.enable_x64(True):
        yield
