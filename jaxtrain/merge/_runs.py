"""Models out of the folders of runs, with what their runs measure of them."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxtrain.config import nearest
from jaxtrain.core import Params
from jaxtrain.merge._rules import MergeError
from jaxtrain.training import Experiment
from jaxtrain.training.checkpoint import Checkpointer
from jaxtrain.training.ensemble import Ensemble
from jaxtrain.training.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class Source:
    """One of the models that are merged, on the host, with what its own run measures of it."""

    label: str
    folder: str
    step: int
    member: int
    params: Params
    metrics: dict[tuple[str, str], float]


def read_config(folder: Path) -> tuple[str, dict[str, Any]]:
    """The experiment's name and configuration of the run in a folder.

    Raises:
      MergeError: it is not the folder of a run.
    """
    path = folder / "config.json"
    if not path.is_file():
        what = "is not the folder of a run: it has no config.json" if folder.is_dir() else "does not exist"
        raise MergeError(f"{folder} {what}")
    found = json.loads(path.read_text(encoding="utf-8"))
    return found["experiment"], found["config"]


def configured(module: Any, values: Mapping[str, Any], folder: Path) -> Any:
    """The configuration object that was written to a folder."""
    config = module.Config()
    known = {field.name for field in dataclasses.fields(config)}
    if strange := sorted(set(values) - known):
        raise MergeError(
            f"{folder} was made with fields that the experiment does not have (any more): {', '.join(strange)}"
        )
    return dataclasses.replace(config, **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def program_of(experiment: Experiment, folder: RunFolder | None = None) -> Ensemble:
    """The experiment's program, members run as they were in the folder."""
    program = experiment.program()
    if folder is not None and folder.program_file.is_file():
        return dataclasses.replace(program, mode=json.loads(folder.program_file.read_text())["mode"])
    return program


def _numbers(text: str, what: str) -> list[int]:
    try:
        if ".." in text:
            low, high = map(int, text.split(".."))
            return list(range(low, high + 1))
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise MergeError(f"{what} is numbers such as 0,2,5 or 0..3, got '{text}'") from None


def _unprefixed(metrics: Mapping[str, Any], view: str) -> dict[str, np.ndarray]:
    """The metrics of a view; those of an experiment that names no views belong to all."""
    if any("/" in name for name in metrics):
        metrics = {n.removeprefix(f"{view}/"): v for n, v in metrics.items() if n.startswith(f"{view}/")}
    return {name: np.atleast_1d(np.asarray(value)) for name, value in metrics.items()}


def evaluated(experiment: Experiment, program: Ensemble, state: Any, view: str) -> dict[tuple[str, str], np.ndarray]:
    """What the experiment measures of a view: (split, metric) → members."""
    if experiment.evaluate is None:
        return {}
    return {
        (split, name): value
        for split, metrics in experiment.evaluate(program, state)
        for name, value in _unprefixed(jax.device_get(dict(metrics)), view).items()
    }


def read_models(
    folder: Path, module: Any, *, members: str | None, steps: str | None, view: str, live: str, label: str
) -> list[Source]:
    """The models of a run: of every step that is asked for (the newest), every member that is asked for (all).

    Raises:
      MergeError: there is no such view, step or member, or no checkpoint.
    """
    name, values = read_config(folder)
    experiment = module.build(configured(module, values, folder))
    if view not in experiment.views:
        raise MergeError(nearest(view, list(experiment.views), f"view of {name}"))
    if (folder / "merge.json").is_file() and view != live:
        raise MergeError(f"{folder} is a merge itself: of views it has '{live}' only, not '{view}'")
    run = RunFolder(folder)
    program = program_of(experiment, run)
    checkpoints = Checkpointer(run.checkpoints)
    kept = checkpoints.steps()
    if not kept:
        raise MergeError(f"{folder} has no checkpoint yet")
    wanted = kept if steps == "all" else _numbers(steps, "--steps") if steps else [None]
    if missing := [s for s in wanted if s is not None and s not in kept]:
        raise MergeError(f"{folder} has no checkpoint of step {missing[0]}; it has {', '.join(map(str, kept))}")
    chosen = list(range(program.num_members)) if members is None else _numbers(members, "--members")
    if wrong := [m for m in chosen if not 0 <= m < program.num_members]:
        raise MergeError(f"{folder} has no member {wrong[0]}: it has 0 to {program.num_members - 1}")
    found = []
    for step in wanted:
        try:
            restored = checkpoints.restore(program.abstract_state(), step)
        except ValueError as error:  # the experiment is another than the one that was run
            raise MergeError(f"{folder}: {error}") from error
        params = jax.device_get(program.map(experiment.views[view])(restored.state))
        metrics = evaluated(experiment, program, restored.state, view)
        for member in chosen:
            parts = [label] if label else []
            parts += [f"step {restored.step}"] if len(wanted) > 1 else []
            parts += [f"member {member}"] if program.num_members > 1 or not parts else []
            found.append(
                Source(
                    label=" ".join(parts),
                    folder=str(folder),
                    step=restored.step,
                    member=member,
                    params=jax.tree.map(lambda x, i=member: x[i], params),
                    metrics={key: float(value[member]) for key, value in metrics.items()},
                )
            )
    return found
