"""The model card of weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pretrain.starts.report import describe_start
from pretrain.weights import Weights
from synth.provenance import preparation


def made_by(corpus: Mapping[str, Any]) -> str:
    """The generator behind a corpus's parent record; of a mixture all of them."""
    parts = corpus["parents"] if "mixture" in corpus["recipe"] else [corpus]
    return " + ".join(str(part["recipe"]["generator"]["class_path"]) for part in parts)


def _whose(corpus: Mapping[str, Any]) -> str:
    if "Scans" in made_by(corpus):
        return "The corpus holds scans of people, whose data-use terms go with these weights."
    if "Video" in made_by(corpus):
        return "The corpus holds volumes made from video clips, whose licences go with these weights; they show no anatomy."
    return "The corpus is simulated: figures on it say that the pipeline works and nothing about patients."


PREPARED = {
    "strip": "skull and scalp left out",
    "align": "aligned affinely to the built-in anatomy",
    "n4": "bias field taken out (N4)",
}


def _prepared(corpus: Mapping[str, Any]) -> str:
    """How volumes must be prepared to look like those of the corpus."""
    done = [f"{PREPARED[step]} (`{step}`)" for step in preparation(corpus)]
    return f"\nPrepared: {', '.join(done)}. Prepare what these weights are shown likewise.\n" if done else ""


def _start(about: Weights) -> str:
    if about.start is None:
        return "The weights began from scratch."
    lines = "\n".join(describe_start(about.start))
    return f"The weights began from `{about.start['source']}`, whose terms go with them:\n\n```text\n{lines}\n```"


def card(about: Weights) -> str:
    """The model card, in Hugging Face's front-matter form: corpus, recipe, start, licences, figures."""
    corpus = about.corpus
    licences = corpus.get("licences") or ["not stated"]
    figures = "\n".join(f"| {name} | {value} |" for name, value in about.figures.items())
    size = " × ".join(f"{n}" for n in about.shape)
    return f"""---
library_name: brainloom
tags: [brain-mri, synthetic-pretraining, {about.objective}]
---
# {about.backbone}, {about.objective}, on {corpus["name"]}

Backbone `{about.word}` for volumes of {size} voxels at {about.spacing} mm (canonical RAS+, {about.normalisation}).
Pre-trained with objective `{about.objective}` on the corpus `{corpus["name"]}`: {corpus["count"]} volumes of generator
`{made_by(corpus)}`, seed {corpus["seed"]}, identity `{corpus["identity"]}`.
{_whose(corpus)}
{_prepared(corpus)}
{_start(about)}

Licences of what the corpus derives from: {"; ".join(licences)}.

```python
from pretrain.weights import from_pretrained

backbone, about = from_pretrained("this folder, or its hub id")
```

| held-out figure | value |
|---|---|
{figures}

Training: `{json.dumps(about.training)}`
"""
