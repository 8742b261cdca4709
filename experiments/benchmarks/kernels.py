"""What an optimizer's step is on an H100, without one: XLA compiles it here for that GPU, and its kernels are counted.

The program is the one that an H100 would run (jax's CUDA plugin compiles for a described device). Its text says which
arrays every kernel reads and writes. Bytes moved over bytes that must move are exact and no matter of noise; they are the
time's multiple of the memory floor as far as kernels are large. Small ones cost their launch, so they are counted.
Needs jax's CUDA plugin (``pip install 'jaxtrain[cuda]'``), and no GPU.
"""

import argparse
import concurrent.futures
import os
import platform
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxtrain.optimizers as ours
from experiments.benchmarks._hlo import kernels
from experiments.benchmarks._timing import print_table
from experiments.benchmarks.optimizers import TREES, candidates, lowered, nbytes, shapes

TITLE = "Kernels and bytes of optimizers' steps compiled for an H100, without one"

# NVIDIA's figures of the H100 SXM, as XLA asks for them
H100 = """\
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3"
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  l2_cache_size: 52428800
  memory_bandwidth: 3352320000000
  device_memory_size: 84942979072
  device_vendor: "NVIDIA Corporation"
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# larger kernels take longer than a launch (about 2 µs, in which an H100 moves 6 MB)
SMALL = 6_000_000


def described_gpu() -> Any:
    """A device to compile for.

    Raises:
      RuntimeError: jax's CUDA plugin is missing.
    """
    from jax.experimental import topologies

    # matrix products would be tried out on the GPU that is not there
    os.environ.setdefault("XLA_FLAGS", "--xla_gpu_autotune_level=0")
    try:
        described = topologies.get_topology_desc(
            "NVIDIA H100 80GB HBM3", platform="cuda", topology="1x1x1", target_config=H100
        )
    except (RuntimeError, NotImplementedError) as error:
        raise RuntimeError(
            "compiling for a GPU needs jax's CUDA plugin: pip install 'jaxtrain[cuda]', in the version of jax "
            f"({jax.__version__}), and JAX_PLATFORMS=cpu where there is no GPU"
        ) from error
    return described.devices[0]


def measure(
    names: list[str], *, tree: str = "gpt2", fused: bool = False, say: Callable[[str], None] = lambda line: None
) -> dict[str, dict[str, float]]:
    """Kernels and bytes of the steps of these optimizers.

    Args:
      names: which.
      tree: on whose parameters.
      fused: whether ``fuse_small_leaves`` comes first.
      say: is told each result.
    """
    device, everything = described_gpu(), candidates()
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes(1.0, tree).items()}
    count = sum(p.size for p in params.values())

    def one(name: str) -> dict[str, float]:
        entry = everything[name]
        tx = optax.with_extra_args_support(entry.make(entry.rate))
        tx = optax.chain(ours.fuse_small_leaves(), tx) if fused else tx
        program = lowered(tx, params, entry.asks, device).compile()
        launched = kernels(program.as_text())
        moved = sum(k.read + k.written for k in launched)
        return {
            "kernels": len(launched),
            "small": sum(k.read + k.written < SMALL for k in launched),
            "moved": moved / count,
            "× floor": moved / (3 * nbytes(params) + 2 * nbytes(jax.eval_shape(tx.init, params))),
            "stored MB": program.memory_analysis().temp_size_in_bytes / 1e6,
        }

    found = {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, result in zip(names, pool.map(one, names), strict=True):
            found[name] = result
            say(f"{name}: {result['kernels']} kernels, {result['× floor']:.2f} × the bytes that must move")
    return found


def _rows(plain: dict[str, dict[str, float]], fused: dict[str, dict[str, float]]) -> list[tuple[str, ...]]:
    return [
        (
            f"`{name}`",
            f"{r['moved']:.1f}",
            f"{r['× floor']:.2f}",
            f"{r['stored MB']:.0f}",
            f"{r['kernels']}",
            f"{r['small']}",
            f"{fused[name]['kernels']}",
        )
        for name, r in plain.items()
    ]


HEAD = ("optimizer", "bytes moved a parameter", "× floor", "stored between, MB", "kernels", "of them small", "fused")

ABOUT = """\
XLA compiled every step for an NVIDIA H100 without one (`{command}`, jax {jax}, Python {python}), for the
parameters of {tree}: {count:.1f} M in {leaves} leaves. Counted in the program's text: the bytes that its kernels read and
write; their multiple of the floor, which is the bytes that a step must move (parameters and state twice, gradients once);
what is stored between kernels; the kernels; those that move less than {small:.0f} MB, for which a launch takes longer than the
work; and the kernels when `fuse_small_leaves()` comes first in the chain. Loops that run at few steps are left out.
These are no times: [times on an H100](costs_h100.md) were measured before what is said below was done."""

FOUND = """\
## What was found

- **XLA moves no byte too many** for elementwise methods: they are at 1.00 × the floor. A kernel reads parameters, gradient
  and state of one leaf and writes all of them.
- **A kernel for every leaf.** jaxlib 0.10 has no horizontal fusion of loops any more: GPT-2's 98 biases and norms are
  98 launches. XLA does join loops over arrays of one shape that read a common *array* (a common number is not enough).
  `jaxtrain.optimizers.fuse_small_leaves` uses this: every small gradient looks at the first of its shape, and nothing
  comes of it but the joined loop. Behind it stands any optimizer, optax's too. What this saves in time is not measured yet.
- **A state that becomes the gradient** (Adan, diffGrad, MARS) was a copy by a kernel of its own: XLA writes an output over
  an operand only where the one depends on the other, entry by entry. `jaxtrain.core.numerics.in_place_of` says so.
- **What is above 1.15** needs a number of all entries before it may move any: a norm (`adagrad_norm`, `clip_*`, `alr_*`,
  `psps`, `gravity`, `o2nc`, `adam_sn`), several (`adamp`, `sgdp`, `adafactor`, `ranger21`, `orthogonalized adam`), a
  count (`cautious`), the largest entry and then a norm (`mars`), or is the product of matrices (`steepest_descent`). Each
  reads again what it looks at. `adamw in bfloat16` draws the bits of all leaves as one array: XLA joins the leaves that
  read it, more than it can write in place, and copies some moments.
"""


def main(argv: list[str] | None = None) -> int:
    """``jaxtrain bench kernels``."""
    periodic = {name for name, entry in candidates().items() if entry.period > 5}
    elementwise = [
        name for name in candidates() if name not in periodic and "muon" not in name and "shampoo" not in name
    ]
    parser = argparse.ArgumentParser(prog="jaxtrain bench kernels", description=TITLE)
    parser.add_argument("--tree", choices=TREES, default="gpt2", help="whose parameters")
    parser.add_argument("--only", nargs="+", choices=list(candidates()), metavar="NAME", default=elementwise)
    parser.add_argument("--page", metavar="FILE", help="also write the table as a page of the documentation")
    options = parser.parse_args(argv)

    def say(line: str) -> None:
        print(line, flush=True)

    plain = measure(options.only, tree=options.tree, say=say)
    say("and with fuse_small_leaves")
    fused = measure(options.only, tree=options.tree, fused=True, say=say)
    rows = _rows(plain, fused)
    print_table(TITLE, HEAD, rows)
    if options.page:
        sizes = shapes(1.0, options.tree)
        about = ABOUT.format(
            command="jaxtrain bench kernels",
            jax=jax.__version__,
            python=platform.python_version(),
            tree=options.tree,
            count=sum(int(np.prod(s)) for s in sizes.values()) / 1e6,
            leaves=len(sizes),
            small=SMALL / 1e6,
        )
        table = [f"| {' | '.join(row)} |" for row in (HEAD, ("---",) * len(HEAD), *rows)]
        page = [
            "# What a step of an optimizer moves on an H100",
            "",
            about,
            "",
            "## Cost in kernels and bytes",
            "",
            *table,
            "",
            FOUND.rstrip(),
        ]
        with open(options.page, "w", encoding="utf-8") as file:
            file.write("\n".join(page) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
