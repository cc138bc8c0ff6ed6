"""The chat template of a checkpoint: where it may be stored, which one is used, and that it works.

Published folders hold up to three templates that differ. They are tried in the order of transformers'
processors (`ProcessorMixin.get_processor_dict` of 5.24), then the tokenizer's, and each is proven
before it is used: rendered with images, with text alone, as a dialogue of two turns and with a system
turn. Whatever reads a template (a processor, merge, an export, vLLM) asks here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core.errors import ArtifactError, InputError, suggest_name
from lingshu.weights.template_sandbox import MAX_SOURCE, TemplateError, compile_template

ChatMessage = Mapping[str, Any]

# Probes of the proof: plain sentences that no template has a reason to change.
_QUESTION, _ANSWER, _FOLLOW_UP = "Is a mark visible here?", "One mark is visible.", "On which side?"
_SYSTEM = "Answer in one sentence."
INCLUDED_TEMPLATES = Path(__file__).with_name("chat_templates")
_REMEDY = "fix that file, or give another template with --chat-template"


@dataclass(frozen=True)
class ChatTemplate:
    """A template, the file that holds it, and the values it may name (`bos_token`, ...).

    `plain_text`: turns without an image are given to it as one string instead of a list of parts,
    because it does not read lists there.
    """

    source: str
    text: str
    special_tokens: Mapping[str, Any] = field(default_factory=dict, repr=False)
    plain_text: bool = False

    def render(self, turns: Sequence[ChatMessage], *, prompt: bool) -> str:
        """The text of a dialogue; `prompt` opens the assistant's turn at its end.

        Args:
            turns: As `core.messages.message_to_json` writes them.

        Raises:
            InputError: the template refuses this dialogue, or does not end within its bounds.
        """
        size = sum(64 + len(part.get("text", "")) for turn in turns for part in turn["content"])
        if self.plain_text:
            turns = [_as_string(turn) for turn in turns]
        variables = {
            "tools": None,
            "documents": None,
            **self.special_tokens,
            "messages": turns,
            "add_generation_prompt": prompt,
        }
        try:
            return compile_template(self.text).render(variables, input_size=size)
        except TemplateError as error:
            # Any other message may quote the dialogue.
            words = f" ({error})" if error.is_own_message else ""
            raise InputError(
                f"the chat template ({self.source}) refuses this dialogue{words}; change its turns."
            ) from None


def _as_string(turn: ChatMessage) -> ChatMessage:
    if any(part["type"] != "text" for part in turn["content"]):
        return turn
    return {**turn, "content": "".join(part["text"] for part in turn["content"])}


class StoredTemplate(NamedTuple):
    """What a place of a folder holds: a template, or why it cannot be read."""

    source: str
    text: str | None
    problem: str | None = None


def stored_templates(folder: Path) -> list[StoredTemplate]:
    """The default template of each file of a checkpoint folder that holds one, in the order in which
    they are used.
    """
    found: list[StoredTemplate] = []
    for file in (
        "processor_config.json",
        "chat_template.json",
        "chat_template.jinja",
        "additional_chat_templates/default.jinja",
        "tokenizer_config.json",
    ):
        path = folder / file
        if not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
            template = _default(json.loads(text)) if path.suffix == ".json" else text
        except (OSError, ValueError) as error:
            if file not in ("processor_config.json", "tokenizer_config.json"):
                found.append(StoredTemplate(file, None, f"cannot be read ({type(error).__name__})"))
            continue
        if template is not None:
            found.append(StoredTemplate(file, template))
    return found


def _default(config: object) -> str | None:
    """The template in a JSON file: a string, or the default of named ones."""
    value = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(value, list):
        rows = [row for row in value if isinstance(row, dict)]
        value = {row.get("name"): row.get("template") for row in rows}
    if isinstance(value, dict):
        only = next(iter(value.values())) if len(value) == 1 else None
        value = value.get("default", only)
    return value if isinstance(value, str) else None


class Proof(NamedTuple):
    """What the probes showed.

    `problem` is None for a template that can be used; `is_text_only` marks one whose only problem
    is that it does not show images. `renders` are the texts of the probes, `after_answer` what
    follows an answer.
    """

    template: ChatTemplate
    problem: str | None
    is_text_only: bool = False
    renders: tuple[str, ...] = ()
    after_answer: str = ""
    notes: tuple[str, ...] = ()


def _turn(role: str, *parts: str | int) -> ChatMessage:
    content = [
        {"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p}
        for p in parts
    ]
    return {"role": role, "content": content}


_QUESTION_TURN, _ANSWER_TURN = _turn("user", _QUESTION), _turn("assistant", _ANSWER)
_TEXT_DIALOGUE = (_QUESTION_TURN, _ANSWER_TURN, _turn("user", _FOLLOW_UP))
_IMAGE_DIALOGUES = (
    (_turn("user", 0, _QUESTION),),
    (_turn("user", 0, 1, _QUESTION),),
    (_turn("user", 0, _QUESTION), _ANSWER_TURN, _turn("user", 1, _FOLLOW_UP)),
)


def prove(template: ChatTemplate, image_marker: str | None) -> Proof:
    """Render the probes: one marker for each image, every text present, open for an answer.

    With `image_marker` None (the family is not known) an image only has to change the text.
    """
    proofs = [
        _prove(replace(template, plain_text=plain_text), image_marker)
        for plain_text in (False, True)
    ]

    def rank(proof: Proof) -> tuple[bool, bool, bool]:
        system_fails = not proof.renders or not proof.renders[-1]
        return proof.problem is not None, not proof.is_text_only, system_fails

    return min(proofs, key=rank)  # lists of parts, unless strings work better


def _prove(template: ChatTemplate, image_marker: str | None) -> Proof:
    try:
        open_text = _prove_text(template)
    except (InputError, _ProofError) as error:
        return Proof(template, _reason(error))
    try:
        renders = _prove_images(template, image_marker)
    except (InputError, _ProofError) as error:
        is_text_only = _shows_no_image(template, error)
        return Proof(template, _reason(error), is_text_only, (open_text.dialogue,))
    notes = []
    try:
        system_text = template.render([_turn("system", _SYSTEM), _QUESTION_TURN], prompt=True)
    except InputError:
        system_text = ""  # a dialogue with a system turn will be refused
    if system_text and _SYSTEM not in system_text:
        notes.append(f"the chat template ({template.source}) leaves system turns out")
    renders = (open_text.dialogue, *renders, system_text)
    return Proof(template, None, False, renders, open_text.after_answer, tuple(notes))


class _ProofError(Exception):
    """What a probe showed to be wrong."""


class _OpenText(NamedTuple):
    dialogue: str
    after_answer: str


def _reason(error: Exception) -> str:
    cause = error.__context__ if isinstance(error, InputError) else None
    return f"cannot be used: {cause or error}"


def _prove_text(template: ChatTemplate) -> _OpenText:
    dialogue = template.render(_TEXT_DIALOGUE, prompt=True)
    for text in (_QUESTION, _ANSWER, _FOLLOW_UP):
        if text not in dialogue:
            raise _ProofError("it leaves out the text of a turn")
    opened = template.render([_QUESTION_TURN], prompt=True)
    closed = template.render([_QUESTION_TURN], prompt=False)
    full_text = template.render([_QUESTION_TURN, _ANSWER_TURN], prompt=False)
    position = full_text.find(_ANSWER)
    if _QUESTION not in opened or position < 0:
        raise _ProofError("it leaves out the text of a turn")
    # A template without add_generation_prompt is open if the answer follows the question directly.
    directly = full_text.startswith(opened) and not full_text[len(opened) : position].strip()
    if not directly and len(opened) <= len(closed):
        raise _ProofError("its text does not end where an answer begins (add_generation_prompt)")
    return _OpenText(dialogue, full_text[position + len(_ANSWER) :])


def _prove_images(template: ChatTemplate, image_marker: str | None) -> tuple[str, ...]:
    renders = []
    for dialogue in _IMAGE_DIALOGUES:
        rendered = template.render(dialogue, prompt=True)
        images = [part for turn in dialogue for part in turn["content"] if part["type"] == "image"]
        if image_marker is not None and rendered.count(image_marker) != len(images):
            raise _ProofError(
                f"it writes {rendered.count(image_marker)} image markers ({image_marker}) for"
                f" {len(images)} images"
            )
        if _QUESTION not in rendered:
            raise _ProofError("it leaves out the text of a turn with an image")
        renders.append(rendered)
    if image_marker is None and renders[0] == template.render([_QUESTION_TURN], prompt=True):
        raise _ProofError("it does not show images")
    return tuple(renders)


def _shows_no_image(template: ChatTemplate, error: Exception) -> bool:
    """Whether a template that works on text does not know images, rather than show them wrongly."""
    if isinstance(error, InputError):
        return template.plain_text  # it takes strings only
    return " 0 image markers" in str(error) or "does not show images" in str(error)


def rendered_dialogues(folder: Path) -> tuple[str, ...] | None:
    """How a checkpoint folder renders the probes, whatever its family; None if it holds no template
    that renders dialogues. Folders that render them alike have the same template.
    """
    for stored in stored_templates(folder):
        if stored.text is not None:
            proof = prove(ChatTemplate(stored.source, stored.text), None)
            if proof.problem is None or proof.is_text_only:
                return tuple(map(str, proof.renders))
    return None


class TemplateChoice(NamedTuple):
    """The template to use, and what a user should know about it."""

    proof: Proof
    notes: tuple[str, ...]

    @property
    def template(self) -> ChatTemplate:
        return self.proof.template


def choose_template(
    folder: Path,
    stored: Sequence[StoredTemplate],
    *,
    image_marker: str | None,
    family_template: ChatTemplate,
) -> TemplateChoice:
    """The first stored template that passes the proof; that of the family where none is stored, or
    only such as know no images.

    Raises:
        ArtifactError: what is stored fails; the message names file and remedy.
    """
    own = prove(family_template, image_marker)
    passed: list[Proof] = []
    failed: list[Proof] = []
    notes: list[str] = []
    for candidate in stored:
        template = replace(family_template, source=candidate.source, text=candidate.text or "")
        proof = (
            Proof(template, candidate.problem)
            if candidate.problem
            else prove(template, image_marker)
        )
        if proof.problem is None:
            passed.append(proof)
        else:
            failed.append(proof)
            if not passed:
                notes.append(f"{candidate.source}: the chat template {proof.problem}")
    if passed:
        used = passed[0]
        notes += [
            f"the chat template of {used.template.source} is used; that of {other.template.source}"
            " renders dialogues differently"
            for other in passed[1:]
            if other.renders != used.renders
        ]
        return TemplateChoice(used, (*notes, *used.notes, *_differences(used, own)))
    broken = [proof for proof in failed if not proof.is_text_only]
    if broken:
        first = broken[0]
        raise ArtifactError(
            f"{folder}: the chat template in {first.template.source} {first.problem}; {_REMEDY}."
        )
    what = f"{failed[0].template.source} shows no images" if failed else "none is stored"
    return TemplateChoice(own, (f"the model family's own chat template is used: {what}",))


def _differences(used: Proof, own: Proof) -> list[str]:
    """What a template writes that the family's own does not, if anything."""
    notes: list[str] = []
    source = used.template.source
    if own.problem is not None:
        return notes
    if any(getattr(text, "uses_clock", False) for text in used.renders):
        notes.append(
            f"the chat template of {source} asks for the time, so that replies may change with it"
        )
    mine, theirs = own.renders[1].splitlines(), used.renders[1].splitlines()
    if mine != theirs:
        added = " / ".join(line for line in theirs if line not in mine)
        what = f"adds {added[:120]!r}" if added else "writes less"
        notes.append(f"the chat template of {source} {what}, compared with the model family's own")
    return notes


def read_named_template(name: str) -> StoredTemplate:
    """A template that a user names: a file, or one of those in weights/chat_templates.

    Raises:
        InputError: neither, or a file that cannot be read as text.
    """
    included = {path.stem: path for path in INCLUDED_TEMPLATES.glob("*.jinja")}
    path = included.get(name, Path(name))
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_SOURCE + 1)
        if path.suffix == ".json":
            text = _default(json.loads(text))
    except FileNotFoundError as error:
        hint = suggest_name(name, included)
        raise InputError(
            f"{name} is neither a file nor an included chat template; {hint}"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a chat template ({error}).") from error
    if not text:
        raise InputError(f"{path} holds no chat template; give a Jinja file.")
    return StoredTemplate(name, text)
