"""The arguments of ``jaxtrain merge``."""

import argparse

from jaxtrain.merge._rules import RULES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``jaxtrain merge``."""
    parser.add_argument("folders", nargs="+", metavar="DIR", help="folders of runs of one experiment")
    parser.add_argument("--rule", default="uniform", metavar="RULE", help=f"{', '.join(RULES)}; default: uniform")
    parser.add_argument("--workdir", required=True, metavar="OUT", help="a new folder for the merged model")
    parser.add_argument("--members", metavar="0,2|0..3", help="which members of each run; default: all")
    parser.add_argument("--steps", metavar="100,200|all", help="checkpoints of which steps; default: the newest")
    parser.add_argument("--view", metavar="VIEW", help="which weights: live, swa, …; default: the trained ones")
    parser.add_argument("--match", action="store_true", help="permute units to the first model's order before")
    parser.add_argument("--set", dest="settings", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--batches", type=int, default=16, metavar="N", help="training batches for BatchNorm; default: 16"
    )
    parser.add_argument("--experiment", metavar="FILE.py", help="of runs of a file of your own")


def rules() -> str:
    """The rules with their options, for ``--help``."""
    lines = []
    for name, rule in RULES.items():
        options = "".join(f", {key}={value:g}" for key, value in rule.options.items())
        lines.append(f"  {name:<20} {rule.doc}{f' [--set{options[1:]}]' if options else ''}")
    return "\n".join(lines)
