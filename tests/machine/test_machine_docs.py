"""docs/facts.md and docs/glossary.md say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from openwafer.machine import MACHINES, Contested, Quantity, facts_of, quantities_of
from openwafer.machine import _sources as sources
from openwafer.machine._arithmetic import evaluate

DOCS = Path(__file__).parents[2] / "docs"
FACTS = (DOCS / "facts.md").read_text()
GLOSSARY = (DOCS / "glossary.md").read_text()

ALL = [
    quantity
    for machine in MACHINES.values()
    for _, fact in facts_of(machine)
    for quantity in quantities_of(fact)
]
DEFAULTS = {
    fact.recommended
    for machine in MACHINES.values()
    for _, fact in facts_of(machine)
    if isinstance(fact, Contested)
}


def _rows() -> dict[str, list[tuple[str, str, str]]]:
    """The entry tables: anchor to its (value, grade, source) rows."""
    rows: dict[str, list[tuple[str, str, str]]] = {}
    anchor = ""
    for line in FACTS.partition("## Entries")[2].partition("## Behaviour")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 5 or cells[0] in ("entry", "---"):
            continue
        if cells[0]:
            match = re.fullmatch(r'<a id="(.+)"></a>(.+)', cells[0])
            assert match, line
            assert match[1] == match[2], line
            anchor = match[1]
            assert anchor not in rows, f"{anchor} stands twice"
            rows[anchor] = []
        rows[anchor].append((cells[2], cells[3], cells[4]))
    return rows


def _row(quantity: Quantity) -> tuple[str, str, str]:
    text = f"**{quantity.text}**" if quantity in DEFAULTS else quantity.text
    return text, quantity.grade.value, quantity.origin


def _anchors(markdown: str) -> set[str]:
    """What `#...` may point to: explicit ids, and headings as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)
    return set(re.findall(r'<a id="([^"]+)">', markdown)) | {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("anchor", sorted({quantity.anchor for quantity in ALL}))
def test_every_number_stands_under_its_anchor_with_its_grade_and_source(anchor: str) -> None:
    """Each entry has exactly the code's values, alternatives included, with the default in bold."""
    expected = {_row(quantity) for quantity in ALL if quantity.anchor == anchor}
    written = _rows().get(anchor, [])

    assert set(written) == expected, f"docs/facts.md#{anchor}"
    assert len(written) == len(expected), f"docs/facts.md#{anchor} repeats a row"
    assert sum(value.startswith("**") for value, _, _ in written) <= 1


def test_no_entry_is_left_without_a_number_in_the_code() -> None:
    """An entry that nothing uses is not checked by anything."""
    assert set(_rows()) == {quantity.anchor for quantity in ALL}


def test_derived_numbers_are_what_their_parts_make_of_them() -> None:
    """Every formula is evaluated again over the parts that the number carries."""
    computed = [quantity for quantity in ALL if quantity.formula]

    assert computed
    for quantity in computed:
        values = {name: part.value for name, part in quantity.parts}
        assert evaluate(quantity.formula, values) == quantity.value, quantity.anchor


def test_every_cited_title_is_explained() -> None:
    """A reader finds what a source is; the list names it once, without page or year where those vary."""
    listed = re.findall(r"^\| (.+?) \|", FACTS.partition("## Sources")[2], re.MULTILINE)[1:]
    titles = [value for name, value in vars(sources).items() if name.isupper() and value != sources.HERE]

    assert [title for title in titles if not title.startswith(tuple(listed))] == []
    assert [row for row in listed if not any(title.startswith(row) for title in titles)] == []


@pytest.mark.parametrize(
    "numbers",
    [
        ("850,000", "753,972"),
        ("900,000", "893,064"),
        ("850 MHz", "1.1 GHz", "875 MHz"),
        ("One or two cycles a hop", "8 and over 32"),
        ("757 x 996", "750 x 994"),
        ("762 x 1172", "762 x 1176"),
        ("20 PB/s", "19.9", "23.58"),
        ("37.06", "40.8", "41.78"),
        ("96.8", "1.2 Tb/s"),
    ],
)
def test_the_section_on_contradictions_names_both_sides(numbers: tuple[str, ...]) -> None:
    """A contradiction that only the tables show is not explained."""
    section = FACTS.partition("## Contradictions")[2].partition("## Sources")[0]
    paragraphs = section.split("\n\n")

    assert any(all(number in paragraph for number in numbers) for paragraph in paragraphs)


def test_links_between_facts_and_glossary_lead_somewhere() -> None:
    """An anchor that is renamed must not leave dead links behind."""
    links = re.findall(r"\]\((?:facts\.md)?#([\w-]+)\)", FACTS + GLOSSARY)

    assert links
    assert set(links) <= _anchors(FACTS)


@pytest.mark.parametrize("heading", ["The field's words", "Our words"])
def test_glossary_terms_are_sorted_unique_and_explained_in_short(heading: str) -> None:
    """A term is found by its letter, and has one meaning."""
    section = GLOSSARY.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    entries = re.findall(r"^- \*\*(.+?)\*\*: (.+)$", section, re.MULTILINE)
    terms = [term.casefold() for term, _ in entries]

    assert len(entries) == section.count("\n- ")
    assert terms == sorted(set(terms))
    for term, text in entries:
        assert text.rstrip().endswith(".") or text.rstrip().endswith(")."), term
        assert len(re.findall(r"\.(?:\s|$)", re.sub(r"\[.*?\)", "", text))) <= 2, term


def test_the_glossary_holds_the_terms_of_the_design() -> None:
    """These words carry the design; a reader must find each of them."""
    terms = {
        t.casefold() for entry in re.findall(r"^- \*\*(.+?)\*\*:", GLOSSARY, re.MULTILINE) for t in [entry]
    }
    wanted = """StepGraph, layer, record, body, Plan, system, MemoryX, SwarmX, input worker, coordinator,
    management node, weight streaming, pipelined, wavelet, color, task, DSD, PE, microbatch, POL,
    stream order, kept activations, recomputed activations, vertical schedule, bubble,
    critical batch (N\\*), segment, ring"""

    assert {" ".join(term.split()).casefold() for term in wanted.split(",")} <= terms
