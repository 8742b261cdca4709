"""Models of one or several runs become one: checkpoints in, a merged and evaluated checkpoint out (``jaxtrain merge``)."""

from jaxtrain.merge._merge import merge
from jaxtrain.merge._rules import RULES, MergeError, Rule
from jaxtrain.merge._runs import read_config

__all__ = ["RULES", "MergeError", "Rule", "merge", "read_config"]
