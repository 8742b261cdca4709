"""The registry: every paper of the catalogue and what the library has of it."""

from jaxtrain.papers.registry import STATUSES, Paper, Status, find_symbol, load, status_of, verdict_of

__all__ = ["STATUSES", "Paper", "Status", "find_symbol", "load", "status_of", "verdict_of"]
