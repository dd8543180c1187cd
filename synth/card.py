"""The card of a corpus, for people (README.md, as Hugging Face reads it) and for programs (croissant.json).

Both are pure functions of the corpus: the same corpus gives the same text.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from synth.corpus import Corpus
from synth.provenance import (
    PEOPLE,
    SHOWN,
    SOURCES,
    Origin,
    ancestors,
    class_name,
    contrast_of,
    described,
    licences,
    notice,
    origin,
    plain,
    restrictions,
    summary,
    uses_builtin,
)
from synth.sample import spacing_of

if TYPE_CHECKING:
    import pandas as pd

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
CREATIVE_COMMONS = [
    "cc0-1.0",
    *(f"cc-{kind}-4.0" for kind in ("by", "by-sa", "by-nc", "by-nd", "by-nc-sa", "by-nc-nd")),
]
LICENCE_IDS = [*CREATIVE_COMMONS, "apache-2.0", "mit", "bsd-3-clause", "odbl", "odc-by", "pddl", "gpl-3.0"]
"""Identifiers that Hugging Face knows, of https://huggingface.co/docs/hub/repositories-licenses."""
ZARR = "https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html"
HOW_MADE: dict[Origin, str] = {
    "simulated": "synthetic brain MRI volumes",
    "real": "brain MRI volumes of real people",
    "clips": "volumes made from video clips",
}


def card_text(corpus: Corpus) -> str:
    """README.md of a corpus: YAML front matter, then what it is, of whom, made how, under which licences, how to read,
    verify and cite it.

    Raises:
        UserError: a shard is not made yet, or its record is damaged.
    """
    import yaml

    front = yaml.safe_dump(front_matter(corpus), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n{card_body(corpus)}"


def front_matter(corpus: Corpus) -> dict[str, Any]:
    """What Hugging Face reads of a card: licence, size, tags, task."""
    terms = licences(corpus)
    known = [_licence_id(licence) for licence in terms]
    found: dict[str, Any] = {"pretty_name": _name(corpus)}
    if known and all(known):
        found["license"] = known[0] if len(known) == 1 else known
    else:
        found |= {"license": "other", "license_name": "see-the-parents", "license_link": "README.md"}
    kind = {"simulated": "synthetic", "real": "real-scans", "clips": "video"}[origin(corpus)]
    found["tags"] = [*([] if kind == "video" else ["brain-mri", "neuroimaging"]), kind, "3d", "zarr", "brainloom"]
    found["size_categories"] = [next((word for below, word in SIZES if len(corpus) < below), "n>1M")]
    found["task_categories"] = ["image-segmentation" if corpus.has_labels else "image-feature-extraction"]
    found["viewer"] = False  # the hub's table viewer reads no Zarr
    return found


def card_body(corpus: Corpus) -> str:
    """The card without its front matter, Markdown. Raises UserError like :func:`card_text`."""
    table = corpus.covariates()
    terms = licences(corpus)
    parts = [
        f"# {_cell(_name(corpus))}",
        f"{len(corpus)} {HOW_MADE[origin(corpus)]}, made by brainloom "
        f"{_cell(corpus.header.versions.get('brainloom', ''))}. **{PEOPLE[origin(corpus)]}**",
        "## What is in it\n\n" + "\n".join(f"- {line}" for line in _facts(corpus)),
        "## Covariates\n\n" + (_covariates(corpus, table) if len(table.columns) else "None."),
        "## Licences\n\n" + _licence_part(terms, notice(corpus)),
        "## Derived from\n\n" + _parents(corpus),
        "## Recipe\n\n"
        f"Volume i is a function of this recipe, seed {corpus.header.seed} and i alone (fingerprint "
        f"`{corpus.header.fingerprint}`).\n\n```yaml\n{_recipe(corpus)}\n```",
        "## Versions\n\n" + ", ".join(f"{_cell(k)} {_cell(v)}" for k, v in corpus.header.versions.items()) + ".",
        "## Read\n\n" + _reading(corpus, table),
        f"## Verify\n\n```bash\nbrainloom synth verify {shlex.quote(_name(corpus))}\n```\n\n"
        f"Identity, the sha256 of every record: `{corpus.identity()}`.",
        "## Cite\n\n" + _citing(corpus),
    ]
    return "\n\n".join(parts) + "\n"


def _name(corpus: Corpus) -> str:
    return corpus.name


def _cell(value: object) -> str:
    """Text that can neither break a table nor become markup."""
    return re.sub(r"([\\|`*_\[\]<>])", r"\\\1", plain(value))


def _licence_id(licence: str) -> str | None:
    word = licence.strip().lower().replace(" ", "-").removesuffix("-license")
    word = {"cc0": "cc0-1.0", "apache": "apache-2.0"}.get(word, word)
    return word if word in LICENCE_IDS else None


def _facts(corpus: Corpus) -> list[str]:
    """Grid, storage, labels and generator, one a line."""
    channels, *grid = corpus.image_shape
    spacings = {spacing_of(entry["affine"]) for entry in corpus.entries()}
    common = (
        " × ".join(f"{step:g}" for step in next(iter(spacings))) + " mm" if len(spacings) == 1 else "of several sizes"
    )
    dtype = corpus.header.recipe["dtype"]
    how = " (intensity = stored value × scale + offset, array `intensity`)" if corpus.header.has_levels else ""
    contrast = contrast_of(corpus, {})
    labels = f"label maps of {len(corpus.header.labels)} structures (int16)" if corpus.has_labels else "no label maps"
    return [
        f"{len(corpus)} volumes of {' × '.join(map(str, grid))} voxels, {common}, "
        f"{channels} channel{'s' if channels > 1 else ''}, orientation RAS+",
        f"stored as {dtype}{how} in [Zarr v3]({ZARR}), {corpus.header.shard_size} volumes a shard; {labels}",
        f"generator `{_cell(class_name(corpus))}`"
        + ("" if contrast == "unknown" else f", contrast {_cell(contrast)}")
        + f", seed {corpus.header.seed}",
    ]


def _covariates(corpus: Corpus, table: pd.DataFrame) -> str:
    lines = ["| name | is | in the corpus |", "|---|---|---|"]
    for name in sorted(table.columns):
        about = described(name, corpus)
        units = f", {about['Units']}" if "Units" in about else ""
        lines.append(f"| {_cell(name)} | {_cell(about['Description'])}{units} | {_cell(summary(table[name]))} |")
    return "\n".join(lines)


def _recipe(corpus: Corpus) -> str:
    """The recipe as YAML, one option a line (JSON values are YAML too)."""
    recipe = corpus.header.recipe
    options = [f"    {name}: {json.dumps(value)}" for name, value in recipe["generator"]["init_args"].items()]
    head = ["generator:", f"  class_path: {json.dumps(recipe['generator']['class_path'])}", "  init_args:"]
    storing = [f"{name}: {json.dumps(value)}" for name, value in recipe.items() if name != "generator"]
    return "\n".join([*head, *options, *storing])


def _licence_part(terms: Mapping[str, int], notices: str) -> str:
    if not terms:
        return "The generator names nothing that the volumes derive from; whoever shares them states their licence."
    lines = ["Licences travel with what derives from them: all of these hold for the corpus.", ""]
    lines += [f"- {_cell(licence)} ({number} parent{'s' if number > 1 else ''})" for licence, number in terms.items()]
    lines += [f"\n**{_cell(sentence)}**" for sentence in restrictions(terms)]
    lines += [f"\n```text\n{notices.strip()}\n```"] if notices else []
    return "\n".join(lines)


def _parents(corpus: Corpus) -> str:
    found = list(ancestors(corpus.header.parents))
    if not found:
        return "Nothing that the generator names."
    lines = ["| kind | name | licence | sha256 |", "|---|---|---|---|"]
    for parent in found[:SHOWN]:
        kind, name, licence = (_cell(parent.get(key, "")) for key in ("kind", "name", "licence"))
        lines.append(
            f"| {kind or 'source'} | {name} | {licence or 'not stated'} | {_cell(parent.get('sha256', ''))[:16]} |"
        )
    if len(found) > SHOWN:
        lines.append(f"\nand {len(found) - SHOWN} more, listed in the attribute `parents` of zarr.json.")
    return "\n".join(lines)


def _reading(corpus: Corpus, table: pd.DataFrame) -> str:
    name = json.dumps(_name(corpus))
    lines = ["import zarr", f'group = zarr.open_group({name}, mode="r")', 'volume = group["image"][0]  # [C, D, H, W]']
    if len(table.columns):
        column = "age" if "age" in table.columns else sorted(table.columns)[0]
        lines[-1] = f'volume, {column} = group["image"][0], group["{column}"][0]  # [C, D, H, W], a number or code'
    if corpus.header.has_levels:
        lines += [
            'scale, offset = group["intensity"][0].T  # [C] each',
            "volume = volume * scale[:, None, None, None] + offset[:, None, None, None]",
        ]
    return "```python\n" + "\n".join(lines) + "\n```"


def _citing(corpus: Corpus) -> str:
    version = _cell(corpus.header.versions.get("brainloom", ""))
    lines = [f"- The brainloom developers, brainloom {version} (software), and this corpus by its identity above"]
    return "\n".join(lines + [f"- {source}" for source in (SOURCES if uses_builtin(corpus) else ())])


def croissant(corpus: Corpus, published: str | None = None) -> dict[str, Any]:
    """Croissant 1.0 metadata (https://docs.mlcommons.org/croissant/docs/croissant-spec-1.0.html) as JSON-LD.

    Lies in the corpus folder as croissant.json. Its record set ``samples`` reads the covariates that every sample has
    from the records; voxels are file sets, for a Zarr reader.

    Args:
        corpus: a corpus with every shard made.
        published: date of publication, YYYY-MM-DD; left out if not given, for the corpus does not know it.

    Raises:
        UserError: a shard is not made yet, or its record is damaged.
    """
    name, terms = _name(corpus), licences(corpus)
    version = corpus.header.versions.get("brainloom", "")
    found: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": f"{len(corpus)} {HOW_MADE[origin(corpus)]}, made by brainloom {version} with generator "
        f"{class_name(corpus)}, seed {corpus.header.seed}. {PEOPLE[origin(corpus)]}",
        "version": "1.0.0",  # a finished corpus is never changed: another one has another identity
        "identifier": f"sha256:{corpus.identity()}",
        "license": list(terms) or ["not stated"],
        "url": f"urn:brainloom:corpus:{corpus.header.fingerprint}:{corpus.header.seed}",
        "creator": {"@type": "sc:Organization", "name": "The brainloom developers"},
        "citeAs": f"@misc{{brainloom, title={{brainloom {version}}}, author={{{{The brainloom developers}}}}}}",
        "keywords": front_matter(corpus)["tags"],
        "distribution": _distribution(corpus),
        "recordSet": _record_sets(corpus),
    }
    return found | ({"datePublished": published} if published else {})


def _distribution(corpus: Corpus) -> list[dict[str, Any]]:
    """File sets of the folder that croissant.json lies in."""
    sets = [("records", "application/json", "records/*.json", "birth certificates, one file a shard")]
    for array in ("image", "label") if corpus.has_labels else ("image",):
        sets.append((array, ZARR, f"{array}/c.*", f"shards of the array {array}, for a Zarr v3 reader"))
    sets.append(("metadata", "application/json", "*zarr.json", "Zarr metadata: shapes, dtypes, recipe, parents"))
    return [
        {"@type": "cr:FileSet", "@id": key, "name": key, "encodingFormat": form, "includes": glob, "description": about}
        for key, form, glob, about in sets
    ]


def _record_sets(corpus: Corpus) -> list[dict[str, Any]]:
    """One record a sample: its number, checksum, and the covariates that no sample lacks."""
    table = corpus.covariates()
    fields = [_field("index", "sc:Integer", "$.samples[*].index", "number of the sample")]
    fields.append(_field("sha256", "sc:Text", "$.samples[*].sha256", "checksum of image and label map"))
    for name in sorted(name for name in table.columns if not table[name].isna().any()):
        about, word = described(name, corpus), isinstance(table[name].iloc[0], str)
        text = about["Description"] + (f", {about['Units']}" if "Units" in about else "")
        fields.append(
            _field(f"covariates/{name}", "sc:Text" if word else "sc:Float", f"$.samples[*].covariates['{name}']", text)
        )
    return [{"@type": "cr:RecordSet", "@id": "samples", "name": "samples", "field": fields}]


def _field(name: str, kind: str, path: str, about: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"samples/{name}",
        "name": name.rpartition("/")[2],
        "description": about,
        "dataType": kind,
        "source": {"fileSet": {"@id": "records"}, "extract": {"jsonPath": path}},
    }


CROISSANT_WORDS = re.findall(
    r"\w+",
    "citeAs column equivalentProperty extract field fileProperty fileObject fileSet format includes isLiveDataset jsonPath "
    "key md5 parentField path recordSet references regex repeated replace samplingRate separator source subField transform",
)
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{word: f"cr:{word}" for word in CROISSANT_WORDS},
}
"""Terms of the Croissant 1.0 specification; readers warn of a context that lacks one."""
