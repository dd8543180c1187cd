"""What a corpus derives from, in words: whose scans, which contrast, under which licences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from synth.corpus import Corpus

Origin = Literal["simulated", "real", "clips"]
ORIGINS: dict[str, Origin] = {"Scans": "real", "Video": "clips"}

PEOPLE: dict[Origin, str] = {
    "simulated": "Everyone in it is simulated: no volume is a scan of a person, and nothing in it is evidence about patients.",
    "real": "The people in it are real: every volume was made from a scan of a person, whose consent and data-use terms go "
    "with it.",
    "clips": "Nobody in it is a patient: the volumes are made from video clips and show no anatomy.",
}

SOURCES = (
    "Fonov et al. 2011, Unbiased average age-appropriate atlases for pediatric studies, NeuroImage 54:313-327",
    "Manera et al. 2020, CerebrA, registration and manual label correction of Mindboggle-101 atlas for MNI-ICBM152 "
    "template, Scientific Data 7:237",
)
"""What the built-in label map derives from (synth/anatomy/data/NOTICE)."""

NO_COMMERCE = re.compile(r"\bNC\b|non[\s-]?commercial|research (use )?only|research purposes only", re.IGNORECASE)
NO_DERIVATIVES = re.compile(r"\bND\b|no[\s-]?deriv", re.IGNORECASE)
SHOWN = 20  # parents and words in a table; a folder of label maps may have thousands
UNSTATED = ("", "none named", "not stated", "unknown")


def plain(text: object) -> str:
    """Text on one line without tabs or control characters, for tables and cards."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in str(text)).split())


def class_name(corpus: Corpus) -> str:
    """The generator's class without its module: ``LabelMap``."""
    return re.split(r"[.:]", str(corpus.header.recipe["generator"]["class_path"]))[-1]


def origin(corpus: Corpus) -> Origin:
    """Whether the volumes show simulated people, real ones (generator Scans), or clips of video (generator Video)."""
    return ORIGINS.get(class_name(corpus), "simulated")


def ancestors(parents: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Parents, their parents, and so on, the nearest first."""
    for parent in parents:
        yield parent
        yield from ancestors(parent.get("parents", []))


def lineage(corpus: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A corpus by its parent record (:meth:`synth.corpus.Corpus.parent`), and what it derives from, as one flat list of
    parents of a generator."""
    own = {name: value for name, value in corpus.items() if name != "parents"}
    licence = "; ".join(corpus.get("licences", [])) or "none named"
    return [{**own, "sha256": corpus["identity"], "licence": licence}, *corpus.get("parents", [])]


def preparation(record: Mapping[str, Any]) -> tuple[str, ...]:
    """What was done to a corpus's volumes beyond the grid, by its parent record: some of ``strip``, ``align`` and ``n4``,
    in this order; of a mixture what was done to any part. Scans that came stripped count as stripped."""
    parts = record["parents"] if "mixture" in record.get("recipe", {}) else [record]
    options = [part.get("recipe", {}).get("generator", {}).get("init_args", {}) for part in parts]
    done = {"strip": ("strip", "stripped"), "align": ("align",), "n4": ("n4",)}
    return tuple(
        step for step, names in done.items() if any(given.get(name) in (True, 1) for given in options for name in names)
    )


def licences(corpus: Corpus) -> dict[str, int]:
    """Licence → number of things under it that the corpus derives from, all generations; sorted by name."""
    found: dict[str, int] = {}
    for parent in ancestors(corpus.header.parents):
        licence = plain(parent.get("licence") or "") or "not stated"
        found[licence] = found.get(licence, 0) + 1
    return dict(sorted(found.items()))


def restrictions(terms: Iterable[str]) -> list[str]:
    """One sentence for every licence that forbids something, or says nothing, as far as its name tells."""
    found = []
    for licence in terms:
        if NO_COMMERCE.search(licence):
            found.append(f"Commercial use is forbidden by '{licence}', and so it is for the whole corpus.")
        if NO_DERIVATIVES.search(licence):
            found.append(f"Derived works are restricted by '{licence}'; ask its owner before sharing this corpus.")
        if licence in UNSTATED or licence.startswith("as the label maps"):
            found.append(
                f"A parent's licence is '{licence}': find out the terms of its source before sharing this corpus."
            )
    return found


def contrast_of(corpus: Corpus, covariates: Mapping[str, Any]) -> str:
    """The contrast's word in lower case: the sample's covariate, the recipe's option, or that of the corpus that the
    generator learnt from; ``unknown`` if nobody says."""
    recipes = [corpus.header.recipe, *(above.get("recipe", {}) for above in ancestors(corpus.header.parents))]
    told = [covariates.get("contrast")]
    told += [recipe.get("generator", {}).get("init_args", {}).get("contrast") for recipe in recipes]
    return next((word.strip().lower() for word in told if isinstance(word, str) and word.strip()), "unknown")


def uses_builtin(corpus: Corpus) -> bool:
    """Whether the built-in label map is among what the corpus derives from."""
    from synth.anatomy.source import builtin_path, sha256_of

    builtin = sha256_of(builtin_path())
    return any(parent.get("sha256") == builtin for parent in ancestors(corpus.header.parents))


def notice(corpus: Corpus) -> str:
    """The copyright notices that must travel with whatever derives from the built-in label map, else nothing."""
    from synth.anatomy.source import builtin_path

    return builtin_path().with_name("NOTICE").read_text() if uses_builtin(corpus) else ""


def licence_text(corpus: Corpus) -> str:
    """Text of a LICENSE file: every licence that came with the parents, what they forbid, the notices in full."""
    terms = licences(corpus)
    if not terms:
        return "No source is named that these volumes derive from; whoever made them states their licence.\n"
    lines = ["These volumes derive from, and may be used only as allowed by all of:", ""]
    lines += [f"- {licence} ({number} source{'s' if number > 1 else ''})" for licence, number in terms.items()]
    lines += ["", *restrictions(terms), "", notice(corpus)]
    return "\n".join(lines).strip() + "\n"


def described(name: str, corpus: Corpus) -> dict[str, str]:
    """``Description``, and ``Units`` where there are any, of one covariate."""
    whose = {"simulated": " (simulated)", "real": "", "clips": ""}[origin(corpus)]
    known = {
        "age": ("Age", "years"),
        "sex": ("Sex", ""),
        "site": ("Scanner", ""),
        "anatomy": ("Label map that the volume starts from", ""),
        "diagnosis": ("Diagnosis", ""),
        "clip": ("Clip that the volume is from", ""),
        "class": ("Folder of the clip, such as the action that it shows", ""),
        "start": ("Where in the clip the volume begins", "seconds"),
        "hoehn_yahr": ("Hoehn & Yahr stage, 0 without Parkinson's disease", ""),
        "intracranial_asked_ml": ("Intracranial volume asked of the generator", "mL"),
    }
    if name.startswith("volume_"):
        words = name.removeprefix("volume_").replace("_", " ")
        return {"Description": f"Volume of {words}, measured on the label map{whose}", "Units": "mm^3"}
    text, units = known.get(name, (name.replace("_", " ").strip().capitalize() or name, ""))
    return {"Description": text + whose, **({"Units": units} if units else {})}


LEVELS = {
    "sex": {"F": "female", "M": "male"},
    "diagnosis": {
        "CN": "cognitively normal",
        "MCI": "mild cognitive impairment",
        "AD": "Alzheimer's disease",
        "PD": "Parkinson's disease",
    },
}
"""What the words of our own covariates mean."""


def summary(values: Any) -> str:
    """A column in words: mean, SD and range of numbers, counts of words, how many are missing."""
    import pandas as pd

    series = pd.Series(values)
    missing = f"; {int(series.isna().sum())} missing" if series.isna().any() else ""
    if pd.api.types.is_numeric_dtype(series):
        spread = f", SD {series.std():.3g}" if series.count() > 1 else ""
        return f"mean {series.mean():.4g}{spread}, {series.min():.4g} to {series.max():.4g}{missing}"
    counts = sorted(series.value_counts().items(), key=lambda item: (-item[1], str(item[0])))
    more = f", and {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
    return ", ".join(f"{word} {number}" for word, number in counts[:SHOWN]) + more + missing
