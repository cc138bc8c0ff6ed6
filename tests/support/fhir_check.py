"""Whether FHIR R4 JSON of a draft keeps the rules: known elements, how often, of which form, codes
from the required value sets.

Only the resources and elements that a draft uses are known here; a FHIR validator knows the rest. A
library that checks shapes lets a status of "nonsense" pass, so the value sets are listed here.
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


class ElementSpec(NamedTuple):
    """The type of an element: a primitive, a structure of this file, or a set of codes; and how
    often it may stand.
    """

    datatype: str | frozenset[str]
    min_count: int = 0
    is_list: bool = False


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
LANGUAGE_CODES = _codes("en zh-CN")
ALLOWED_CODES: Mapping[str, frozenset[str]] = {
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
TYPES: Mapping[str, Mapping[str, ElementSpec]] = {
    "DiagnosticReport": {
        "language": ElementSpec(LANGUAGE_CODES),
        "text": ElementSpec("Narrative"),
        "contained": ElementSpec("Resource", is_list=True),
        "identifier": ElementSpec("Identifier", is_list=True),
        "basedOn": ElementSpec("Reference", is_list=True),
        "status": ElementSpec(REPORT_STATUS, 1),
        "category": ElementSpec("CodeableConcept", is_list=True),
        "code": ElementSpec("CodeableConcept", 1),
        "subject": ElementSpec("Reference"),
        "effectiveDateTime": ElementSpec("dateTime"),
        "issued": ElementSpec("instant"),
        "result": ElementSpec("Reference", is_list=True),
        "imagingStudy": ElementSpec("Reference", is_list=True),
        "conclusion": ElementSpec("string"),
        "presentedForm": ElementSpec("Attachment", is_list=True),
    },
    "Observation": {
        "id": ElementSpec("id"),
        "status": ElementSpec(OBSERVATION_STATUS, 1),
        "code": ElementSpec("CodeableConcept", 1),
        "subject": ElementSpec("Reference"),
        "issued": ElementSpec("instant"),
        "valueString": ElementSpec("string"),
        "note": ElementSpec("Annotation", is_list=True),
        "device": ElementSpec("Reference"),
    },
    "Device": {
        "id": ElementSpec("id"),
        "deviceName": ElementSpec("DeviceName", is_list=True),
        "version": ElementSpec("DeviceVersion", is_list=True),
        "note": ElementSpec("Annotation", is_list=True),
    },
    "DeviceName": {"name": ElementSpec("string", 1), "type": ElementSpec(DEVICE_NAME, 1)},
    "DeviceVersion": {"value": ElementSpec("string", 1)},
    "Narrative": {"status": ElementSpec(NARRATIVE_STATUS, 1), "div": ElementSpec("xhtml", 1)},
    "Identifier": {
        "use": ElementSpec(IDENTIFIER_USE),
        "type": ElementSpec("CodeableConcept"),
        "system": ElementSpec("uri"),
        "value": ElementSpec("string"),
    },
    "Reference": {
        "reference": ElementSpec("string"),
        "type": ElementSpec("uri"),
        "identifier": ElementSpec("Identifier"),
        "display": ElementSpec("string"),
    },
    "CodeableConcept": {
        "coding": ElementSpec("Coding", is_list=True),
        "text": ElementSpec("string"),
    },
    "Coding": {
        "system": ElementSpec("uri"),
        "code": ElementSpec("code"),
        "display": ElementSpec("string"),
    },
    "Annotation": {"text": ElementSpec("string", 1)},
    "Attachment": {
        "contentType": ElementSpec("code"),
        "language": ElementSpec(LANGUAGE_CODES),
        "data": ElementSpec("base64"),
        "title": ElementSpec("string"),
    },
}
RESOURCES = ("DiagnosticReport", "Observation", "Device")


def validate_report(resource: object) -> list[str]:
    """What is wrong with a report, each with its place; empty for one that keeps the rules.

    Values are not repeated.
    """
    if not isinstance(resource, Mapping) or resource.get("resourceType") != "DiagnosticReport":
        return ["resourceType is not DiagnosticReport"]
    return [*_check_resource(resource, "DiagnosticReport"), *_check_references(resource)]


def _check_resource(value: object, path: str) -> Iterator[str]:
    datatype = value.get("resourceType") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or datatype not in RESOURCES:
        yield f"{path}: no resource that a draft holds"
        return
    yield from _check_structure(
        {name: item for name, item in value.items() if name != "resourceType"}, datatype, path
    )


def _check_structure(value: object, datatype: str, path: str) -> Iterator[str]:
    if not isinstance(value, Mapping) or not value:
        yield f"{path}: an object with at least one element is needed"
        return
    specs = TYPES[datatype]
    yield from (f"{path}.{name}: unknown element" for name in value if name not in specs)
    for name, element in specs.items():
        if name not in value:
            if element.min_count:
                yield f"{path}.{name}: missing"
            continue
        field_value = value[name]
        if element.is_list != isinstance(field_value, list) or field_value == []:
            yield (
                f"{path}.{name}: {'a list with something in it' if element.is_list else 'one value'}"
                " is needed"
            )
            continue
        for index, item in enumerate(field_value if element.is_list else [field_value]):
            yield from _check_value(
                item,
                element.datatype,
                f"{path}.{name}[{index}]" if element.is_list else f"{path}.{name}",
            )
    if datatype == "Coding":
        system, code = value.get("system"), value.get("code")
        if not isinstance(system, str) or code not in ALLOWED_CODES.get(system, ()):
            yield f"{path}: a code that no draft uses"


def _check_value(value: object, datatype: str | frozenset[str], path: str) -> Iterator[str]:
    if isinstance(datatype, frozenset):
        if value not in datatype:
            yield f"{path}: not among {', '.join(sorted(datatype))}"
    elif datatype == "Resource":
        yield from _check_resource(value, path)
    elif datatype in TYPES:
        yield from _check_structure(value, datatype, path)
    elif not isinstance(value, str):
        yield f"{path}: a text is needed"
    elif datatype == "xhtml":
        yield from _check_xhtml(value, path)
    elif datatype == "base64":
        yield from _check_base64(value, path)
    elif not PRIMITIVES[datatype].fullmatch(value):
        yield f"{path}: not a valid {datatype}"


def _check_xhtml(value: str, path: str) -> Iterator[str]:
    """Well-formed, one div of XHTML with some text, and no element but those of plain text
    (narrative.html, txt-1 and txt-2).
    """
    namespace = "{http://www.w3.org/1999/xhtml}"
    if "<!" in value or "<?" in value:
        yield f"{path}: a declaration"
        return
    try:
        root = ElementTree.fromstring(value)
    except ElementTree.ParseError:
        yield f"{path}: not well-formed"
        return
    if root.tag != f"{namespace}div" or not "".join(root.itertext()).strip():
        yield f"{path}: a div with text is needed"
    allowed = {f"{namespace}{name}" for name in ("div", "p", "b", "h2", "br")}
    if any(element.tag not in allowed for element in root.iter()):
        yield f"{path}: an element that is not plain text"


def _check_base64(value: str, path: str) -> Iterator[str]:
    try:
        base64.b64decode(value, validate=True)
    except binascii.Error:
        yield f"{path}: not base64"


def _check_references(report: Mapping[str, Any]) -> Iterator[str]:
    """Each "#id" leads to a contained resource, and each of those is pointed at (references.html,
    dom-3).
    """
    contained = report.get("contained")
    ids = (
        [item.get("id") for item in contained if isinstance(item, Mapping)]
        if isinstance(contained, list)
        else []
    )
    references = set(_internal_references(report))
    yield from (
        f"#{name} leads nowhere"
        for name in sorted(references - {item for item in ids if isinstance(item, str)})
    )
    yield from (
        "a contained resource has no id, or nothing points at it"
        for item in ids
        if item not in references
    )
    if len(set(ids)) < len(ids):
        yield "two contained resources share an id"


def _internal_references(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        reference = value.get("reference")
        if isinstance(reference, str) and reference.startswith("#"):
            yield reference[1:]
        for item in value.values():
            yield from _internal_references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _internal_references(item)
