"""The command line: ``jaxtrain run | report | merge | list | papers | claim | bench``."""

import argparse
import dataclasses
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtrain.config import ConfigError, apply_settings, describe, nearest
from jaxtrain.workloads import NAMES

_EXIT_CODES = """exit codes:
  0    done (or the run was finished already)
  2    wrong arguments, configuration or folder; nothing was changed
  74   something could not be written (a full disk); the last good checkpoint is there
  130  Ctrl-C: the run was saved; the same command goes on with it
  143  SIGTERM (preemption): the run was saved; the same command goes on with it"""


class UsageError(Exception):
    """What the user asked for does not exist; says what does."""


def load_workload(name: str) -> tuple[str, Any]:
    """The module of a shipped workload or of a user's file, with its name.

    Raises:
      UsageError: there is none, or the file has no ``Config`` or ``build``.
    """
    if name in NAMES:
        return name, importlib.import_module(f"jaxtrain.workloads.{name}")
    if not name.endswith(".py"):
        raise UsageError(nearest(name, NAMES, "workload") + ". Your own: jaxtrain run FILE.py")
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"there is no file {name}")
    # a name of its own: a file called optax.py must not stand in for optax; its neighbours can be imported as when it is
    # run by Python
    title = f"jaxtrain_experiment_{path.stem}"
    spec = importlib.util.spec_from_file_location(title, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[title] = module  # dataclasses look their module up
    if str(path.parent.resolve()) not in sys.path:
        sys.path.append(str(path.parent.resolve()))
    spec.loader.exec_module(module)
    missing = [n for n in ("Config", "build") if not hasattr(module, n)]
    if missing:
        raise UsageError(
            f"{name} has no {' and no '.join(missing)}: an experiment file defines a frozen dataclass Config, all of "
            "whose fields have defaults, and build(config) -> jaxtrain.training.Experiment"
        )
    if not dataclasses.is_dataclass(module.Config):
        raise UsageError(f"{name}: Config must be a dataclass")
    bare = [f.name for f in dataclasses.fields(module.Config) if f.default is f.default_factory is dataclasses.MISSING]
    if bare:
        raise UsageError(f"{name}: every field of Config needs a default, {', '.join(bare)} has none")
    return path.stem, module


def clone_folder(name: str) -> Path:
    """``experiments`` or another folder of the repository, in the current folder or beside the package.

    Raises:
      UsageError: this is an installed package and the current folder is not a clone.
    """
    for root in (Path.cwd(), Path(__file__).parent.parent):
        if (root / "experiments" / "harness.py").is_file():
            if str(root) not in sys.path:
                sys.path.insert(0, str(root))
            return root / name
    raise UsageError("claims and benchmarks lie in the repository, not in the package: run this in a clone of it")


def _run(args: argparse.Namespace) -> int:
    _devices(args.devices)
    name, module = load_workload(args.workload)
    config = apply_settings(module.Config(), args.settings)
    workdir = Path(args.workdir or f"runs/{name}")
    if args.distributed:
        from jaxtrain.training.distributed import initialize

        initialize()
    from jaxtrain.report import table, write_report
    from jaxtrain.training import runner
    from jaxtrain.training.run_folder import RunFolder

    finished = RunFolder(workdir).summary_file.exists()
    try:
        experiment = module.build(config)
        # computes nothing; here, so that a mode or seeds that cannot be are mistakes of the configuration
        experiment.program()
    except ValueError as error:
        if name not in NAMES:  # in a file of the user's own the traceback says more
            raise
        raise UsageError(f"{name}: {error}") from error
    try:
        summary = runner.run(
            experiment,
            workdir,
            name=name,
            config=dataclasses.asdict(config),
            force=args.force,
            progress=not args.quiet,
            writers=_writers(args, workdir, config),
            keep=args.keep,
        )
    except runner.Stopped as stopped:
        print(f"jaxtrain run: {stopped}", file=sys.stderr)
        return stopped.code
    import jax

    if jax.process_index():
        return 0
    if finished:
        print(f"{workdir} holds a finished run; these are its results (another --workdir starts a new one)")
    print(table(summary))
    report = RunFolder(workdir).report_file
    if not (finished and report.exists()):
        write_report([workdir], report)
    print(f"report: {report}")
    return 0


def _devices(count: int | None) -> None:
    """Fakes CPU devices; only before a backend is in use."""
    if count is None:
        return
    import jax

    if count < 1:
        raise UsageError(f"--devices must be at least 1, got {count}")
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        if jax.device_count() != count:
            raise UsageError(f"--devices {count}: JAX is in use already with {jax.device_count()} devices") from error


def _writers(args: argparse.Namespace, workdir: Path, config: Any) -> list[Any]:
    from jaxtrain.training.writers import TensorBoardWriter, WandbWriter

    found: list[Any] = []
    if args.tensorboard:
        found.append(TensorBoardWriter(workdir / "tensorboard"))
    if args.wandb:
        found.append(WandbWriter(args.wandb, dataclasses.asdict(config)))
    return found


def _report(args: argparse.Namespace) -> int:
    from jaxtrain.report import compare, write_report

    folders = [Path(folder) for folder in args.folders]
    for folder in folders:
        if not (folder / "metrics.csv").is_file():
            raise UsageError(f"{folder} is not the folder of a run: it has no metrics.csv")
    out = (
        Path(args.output)
        if args.output
        else folders[0] / "report.html"
        if len(folders) == 1
        else Path("comparison.html")
    )
    print(compare(folders))
    write_report(folders, out)
    print(f"report: {out}")
    return 0


def _merge(args: argparse.Namespace) -> int:
    from jaxtrain import merge
    from jaxtrain.report import table, write_report
    from jaxtrain.training.run_folder import RunFolder

    workdir = Path(args.workdir)
    try:
        name = merge.read_config(Path(args.folders[0]))[0]
        if args.experiment is None and name not in NAMES:
            raise UsageError(f"{args.folders[0]} is a run of a file of your own; name it: --experiment {name}.py")
        title, module = load_workload(args.experiment or name)
        if title != name:
            raise UsageError(f"{args.folders[0]} is a run of '{name}', --experiment {args.experiment} is another")
        summary = merge.merge(
            [Path(folder) for folder in args.folders],
            workdir,
            module,
            rule=args.rule,
            settings=args.settings,
            members=args.members,
            steps=args.steps,
            view=args.view,
            match=args.match,
            batches=args.batches,
        )
    except merge.MergeError as error:
        raise UsageError(str(error)) from error
    print(table(summary))
    report = RunFolder(workdir).report_file
    write_report([workdir], report)
    print(f"merged: {workdir}, report: {report}")
    return 0


def _list(args: argparse.Namespace) -> int:
    del args
    print("workloads (jaxtrain run NAME):")
    for name in NAMES:
        doc = importlib.import_module(f"jaxtrain.workloads.{name}").__doc__ or ""
        print(f"  {name:<28} {doc.strip().splitlines()[0]}")
    try:
        folder = clone_folder("experiments")
    except UsageError as error:
        print(f"({error})")
        return 0
    from experiments import harness

    print("claims (jaxtrain claim SLUG):")
    for slug, path in harness.discover().items():
        print(f"  {slug:<28} {harness.title(path)}")
    print("benchmarks (jaxtrain bench NAME):")
    for name in _benchmarks(folder):
        print(f"  {name:<28} {importlib.import_module(f'experiments.benchmarks.{name}').TITLE}")
    return 0


def _benchmarks(folder: Path) -> list[str]:
    return sorted(p.stem for p in (folder / "benchmarks").glob("*.py") if not p.stem.startswith("_"))


def _claim(args: argparse.Namespace) -> int:
    clone_folder("experiments")
    from experiments import harness

    known = harness.discover()
    if args.slug not in known:
        raise UsageError(nearest(args.slug, list(known), "claim"))
    return harness.command(args.slug, smoke=args.smoke, seeds=args.seeds)


def _bench(args: argparse.Namespace) -> int:
    known = _benchmarks(clone_folder("experiments"))
    if args.name not in known:
        raise UsageError(nearest(args.name, known, "benchmark"))
    return importlib.import_module(f"experiments.benchmarks.{args.name}").main(args.options) or 0


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="jaxtrain",
        description="Training methods for JAX, proved and measured.",
        epilog=_EXIT_CODES,
        formatter_class=raw,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="train, evaluate, report; goes on with an unfinished run",
        description=f"Runs a workload ({', '.join(NAMES)}) or a file of yours.\n"
        "On the folder of an unfinished run it goes on with it; on that of a finished one it shows its table.\n"
        "'jaxtrain run NAME --help' lists every field of its configuration.",
        epilog=_EXIT_CODES,
        formatter_class=raw,
        add_help=False,
    )
    run.add_argument("workload", nargs="?", metavar="NAME|FILE.py", help=f"{', '.join(NAMES)}, or a Python file")
    run.add_argument("--workdir", metavar="DIR", help="the run's folder; default: runs/NAME")
    run.add_argument("--set", dest="settings", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    run.add_argument("--force", action="store_true", help="go on although the configuration has changed")
    run.add_argument("--devices", type=int, metavar="N", help="pretend to have N CPU devices")
    run.add_argument("--distributed", action="store_true", help="join the other processes (TPU pod, Slurm, Kubernetes)")
    run.add_argument("--keep", type=int, default=3, metavar="N", help="newest checkpoints to keep; default: 3")
    run.add_argument("--tensorboard", action="store_true", help="write TensorBoard files too")
    run.add_argument("--wandb", metavar="PROJECT", help="log to Weights & Biases too")
    run.add_argument("--quiet", action="store_true", help="no progress")
    run.add_argument("-h", "--help", action="store_true", help="this; with a NAME: the fields of its configuration too")
    run.set_defaults(do=_run)

    report = commands.add_parser("report", help="the report of a run, or of several side by side")
    report.add_argument("folders", nargs="+", metavar="DIR", help="folders of runs")
    report.add_argument("--output", metavar="FILE", help="default: DIR/report.html, or comparison.html for several")
    report.set_defaults(do=_report)

    merging = commands.add_parser(
        "merge",
        help="several trained models become one, evaluated beside them",
        description="Merges models of runs of one experiment. Running statistics of BatchNorm are recomputed on training\n"
        "data; the result is the folder of a run with one member.",
        formatter_class=raw,
    )
    merging.set_defaults(do=_merge)
    if "merge" in argv[:1]:  # its rules come from a stage, which other commands need not import
        from jaxtrain.merge import command as merge

        merge.add_arguments(merging)
        merging.epilog = f"rules:\n{merge.rules()}"

    commands.add_parser("list", help="workloads, claims and benchmarks").set_defaults(do=_list)

    from jaxtrain.papers import command as papers

    listing = commands.add_parser("papers", help="the papers of the catalogue and what the library has of them")
    papers.add_arguments(listing)
    listing.set_defaults(do=papers.run)

    claim = commands.add_parser("claim", help="repeat a paper's claim: paired seeds, intervals, a verdict")
    claim.add_argument("slug", metavar="SLUG", help="see 'jaxtrain list'")
    claim.add_argument(
        "--smoke", action="store_true", help="a few seeds and steps, in seconds; does not touch the result"
    )
    claim.add_argument("--seeds", type=int, metavar="N", help="another number of seeds; does not touch the result")
    claim.set_defaults(do=_claim)

    bench = commands.add_parser("bench", help="a benchmark, side by side in one run")
    bench.add_argument("name", metavar="NAME", help="see 'jaxtrain list'")
    bench.add_argument("options", nargs=argparse.REMAINDER, help="options of the benchmark")
    bench.set_defaults(do=_bench)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser(argv)
    args = parser.parse_args(argv)
    from jaxtrain.training.checkpoint import CheckpointError
    from jaxtrain.training.run_folder import RunFolderError

    try:
        if args.command == "run" and (args.help or not args.workload):
            run = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices["run"]
            run.print_help()
            if args.workload:
                name, module = load_workload(args.workload)
                print(f"\n{(module.__doc__ or '').strip()}\n\nfields of {name}, changed by --set field=value:")
                print(describe(module.Config()))
            return 0 if args.help else 2
        return args.do(args)
    except (UsageError, ConfigError, RunFolderError, CheckpointError, ImportError) as error:
        print(f"jaxtrain {args.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
