"""License and access filter: only samples whose license and access class allow the intended use.

A license counts as permissive where it allows use, change and redistribution, also commercially,
and requires at most attribution: no share-alike, no non-commercial, no no-derivatives clause. What
a row does not state is not permissive. This is a table of names, not legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import get_args

from lingshu.core.step_types import MapStep, Pixels
from lingshu.core.types import Access, Drop, Sample
from lingshu.ops._sample_fields import check_choice, require

# SPDX names without their version, as `normalize_license` returns them.
PERMISSIVE = frozenset(
    ("cc0", "pddl", "odc by", "cc by", "creative commons attribution", "mit", "apache", "bsd",
     "bsd clause", "isc", "unlicense", "cdla permissive", "public domain", "us government work")
)  # fmt: skip
_VERSION = re.compile(
    r"\b(?:version )?v?\d+(?:\.\d+)*\b|\b(?:international|igo|licen[cs]e|universal|unported|the)\b"
)


def step(
    *,
    license: str = "permissive",
    access: Sequence[str] = ("open", "form", "private"),
    extra_licenses: Sequence[str] = (),
    agreements: Sequence[str] = (),
) -> MapStep:
    """Keep samples that may be used.

    Args:
        license: `permissive` keeps CC0, PDDL, ODC-By, CC BY, MIT, Apache, BSD, ISC and the public
            domain; `any` keeps all.
        access: the access classes to keep; credentialed data is dropped unless named.
        extra_licenses: further licenses to keep, by their names in the rows (`own` for your own
            data, if the rows say so).
        agreements: agreements that you signed; samples under one of them pass the access filter.

    Drops: license_unknown, license_not_permissive, access_CLASS.
    """
    check_choice("licenses", "license", license, ("permissive", "any"))
    for name in access:
        check_choice("licenses", "access", name, get_args(Access))
    require(
        bool(access),
        "licenses: access is empty, which would drop everything; name at least one class.",
    )
    extra_names = frozenset(map(normalize_license, extra_licenses))

    def keep(sample: Sample, _: Pixels) -> Sample | Drop:
        meta = sample.meta
        if meta.access not in access and not (meta.agreement and meta.agreement in agreements):
            return Drop(sample.id, f"access_{meta.access}", meta.agreement or "")
        if license == "any":
            return sample
        if not meta.license:
            return Drop(sample.id, "license_unknown")
        if is_permissive(meta.license) or normalize_license(meta.license) in extra_names:
            return sample
        return Drop(sample.id, "license_not_permissive", meta.license[:80])

    return MapStep(lambda: keep)


def normalize_license(name: str) -> str:
    """A license's name without version, case and punctuation: `CC-BY-4.0` is `cc by`."""
    words = re.sub(r"[^a-z0-9.]+", " ", name.casefold())
    return " ".join(_VERSION.sub(" ", words).split())


def is_permissive(name: str) -> bool:
    """Whether a license is in the table; of several (`MIT AND CC-BY-4.0`) all must be."""
    parts = re.split(r"\s+(?:and|or|with)\s+|[;,/+]", name.casefold())
    names = [normalize_license(part) for part in parts if part.strip()]
    return bool(names) and all(name in PERMISSIVE for name in names)
