"""The benchmark of averages runs, and its books balance."""

import numpy as np

from experiments.benchmarks import averaging


def test_a_small_run():
    names = ["power_function_ema, two widths", "lawa of 4 between captures", "swad (the open segment)"]
    found = averaging.measure(names, scale=0.02, rounds=2)
    # two averages and a few scalars; four models
    np.testing.assert_allclose([found[name]["models"] for name in names[:2]], [2, 4], rtol=1e-2)
    bandwidth, count = found["copy"]["GB/s"] * 1e9, sum(np.prod(s) for s in averaging.shapes(0.02).values())
    # one read of the parameters, a read and a write of each average, 4 bytes each
    np.testing.assert_allclose(found[names[0]]["floor ms"], 1e3 * 5 * 4 * count / bandwidth, rtol=1e-6)
    assert found[names[1]]["floor ms"] == 0 and averaging.rows(found)[1][3] == ""
