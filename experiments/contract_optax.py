"""Which laws of the contract kit optax's own transformations break.

``python -m experiments.contract_optax`` runs the kit over them and writes ``experiments/results/contract_optax.json`` and
``docs/optax_contract.md``. ``--only NAME …`` prints what it finds and writes nothing; ``--again NAME …`` keeps the rest of the result.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from experiments._optax_programs import HEADER, PROGRAMS, output
from jaxtrain.testing import TRANSFORMATION_LAWS, find_violations, standard_extra_args

ROOT = Path(__file__).parent
RESULT = ROOT / "results" / "contract_optax.json"
PAGE = ROOT.parent / "docs" / "optax_contract.md"


def _case(factory: Callable[..., Any], hyperparams: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    return {"factory": factory, "hyperparams": dict(hyperparams or {}), **options}


def _lr(factory: Callable[..., Any], learning_rate: float = 0.1, **more: Any) -> dict[str, Any]:
    options = {k: more.pop(k) for k in ("non_finite", "static_args", "params", "extra_args") if k in more}
    return _case(factory, {"learning_rate": learning_rate, **more}, **options)


def _for_line_search(params: Any, grads: Any, batch: Any, key: Any) -> dict[str, Any]:
    standard = standard_extra_args(params, grads, batch, key)
    return {"value": standard["value"], "grad": grads, "value_fn": standard["value_fn"]}


def _with_obj_fn(params: Any, grads: Any, batch: Any, key: Any) -> dict[str, Any]:
    return {"obj_fn": standard_extra_args(params, grads, batch, key)["value_fn"]}


def _nothing(params: Any, grads: Any, batch: Any, key: Any) -> dict[str, Any]:
    return {}


_PLAIN = [
    "adabelief",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "adan",
    "amsgrad",
    "fromage",
    "lamb",
    "lars",
    "lion",
    "nadam",
    "nadamw",
    "novograd",
    "optimistic_adam_v2",
    "optimistic_gradient_descent",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
    "sign_sgd",
    "signum",
    "sm3",
    "yogi",
]
_PLAIN_CONTRIB = [
    "acprop",
    "ademamix",
    "simplified_ademamix",
    "dadapt_adamw",
    "dog",
    "dowg",
    "madgrad",
    "momo",
    "momo_adam",
    "muon",
    "prodigy",
    "schedule_free_adamw",
    "schedule_free_sgd",
]


def cases() -> dict[str, dict[str, Any]]:
    """Name, as a user would write it, and how to make it and what it promises."""
    found = {name: _lr(getattr(optax, name)) for name in _PLAIN}
    found |= {
        "adafactor": _lr(optax.adafactor, static_args=("min_dim_size_to_factor", "factored")),
        "lbfgs": _case(optax.lbfgs, extra_args=_for_line_search, non_finite=None, static_args=("memory_size",)),
        "noisy_sgd": _lr(optax.noisy_sgd, key=0, static_args=("key",)),
        "polyak_sgd": _case(optax.polyak_sgd),
        "adam(mu_dtype=float32)": _case(lambda: optax.adam(0.1, mu_dtype=jnp.float32)),
        "adam(mu_dtype=bfloat16)": _case(lambda: optax.adam(0.1, mu_dtype=jnp.bfloat16)),
        "adam(a float32 array)": _case(lambda: optax.adam(jnp.float32(0.1))),
        "adam(a schedule)": _case(lambda: optax.adam(optax.cosine_decay_schedule(0.1, 100))),
        "sgd(momentum, nesterov)": _lr(optax.sgd, momentum=0.9, nesterov=True, static_args=("nesterov",)),
        "clip": _case(optax.clip, {"max_delta": 0.1}),
        "clip_by_global_norm": _case(optax.clip_by_global_norm, {"max_norm": 0.1}),
        "clip_by_block_rms": _case(optax.clip_by_block_rms, {"threshold": 0.1}),
        "adaptive_grad_clip": _case(optax.adaptive_grad_clip, {"clipping": 0.1}),
        "centralize": _case(optax.centralize),
        "zero_nans": _case(optax.zero_nans, non_finite="stays_finite"),
        "apply_if_finite(adam)": _case(lambda: optax.apply_if_finite(optax.adam(0.1), 5), non_finite="skips"),
        "ema": _case(optax.ema, {"decay": 0.9}),
        "add_noise": _case(lambda: optax.add_noise(0.1, 0.55, 0)),
        "trace": _case(optax.trace, {"decay": 0.9}),
        "scale_by_rss": _case(optax.scale_by_rss),
        "scale_by_stddev": _case(optax.scale_by_stddev),
        "normalize_by_update_norm": _case(optax.normalize_by_update_norm),
    }
    found |= {f"contrib.{name}": _lr(getattr(contrib, name)) for name in _PLAIN_CONTRIB}
    found |= {
        "contrib.adopt": _lr(contrib.adopt),
        "contrib.cocob": _case(contrib.cocob),
        "contrib.galore": _lr(contrib.galore, rank=2, static_args=("rank", "update_proj_gap")),
        "contrib.mechanize(sgd)": _case(lambda: contrib.mechanize(optax.sgd(0.1))),
        "contrib.reduce_on_plateau": _case(contrib.reduce_on_plateau),
        "contrib.sam(sgd)": _case(
            lambda: contrib.sam(optax.sgd(0.1), optax.chain(contrib.normalize(), optax.sgd(0.05))), extra_args=_nothing
        ),
        "contrib.sophia": _lr(contrib.sophia, extra_args=_with_obj_fn),
    }
    return found


def examine(name: str, case: Mapping[str, Any]) -> list[dict[str, str]]:
    """What one of them breaks."""
    # what follows names files and lines of a machine
    return [
        v._replace(message=v.message.partition(" The error occurred")[0])._asdict() for v in find_violations(**case)
    ]


def page(result: Mapping[str, Any]) -> str:
    """The documentation page of a result."""
    found = result["found"]
    broken = {name: violations for name, violations in found.items() if violations}
    versions = ", ".join(f"{p} {v}" for p, v in result["versions"].items())
    lines = [
        "# What of optax breaks a law of the contract kit",
        "",
        f"Made by `{result['command']}` with {versions}. Do not edit.",
        "",
        f"`jaxtrain.testing.check_gradient_transformation` over {len(found)} of optax's own transformations: "
        f"{len(found) - len(broken)} keep all {len(result['laws'])} laws, {len(broken)} break "
        f"{sum(map(len, broken.values()))} in total. A broken law is not always a fault (a method may say so), but it is "
        "what a user meets. `lookahead`, which wraps the parameters themselves, and optimizers with other signatures "
        "are not in it.",
        "",
        "| transformation | law | what happens |",
        "|---|---|---|",
    ]
    for name, violations in broken.items():
        for v in violations:
            where = f"at `{v['leaf']}`: " if v["leaf"] else ""
            lines.append(f"| `{name}` | {v['law']} | {where}{_cell(v['message'])} |")
    lines += [
        "",
        "All laws are kept by: " + ", ".join(f"`{n}`" for n in found if n not in broken) + ".",
        "",
        "## The laws",
    ]
    lines += ["", "| law | says |", "|---|---|", *(f"| {law} | {says} |" for law, says in result["laws"].items())]
    lines += ["", "## Programs that show it", "", "Each starts with", "", "```python", HEADER.strip(), "```"]
    for (name, law), source in PROGRAMS.items():
        lines += ["", f"### `{name}`: {law}", "", "```python", source.strip(), "```", ""]
        lines += ["prints", "", "```", result["programs"][f"{name}: {law}"], "```"]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main(argv: list[str] | None = None) -> int:
    """Runs the survey."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="print what these break; nothing is written")
    parser.add_argument("--again", nargs="+", metavar="NAME", help="examine these again, keep what was found of others")
    arguments = parser.parse_args(argv)
    jax.config.update("jax_num_cpu_devices", 8)
    table = cases()
    versions = {p: metadata.version(p) for p in ("optax", "jax", "orbax-checkpoint", "numpy")}
    # first: one that fails fails at once
    programs = {f"{name}: {law}": output(source) for (name, law), source in PROGRAMS.items()}
    found = {}
    if arguments.again:
        before = json.loads(RESULT.read_text(encoding="utf-8"))
        if before["versions"] != versions:
            parser.error(f"the others were examined with {before['versions']}, this is {versions}")
        found = {name: before["found"][name] for name in table if name in before["found"]}
    for name in arguments.only or arguments.again or table:
        start = time.perf_counter()
        found[name] = examine(name, table[name])
        print(f"{name}: {len(found[name])} ({time.perf_counter() - start:.1f} s)", flush=True)
        for v in found[name]:
            print(f"    {v['law']} {v['leaf']}: {v['message']}", flush=True)
    if arguments.only:
        return 0
    result = {
        "command": "python -m experiments.contract_optax",
        "versions": versions,
        "laws": dict(TRANSFORMATION_LAWS),
        "found": found,
        "programs": programs,
    }
    RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
