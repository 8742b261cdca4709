"""From folders of runs to the folder of the merged model."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtrain import averaging
from jaxtrain.config import nearest
from jaxtrain.core import Params, compare_leaves, describe_leaves
from jaxtrain.merge._place import Place, matched
from jaxtrain.merge._rules import RULES, MergeError, read_options
from jaxtrain.merge._runs import Source, configured, read_config, read_models
from jaxtrain.training.checkpoint import Checkpointer
from jaxtrain.training.record import checkpoint_extra, summary_of
from jaxtrain.training.run_folder import RunFolder, digest, environment, write_json
from jaxtrain.training.summary import interval
from jaxtrain.training.writers import CsvWriter, Row


def merge(
    folders: Sequence[Path],
    workdir: Path,
    module: Any,
    *,
    rule: str = "uniform",
    settings: Sequence[str] = (),
    members: str | None = None,
    steps: str | None = None,
    view: str | None = None,
    match: bool = False,
    batches: int = 16,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Merges models of runs of one experiment and writes the folder of the result.

    The result is the folder of a finished run with one member: ``jaxtrain report`` and ``jaxtrain merge`` take it as
    any other. ``merge.json`` says what it was made of. Its running statistics are recomputed on training batches; its
    optimizer state is that of a new run.

    Args:
      folders: of runs; the order matters to rules with a first model.
      workdir: an empty or new folder.
      module: of the experiment, with ``Config`` and ``build``.
      rule: one of :data:`RULES`.
      settings: ``key=value`` words for the rule.
      members: which, as ``0,2`` or ``0..3``; None: all.
      steps: of which checkpoints, as ``100,200`` or ``all``; None: the newest.
      view: which weights go in; None: the trained ones.
      match: permute every model's units to the order of the first one's before the rule.
      batches: training batches for the running statistics.
      say: is told what is worth knowing besides the result.

    Returns:
      The content of ``summary.json``.

    Raises:
      MergeError: see the messages.
      RunFolderError: the folder is in use.
    """
    began = time.perf_counter()
    if rule not in RULES:
        raise MergeError(nearest(rule, list(RULES), "rule"))
    options = read_options(RULES[rule], rule, settings)
    if batches < 1:
        raise MergeError(f"--batches must be at least 1, got {batches}")
    if workdir.exists() and (not workdir.is_dir() or any(p.name != "lock" for p in workdir.iterdir())):
        raise MergeError(f"{workdir} is not empty; choose a new --workdir")
    names = {folder: read_config(folder)[0] for folder in folders}
    for folder, name in names.items():
        if name != names[folders[0]]:
            raise MergeError(
                f"{folder} is a run of '{name}', {folders[0]} one of '{names[folders[0]]}': only models of one "
                "experiment can be merged"
            )
    first_config = configured(module, read_config(folders[0])[1], folders[0])
    place = Place(module, first_config, batches=batches)
    view = place.view if view is None else view
    short = len({folder.name for folder in folders}) == len(folders)
    sources = []
    for folder in folders:
        label = "" if len(folders) == 1 else folder.name if short else str(folder)
        sources += read_models(folder, module, members=members, steps=steps, view=view, live=place.view, label=label)
    if len(sources) < RULES[rule].minimum:
        raise MergeError(
            f"{rule} needs at least {RULES[rule].minimum} models, these are {len(sources)}: give more runs, members or "
            "--steps"
        )
    for source in sources[1:]:
        try:
            compare_leaves(
                describe_leaves(sources[0].params),
                describe_leaves(source.params),
                where=f"{source.label} of {source.folder}",
            )
        except ValueError as error:
            raise MergeError(f"{error}. Its parameters are not those of {sources[0].folder}") from None
    stacked = averaging.stack_models([source.params for source in sources])
    if match:
        stacked = matched(stacked, module)
    try:
        params, notes = RULES[rule].apply(stacked, place.score, **options)
    except MergeError:
        raise
    except ValueError as error:  # a setting out of range
        raise MergeError(f"{rule}: {error}") from None
    splits = {split for split, _ in sources[0].metrics}
    if RULES[rule].scores and "test" in splits:
        say(
            f"note: {rule} chose by the test data, so that its values there are too good. For an honest choice train "
            "without a part of the training data and let the experiment evaluate that"
        )
    metrics = place.evaluate(params)
    folder = RunFolder(workdir)
    folder.lock()
    try:
        return _write(folder, names[folders[0]], place, sources, params, metrics, began,
                      {"rule": rule, "options": options, "view": view, "match": match, "batches": batches, **notes})  # fmt: skip
    finally:
        folder.unlock()


_SHOWN = 16
"""More models than this are not listed one by one."""


def _results(sources: Sequence[Source], metrics: Mapping[tuple[str, str], float]) -> list[dict[str, Any]]:
    """Rows as in any summary: of the merged model, of the mean of the models, of each."""

    def row(split: str, view: str, metric: str, mean: float, half: float | None, values: list[float]) -> dict[str, Any]:
        half = None if half is None or np.isnan(half) else half
        return {"split": split, "view": view, "metric": metric, "mean": mean, "ci": half, "values": values}

    rows = []
    for (split, metric), value in metrics.items():
        rows.append(row(split, "merged", metric, value, None, [value]))
        values = [source.metrics[split, metric] for source in sources if (split, metric) in source.metrics]
        if values:
            rows.append(row(split, "mean of models", metric, *interval(np.array(values)), values))
        if len(sources) <= _SHOWN:
            rows += [
                row(split, source.label, metric, source.metrics[split, metric], None, [source.metrics[split, metric]])
                for source in sources
                if (split, metric) in source.metrics
            ]
    return rows


def _write(
    folder: RunFolder,
    name: str,
    place: Place,
    sources: Sequence[Source],
    params: Params,
    metrics: Mapping[tuple[str, str], float],
    began: float,
    how: Mapping[str, Any],
) -> dict[str, Any]:
    step = max(source.step for source in sources)
    state = place.state(params).replace(step=jnp.full_like(place.empty.step, step))
    config = dataclasses.asdict(place.config)
    folder.claim(name, config)
    write_json(folder.environment_file, environment())
    write_json(folder.program_file, {"mode": place.program.mode})
    made_of = [{"folder": s.folder, "step": s.step, "member": s.member, "digest": digest(s.params)} for s in sources]
    write_json(folder.path / "merge.json", {**how, "models": made_of})
    writer = CsvWriter(folder.metrics_file, None)
    writer.write([Row(step, split, f"merged/{metric}", 0, value) for (split, metric), value in metrics.items()])
    position = writer.position
    writer.close()
    seconds = time.perf_counter() - began
    checkpoints = Checkpointer(folder.checkpoints)
    extra = checkpoint_extra(
        data=place.experiment.batches().get_state(),
        metrics_position=position,
        evaluated={(split, f"merged/{metric}"): np.array([value]) for (split, metric), value in metrics.items()},
        seconds=seconds,
        mode=place.program.mode,
        config={"experiment": name, "config": json.loads(json.dumps(config))},
    )
    checkpoints.save(step, state, extra)
    checkpoints.wait()
    summary = summary_of(
        place.experiment,
        place.program,
        state,
        name=name,
        step=step,
        results=_results(sources, metrics),
        costs={"seconds": seconds, "train_seconds": _trained(sources), "checkpoint_stall_seconds": 0.0},
        digests={"merged": [digest(jax.device_get(state.params))]},
        baseline="merged",
    )
    write_json(folder.summary_file, summary)
    return summary


def _trained(sources: Sequence[Source]) -> float:
    """Seconds of training that the runs of the models took."""
    total = 0.0
    for folder in {source.folder for source in sources}:
        file = RunFolder(folder).summary_file
        if file.is_file():
            total += json.loads(file.read_text())["costs"]["train_seconds"]
    return round(total, 3)
