"""The planted faults of mutants.py are complete and apply to the source as it is now; `make mutants` plants them."""

from collections import Counter

import pytest

from tests.copies import ROOT
from tests.mutants import MUTANTS, required_kinds


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_applies_exactly_once(mutant):
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.old != mutant.new
    assert (ROOT / mutant.where).exists()


def test_every_kind_of_fault_is_planted():
    counts = Counter(kind for mutant in MUTANTS for kind in mutant.kinds)
    missing = {kind: least for kind, least in required_kinds().items() if counts[kind] < least}
    assert not missing
    assert len(MUTANTS) >= 20
    assert not set(counts) - set(required_kinds()), "a kind that nobody requires is a misspelling"


def test_names_tell_mutants_apart():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
