"""Question-and-answer rows as samples and back, the same for JSONL, parquet and score files.

A row has `question` or `messages`, and may have `id`, `answer` or `gold` (a text, a number, or a
list of accepted texts; with choices also a letter), `choices` (texts with or without their letters,
or letter -> text), and the fields of Meta: source, license, access, agreement, deidentified,
modality, language or lang, kind, group or _group. Every other key is kept as text in `meta.extra`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from lingshu.core.errors import InputError, one_line
from lingshu.core.messages import message_from_json, message_to_json, user_turn
from lingshu.core.types import Access, Drop, Image, Message, Meta, Sample

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTER_PREFIX = re.compile(r"\s*\(?([A-Za-z])\s*[.):]\s*(.*)", re.DOTALL)
_FIELD_ALIASES = {"lang": "language", "_group": "group"}
_TEXT_FIELDS = ("source", "license", "agreement", "modality", "language", "kind", "group")
_CONTENT_FIELDS = {"id", "question", "messages", "answer", "gold", "choices", "image", "images"}


class RowError(InputError):
    """A row that cannot become a sample; the message is `reason: detail`, the reason a constant."""

    def to_drop(self, sample_id: str) -> Drop:
        reason, _, detail = str(self).partition(": ")
        return Drop(sample_id, reason, detail)


def sample_from_row(
    row: Mapping[str, Any], row_number: int, images: Sequence[Image] = ()
) -> Sample | Drop:
    """The sample of row `row_number` (from 1; it names a row without `id`), or why there is none.

    The question follows all images; its choices are listed below it, unless its text has them.
    """
    name = f"row-{row_number}" if row.get("id") in (None, "") else str(row["id"])
    try:
        choices = read_choices(row.get("choices"))
        answer = row["gold"] if row.get("gold") is not None else row.get("answer")
        return Sample(
            id=name,
            messages=_messages(row, choices, len(images)),
            images=tuple(images),
            gold=read_gold(answer, choices),
            choices=choices,
            meta=_meta(row),
        )
    except RowError as error:
        return error.to_drop(name)


def row_from_sample(sample: Sample, images: Sequence[str] = ()) -> dict[str, Any]:
    """The row that `sample_from_row` reads as this sample; `images` are names of its images."""
    meta = sample.meta
    row: dict[str, Any] = {"id": sample.id}
    if images:
        row["images"] = list(images)
    if sample.messages == (user_turn(sample.question, len(sample.images)),):
        choices = with_choices("", sample.choices) if sample.choices else ""
        row["question"] = sample.question.removesuffix(choices)
    else:
        row["messages"] = [message_to_json(message) for message in sample.messages]
    if sample.choices:
        row["choices"] = list(sample.choices)
    if sample.gold:
        row["answer"] = sample.gold[0] if len(sample.gold) == 1 else list(sample.gold)
    metadata = {name: getattr(meta, name) for name in (*_TEXT_FIELDS, "access", "deidentified")}
    known = {name: value for name, value in metadata.items() if value is not None}
    return row | known | dict(meta.extra)


def read_choices(value: object) -> tuple[str, ...]:
    """The texts of the choices in the order of their letters, without the letters.

    Raises:
        RowError: neither a list of texts nor a mapping from letters, or more than 26.
    """
    if value is None or value == []:
        return ()
    if isinstance(value, str) and value.startswith("["):
        # Parquet tables often have the list as JSON.
        value = json_or_text(value)
    if isinstance(value, Mapping):
        entries = sorted((str(k).strip().upper(), v) for k, v in value.items() if v is not None)
        if [letter for letter, _ in entries] != list(LETTERS[: len(entries)]):
            raise RowError(
                "bad_choices: the keys of choices must be the letters A, B, C, ... without a gap."
            )
        value = [text for _, text in entries]
    if (
        not isinstance(value, Sequence)
        or isinstance(value, str)
        or not all(isinstance(v, str | int | float) for v in value)
    ):
        raise RowError(
            "bad_choices: choices must be a list of texts or a mapping from letters to texts."
        )
    if len(value) > len(LETTERS):
        raise RowError(f"bad_choices: {len(value)} choices are more than there are letters.")
    texts = [str(v).strip() for v in value]
    matches = [match for text in texts if (match := _LETTER_PREFIX.fullmatch(text))]
    if len(texts) > 1 and [match[1].upper() for match in matches] == list(LETTERS[: len(texts)]):
        texts = [match[2].strip() for match in matches]
    return tuple(texts)


def json_or_text(text: str) -> object:
    """The value of a text that is JSON, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def read_gold(value: object, choices: Sequence[str] = ()) -> tuple[str, ...] | None:
    """The accepted answers, the preferred one first; with choices, letters.

    Raises:
        RowError: not text, or neither a letter nor the text of a choice.
    """
    if value is None or value == []:
        return None
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in values):
        raise RowError("bad_answer: an answer must be a text, a number or a list of them.")
    texts = [str(v).strip() for v in values]
    if "" in texts:
        raise RowError("empty_answer: an answer is empty; leave it out if it is not known.")
    golds = [_gold_letter(text, choices) for text in texts] if choices else texts
    return tuple(dict.fromkeys(golds))


def _gold_letter(text: str, choices: Sequence[str]) -> str:
    # A single letter is the option's letter, even if a choice has that text (vitamins A, C, D, K).
    letter = text.strip("()[]. :").upper()
    if len(letter) == 1 and letter in LETTERS[: len(choices)]:
        return letter
    normalized = [_normalize(choice) for choice in choices]
    if _normalize(text) in normalized:
        return LETTERS[normalized.index(_normalize(text))]
    if match := _LETTER_PREFIX.fullmatch(text):
        letter = match[1].upper()
        if (letter, _normalize(match[2])) in zip(LETTERS, normalized, strict=False):
            return letter
    raise RowError(
        "answer_not_in_choices: the answer is neither a letter nor the text of a choice."
    )


def _normalize(text: str) -> str:
    return " ".join(text.casefold().split())


def with_choices(question: str, choices: Sequence[str]) -> str:
    """A question with its choices below, one per line as `A. text`, unless it lists them itself."""
    lines = list(zip(LETTERS, choices, strict=False))
    if all(re.search(rf"\b{letter}[).:]\s*{re.escape(text)}", question) for letter, text in lines):
        return question
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in lines)])


def _messages(row: Mapping[str, Any], choices: Sequence[str], n_images: int) -> tuple[Message, ...]:
    value = row.get("messages")
    if value is None:
        question = row.get("question")
        if not isinstance(question, str) or not question.strip():
            raise RowError("no_question: the row has neither a question nor messages.")
        return (user_turn(with_choices(question.strip(), choices), n_images),)
    if isinstance(value, str):
        value = json_or_text(value)
    if not isinstance(value, list) or not value or not all(isinstance(m, Mapping) for m in value):
        raise RowError("bad_messages: messages must be a list of {role, content}.")
    try:
        messages = tuple(message_from_json(m) for m in value)
    except InputError as error:
        raise RowError(f"bad_messages: {one_line(error)}") from error
    image_indices = [part for m in messages for part in m.parts if isinstance(part, int)]
    if not any(m.role == "user" for m in messages):
        raise RowError("no_question: there is no user message.")
    if any(not 0 <= part < n_images for part in image_indices):
        problem = "bad_messages: a message shows an image that the row does not have"
        raise RowError(f"{problem} ({n_images} images, counted from 0).")
    if n_images and not image_indices:
        # Images that no message shows come first.
        first_user = next(i for i, m in enumerate(messages) if m.role == "user")
        return tuple(
            replace(m, parts=(*range(n_images), *m.parts)) if i == first_user else m
            for i, m in enumerate(messages)
        )
    return messages


def _meta(row: Mapping[str, Any]) -> Meta:
    fields: dict[str, Any] = {}
    extra: dict[str, str] = {}
    for key, value in row.items():
        name = _FIELD_ALIASES.get(key, key)
        if key in _CONTENT_FIELDS or value is None:
            continue
        if name in (*_TEXT_FIELDS, "access", "deidentified"):
            fields.setdefault(name, value if name == "deidentified" else _to_text(value))
        elif key == "extra" and isinstance(value, Mapping):
            extra.update((str(k), _to_text(v)) for k, v in value.items() if v is not None)
        else:
            extra[str(key)] = _to_text(value)
    if fields.get("access", "private") not in get_args(Access):
        raise RowError(f"bad_access: access must be one of {', '.join(get_args(Access))}.")
    if not isinstance(fields.get("deidentified"), bool | None):
        raise RowError("bad_deidentified: deidentified must be true or false.")
    return Meta(**fields, extra=extra)


def _to_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
