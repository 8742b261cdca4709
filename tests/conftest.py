"""Eight fake CPU devices for every test and float64 on request."""

import jax
import pytest

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
