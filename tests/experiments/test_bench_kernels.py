"""Bytes read from the text of a compiled program, counted by hand; the table's floor; what is said without the plugin."""

import jax
import pytest

from experiments.benchmarks import kernels as bench
from experiments.benchmarks._hlo import Kernel, kernels, nbytes

# shortened from what XLA makes of a norm and a step: a slice of `big`, an operand given twice, a loop, a copy, a call
TEXT = """\
HloModule jit_step, is_scheduled=true

%fused_reduce (param_0: f32[8,4], param_1: f32[100]) -> f32[8] {
  %param_0 = f32[8,4]{1,0} parameter(0)
  %param_1 = f32[100]{0} parameter(1)
  %slice.1 = f32[10]{0} slice(%param_1), slice={[0:10]}
  ROOT %reduce = f32[8]{0} reduce(%param_0, %slice.1), dimensions={1}
}

%fused_step (param_0.1: f32[8,4], param_1.1: f32[8,4], param_2: bf16[4]) -> (f32[8,4], bf16[4]) {
  %param_0.1 = f32[8,4]{1,0} parameter(0)
  %param_1.1 = f32[8,4]{1,0} parameter(1)
  %param_2 = bf16[4]{0} parameter(2)
  %add = f32[8,4]{1,0} add(%param_0.1, %param_1.1)
  ROOT %tuple = (f32[8,4]{1,0}, bf16[4]{0}) tuple(%add, %param_2)
}

%called (p: s32[]) -> s32[] {
  %p = s32[] parameter(0)
  ROOT %copy.2 = s32[] copy(%p)
}

ENTRY %main (g: f32[8,4], big: f32[100], half: bf16[4], count: s32[]) -> (f32[8], f32[8,4], bf16[4], s32[]) {
  %g = f32[8,4]{1,0} parameter(0)
  %big = f32[100]{0} parameter(1)
  %half = bf16[4]{0} parameter(2)
  %count = s32[] parameter(3)
  %norm = f32[8]{0} fusion(%g, %big), kind=kInput, calls=%fused_reduce
  %step = (f32[8,4]{1,0}, bf16[4]{0}) fusion(%g, %g, /*index=2*/%half), kind=kLoop, calls=%fused_step
  %part = f32[8,4]{1,0} get-tuple-element(%step), index=0
  %while.1 = (s32[], f32[8,4]) while(%part), condition=%called, body=%called
  %copy.1 = f32[8,4]{1,0} copy(%part)
  %call.1 = s32[] call(%count), to_apply=%called
  ROOT %all = (f32[8]{0}, f32[8,4]{1,0}, bf16[4]{0}, s32[]) tuple(%norm, %copy.1, %half, %call.1)
}
"""


def test_bytes_of_every_kernel():
    assert kernels(TEXT) == [
        Kernel("norm", 8 * 4 * 4 + 10 * 4, 8 * 4),  # of `big` the slice only
        Kernel("step", 8 * 4 * 4 + 4 * 2, 8 * 4 * 4 + 4 * 2),  # g once
        Kernel("copy.1", 128, 128),
        Kernel("copy.2", 4, 4),  # inside the call; the loop counts nothing
    ]


def test_shapes_and_texts_that_are_none():
    assert nbytes("(pred[3]{0}, u8[2,2], f64[])") == 3 + 4 + 8
    with pytest.raises(ValueError, match="unknown dtype f3"):
        nbytes("f3[2]")
    with pytest.raises(ValueError, match="no ENTRY"):
        kernels("HloModule nothing")


def test_a_missing_plugin_is_named(monkeypatch):
    def none(*args, **kwargs):
        raise RuntimeError("Unknown backend: 'cuda'")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", none)
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.raises(RuntimeError, match=r"pip install 'jaxtrain\[cuda\]'"):
        bench.described_gpu()


def test_the_table_counts_against_the_bytes_that_must_move(monkeypatch):
    """On this machine's own device: SGD reads parameters and gradients and writes parameters."""
    monkeypatch.setattr(bench, "described_gpu", lambda: jax.devices()[0])
    monkeypatch.setattr(bench, "shapes", lambda scale, tree: {"w": (64, 64)})
    found = bench.measure(["optax.sgd"])["optax.sgd"]
    assert (found["kernels"], found["small"], found["moved"], found["× floor"]) == (1, 1, 12.0, 1.0)
