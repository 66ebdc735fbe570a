"""The shipped generic reasons: made from one table, and found by every class as the segmentor looks for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from maft.text.planes import find_reasons
from maft.text.prompts import match_reasons
from reason.check import check_reasons, read_reasons, ruler
from reason.vocabulary import known_vocabularies, load_vocabulary
from tools.written_reasons import TABLE, generic_reasons, read_entries

WRITTEN = Path(__file__).resolve().parents[2] / "reason_data/general_reason/written"


@pytest.mark.parametrize("name", known_vocabularies())
def test_shipped_reasons_give_every_class_its_own_entry_and_have_no_findings(name: str) -> None:
    vocabulary = load_vocabulary(name)
    reasons, generic = read_reasons(WRITTEN / f"{name}_class_reason.json")
    assert generic and check_reasons(reasons, vocabulary, generic=True, measure=ruler()) == []
    entries = read_entries([WRITTEN / TABLE])
    own = {index: entry.attributes for entry in entries for served, index in entry.classes if served == name}
    keys = match_reasons(vocabulary.synonyms, reasons)
    assert {index: reasons[key].attributes for index, key in enumerate(keys) if key is not None} == own
    assert len(own) == len(vocabulary) and len(set(keys)) == len(keys)
    sed = find_reasons(vocabulary.sed_names, reasons, vocabulary.synonyms)
    assert sed == keys, "every name of SED's leads to the entry of its own class"
    assert reasons == generic_reasons(entries, name), "made from another table"
