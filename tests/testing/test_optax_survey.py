"""The committed table of what optax breaks stays true."""

import json

import pytest

from experiments import contract_optax
from experiments._optax_programs import PROGRAMS, output

RESULT = json.loads(contract_optax.RESULT.read_text(encoding="utf-8"))


def test_the_page_is_what_the_result_makes():
    assert contract_optax.PAGE.read_text(encoding="utf-8") == contract_optax.page(RESULT)


def test_every_broken_law_has_a_program_and_every_program_a_broken_law():
    broken = {(name, v["law"]) for name, violations in RESULT["found"].items() for v in violations}
    assert broken == set(PROGRAMS)
    assert list(RESULT["found"]) == list(contract_optax.cases())


@pytest.mark.parametrize("program", PROGRAMS, ids=": ".join)
def test_programs_print_what_the_page_says(program):
    assert output(PROGRAMS[program]) == RESULT["programs"][": ".join(program)]


@pytest.mark.parametrize(
    "name", ["sgd", "lion", "rprop", "sm3", "adam(mu_dtype=float32)", "adam(mu_dtype=bfloat16)", "contrib.madgrad"]
)
def test_the_kit_finds_what_the_table_says(name):
    found = contract_optax.examine(name, contract_optax.cases()[name])
    # values in messages are those of one machine's rounding
    assert [(v["law"], v["leaf"]) for v in found] == [(v["law"], v["leaf"]) for v in RESULT["found"][name]]
