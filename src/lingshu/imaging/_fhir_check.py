"""Whether FHIR R4 JSON of a draft keeps the rules: known elements, how often, of which form, codes
from the required value sets.

Only the resources and elements that a draft uses are known here; a FHIR validator knows the rest. A
library that checks shapes lets a status of "nonsense" pass, which is why the value sets stand here.
Source: hl7.org/fhir/R4, the page of each resource and type; datatypes.html for the forms of
primitives.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from xml.etree import ElementTree


class Element(NamedTuple):
    """The type of an element: a primitive, a structure of this file, or a set of codes; and how
    often it may stand.
    """

    kind: str | frozenset[str]
    least: int = 0
    many: bool = False


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Value sets with a required binding.
REPORT_STATUS = _codes(
    "registered partial preliminary final amended corrected appended cancelled entered-in-error"
    " unknown"
)
OBSERVATION_STATUS = _codes(
    "registered preliminary final amended corrected cancelled entered-in-error unknown"
)
NARRATIVE_STATUS = _codes("generated extensions additional empty")
DEVICE_NAME = _codes(
    "udi-label-name user-friendly-name patient-reported-name manufacturer-name model-name other"
)
IDENTIFIER_USE = _codes("usual official temp secondary old")
# What a draft may say, of value sets that FHIR leaves open.
LANGUAGES = _codes("en zh-CN")
OWN_CODES: Mapping[str, frozenset[str]] = {
    "http://loinc.org": _codes("18748-4 59776-5 19005-8"),
    "http://terminology.hl7.org/CodeSystem/v2-0074": _codes("RAD"),
    "http://terminology.hl7.org/CodeSystem/v2-0203": _codes("ACSN"),
}
PRIMITIVES = {
    "string": re.compile(r"[\r\n\t\x20-\U0010ffff]*\S[\r\n\t\x20-\U0010ffff]*"),
    "uri": re.compile(r"\S+"),
    "code": re.compile(r"[^\s]+(\s[^\s]+)*"),
    "id": re.compile(r"[A-Za-z0-9\-.]{1,64}"),
    "dateTime": re.compile(r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?"),
    "instant": re.compile(
        r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?(Z|[+-](0\d|1[0-4]):[0-5]\d)"
    ),
}
TYPES: Mapping[str, Mapping[str, Element]] = {
    "DiagnosticReport": {
        "language": Element(LANGUAGES),
        "text": Element("Narrative"),
        "contained": Element("Resource", many=True),
        "identifier": Element("Identifier", many=True),
        "basedOn": Element("Reference", many=True),
        "status": Element(REPORT_STATUS, 1),
        "category": Element("CodeableConcept", many=True),
        "code": Element("CodeableConcept", 1),
        "subject": Element("Reference"),
        "effectiveDateTime": Element("dateTime"),
        "issued": Element("instant"),
        "result": Element("Reference", many=True),
        "imagingStudy": Element("Reference", many=True),
        "conclusion": Element("string"),
        "presentedForm": Element("Attachment", many=True),
    },
    "Observation": {
        "id": Element("id"),
        "status": Element(OBSERVATION_STATUS, 1),
        "code": Element("CodeableConcept", 1),
        "subject": Element("Reference"),
        "issued": Element("instant"),
        "valueString": Element("string"),
        "note": Element("Annotation", many=True),
        "device": Element("Reference"),
    },
    "Device": {
        "id": Element("id"),
        "deviceName": Element("DeviceName", many=True),
        "version": Element("DeviceVersion", many=True),
        "note": Element("Annotation", many=True),
    },
    "DeviceName": {"name": Element("string", 1), "type": Element(DEVICE_NAME, 1)},
    "DeviceVersion": {"value": Element("string", 1)},
    "Narrative": {"status": Element(NARRATIVE_STATUS, 1), "div": Element("xhtml", 1)},
    "Identifier": {
        "use": Element(IDENTIFIER_USE),
        "type": Element("CodeableConcept"),
        "system": Element("uri"),
        "value": Element("string"),
    },
    "Reference": {
        "reference": Element("string"),
        "type": Element("uri"),
        "identifier": Element("Identifier"),
        "display": Element("string"),
    },
    "CodeableConcept": {"coding": Element("Coding", many=True), "text": Element("string")},
    "Coding": {"system": Element("uri"), "code": Element("code"), "display": Element("string")},
    "Annotation": {"text": Element("string", 1)},
    "Attachment": {
        "contentType": Element("code"),
        "language": Element(LANGUAGES),
        "data": Element("base64"),
        "title": Element("string"),
    },
}
RESOURCES = ("DiagnosticReport", "Observation", "Device")


def problems(resource: object) -> list[str]:
    """What is wrong with a report, each with its place; empty for one that keeps the rules.

    Values are not repeated.
    """
    if not isinstance(resource, Mapping) or resource.get("resourceType") != "DiagnosticReport":
        return ["resourceType is not DiagnosticReport"]
    return [*_resource(resource, "DiagnosticReport"), *_pointers(resource)]


def _resource(value: object, place: str) -> Iterator[str]:
    kind = value.get("resourceType") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or kind not in RESOURCES:
        yield f"{place}: no resource that a draft holds"
        return
    yield from _structure(
        {name: one for name, one in value.items() if name != "resourceType"}, kind, place
    )


def _structure(value: object, kind: str, place: str) -> Iterator[str]:
    if not isinstance(value, Mapping) or not value:
        yield f"{place}: an object with at least one element is needed"
        return
    known = TYPES[kind]
    yield from (f"{place}.{name}: unknown element" for name in value if name not in known)
    for name, element in known.items():
        if name not in value:
            if element.least:
                yield f"{place}.{name}: missing"
            continue
        given = value[name]
        if element.many != isinstance(given, list) or given == []:
            yield (
                f"{place}.{name}: {'a list with something in it' if element.many else 'one value'}"
                " is needed"
            )
            continue
        for number, one in enumerate(given if element.many else [given]):
            yield from _value(
                one,
                element.kind,
                f"{place}.{name}[{number}]" if element.many else f"{place}.{name}",
            )
    if kind == "Coding":
        system, code = value.get("system"), value.get("code")
        if not isinstance(system, str) or code not in OWN_CODES.get(system, ()):
            yield f"{place}: a code that no draft uses"


def _value(value: object, kind: str | frozenset[str], place: str) -> Iterator[str]:
    if isinstance(kind, frozenset):
        if value not in kind:
            yield f"{place}: not among {', '.join(sorted(kind))}"
    elif kind == "Resource":
        yield from _resource(value, place)
    elif kind in TYPES:
        yield from _structure(value, kind, place)
    elif not isinstance(value, str):
        yield f"{place}: a text is needed"
    elif kind == "xhtml":
        yield from _xhtml(value, place)
    elif kind == "base64":
        yield from _base64(value, place)
    elif not PRIMITIVES[kind].fullmatch(value):
        yield f"{place}: no valid {kind}"


def _xhtml(value: str, place: str) -> Iterator[str]:
    """Well-formed, one div of XHTML with some text, and no element but those of plain text
    (narrative.html, txt-1 and txt-2).
    """
    space = "{http://www.w3.org/1999/xhtml}"
    if "<!" in value or "<?" in value:
        yield f"{place}: a declaration"
        return
    try:
        root = ElementTree.fromstring(value)
    except ElementTree.ParseError:
        yield f"{place}: not well-formed"
        return
    if root.tag != f"{space}div" or not "".join(root.itertext()).strip():
        yield f"{place}: a div with text is needed"
    allowed = {f"{space}{name}" for name in ("div", "p", "b", "h2", "br")}
    if any(one.tag not in allowed for one in root.iter()):
        yield f"{place}: an element that is no plain text"


def _base64(value: str, place: str) -> Iterator[str]:
    try:
        base64.b64decode(value, validate=True)
    except binascii.Error:
        yield f"{place}: no base64"


def _pointers(report: Mapping[str, Any]) -> Iterator[str]:
    """Each "#id" leads to a contained resource, and each of those is pointed at (references.html,
    dom-3).
    """
    contained = report.get("contained")
    ids = (
        [one.get("id") for one in contained if isinstance(one, Mapping)]
        if isinstance(contained, list)
        else []
    )
    found = set(_found(report))
    yield from (
        f"#{name} leads nowhere"
        for name in sorted(found - {one for one in ids if isinstance(one, str)})
    )
    yield from (
        "a contained resource has no id, or nothing points at it" for one in ids if one not in found
    )
    if len(set(ids)) < len(ids):
        yield "two contained resources share an id"


def _found(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        reference = value.get("reference")
        if isinstance(reference, str) and reference.startswith("#"):
            yield reference[1:]
        for one in value.values():
            yield from _found(one)
    elif isinstance(value, list):
        for one in value:
            yield from _found(one)
