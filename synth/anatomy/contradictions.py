"""A user's label rows laid over the built-in ones: what gives way, and what contradicts itself."""

from __future__ import annotations

from collections.abc import Mapping

from synth.anatomy.labels import Label
from synth.errors import UserError

OTHER_SIDE = {"left": "right", "right": "left"}
Rows = Mapping[int, tuple[Label, int]]  # label number -> row and its line in the file


def merged(builtin: Mapping[int, Label], rows: Rows, where: str) -> dict[int, Label]:
    """Built-in and own rows, by number. Built-in rows that share a number or a covariate with an own row give way, and
    so do those whose partner did.

    Raises:
        UserError: own rows that contradict each other or the built-in rows they refer to; names file and line.
    """
    own = {number: label for number, (label, _) in rows.items()}
    _check_covariates(rows, where)
    covariates = {label.covariate for label in own.values()}
    table = {number: label for number, label in builtin.items() if label.covariate not in covariates} | own
    for number, (label, line) in rows.items():
        _check_partner(label, table, f"{where}, line {line}: label {number} ({label.name})")
    orphans = {
        n for n, x in table.items() if n not in own and (x.partner not in table or table[x.partner].partner != n)
    }
    table = {number: table[number] for number in sorted(set(table) - orphans)}
    _check_structures(rows, table, where)
    return table


def _check_covariates(rows: Rows, where: str) -> None:
    """Two labels cannot be measured under one name."""
    lines: dict[str, tuple[Label, int]] = {}
    for label, line in rows.values():
        other, first = lines.setdefault(label.covariate, (label, line))
        if other.number != label.number:
            raise UserError(
                f"{where}, line {line}: label {label.number} ({label.name}) and label {other.number} ({other.name}, line "
                f"{first}) would both be the covariate {label.covariate}; give one of them another name"
            )


def _check_partner(label: Label, table: Mapping[int, Label], where: str) -> None:
    if label.side and label.partner == label.number:
        other = OTHER_SIDE[label.side]
        raise UserError(f"{where} is a {label.side} without its {other}; give the {other} one's number as its partner")
    if label.partner not in table:
        raise UserError(
            f"{where} has the partner {label.partner}, which is in no table; give label {label.partner} a row as well"
        )
    partner = table[label.partner]
    if partner.partner != label.number:
        raise UserError(
            f"{where} has the partner {partner.number} ({partner.name}), whose own partner is {partner.partner}; "
            "expected partners of each other"
        )
    if label.side and partner.side != OTHER_SIDE[label.side]:
        raise UserError(
            f"{where} has the partner {partner.number} ({partner.name}); expected one whose name begins with the "
            f"{OTHER_SIDE[label.side]} side"
        )
    for what, mine, its in (
        ("structure", label.structure, partner.structure),
        ("tissue", label.tissue, partner.tissue),
        ("class", label.generation_class, partner.generation_class),
    ):
        if mine != its:
            raise UserError(
                f"{where} has the {what} '{mine}', its partner {partner.number} ({partner.name}) '{its}'; expected the "
                "same on both sides"
            )


def _check_structures(rows: Rows, table: Mapping[int, Label], where: str) -> None:
    """A structure has one tissue and one generation class, whatever labels it is made of."""
    seen: dict[str, Label] = {}
    for label in table.values():
        first = seen.setdefault(label.structure, label)
        if (first.tissue, first.generation_class) == (label.tissue, label.generation_class):
            continue
        own, other = (label, first) if label.number in rows else (first, label)
        what = "tissue" if own.tissue != other.tissue else "class"
        mine, its = (own.tissue, other.tissue) if what == "tissue" else (own.generation_class, other.generation_class)
        raise UserError(
            f"{where}, line {rows[own.number][1]}: label {own.number} ({own.name}) has the {what} '{mine}', label "
            f"{other.number} ({other.name}) of the same structure {own.structure} '{its}'; expected one {what} a structure"
        )
