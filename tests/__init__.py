"""The runtime type checker of the tests: an int is a float where a float is asked for, as for static checkers."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
