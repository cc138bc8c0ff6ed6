"""Where a checkpoint's chat template is stored, which one is used, and what is said about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from lingshu.core.errors import ArtifactError, InputError
from lingshu.core.messages import message_to_json
from lingshu.core.types import Message
from lingshu.weights.chat_template import (
    ChatTemplate,
    TemplateChoice,
    choose_template,
    prove,
    read_named_template,
    rendered_dialogues,
    stored_templates,
)

GOOD = (
    "{%- for m in messages -%}<{{ m.role }}>"
    "{%- if m.content is string -%}{{ m.content }}{%- else -%}{%- for p in m.content -%}"
    "{%- if p.type == 'image' -%}<PIC>{%- else -%}{{ p.text }}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "<end>\n{%- endfor -%}{%- if add_generation_prompt -%}<assistant>{%- endif -%}"
)
# The text model's: joins strings, and fails on lists.
TEXT = (
    "{%- for m in messages -%}{{ '<' + m.role + '>' + m.content + '<end>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<assistant>{%- endif -%}"
)
BLIND = GOOD.replace("<PIC>", "")
TWICE = GOOD.replace("<PIC>", "<PIC><PIC>")
CLOSED = GOOD.replace("add_generation_prompt", "false")
ENGLISH = GOOD.replace("{%- for m in messages -%}", "Speak English.\n{%- for m in messages -%}", 1)
FILES = {
    "processor_config.json": lambda text: json.dumps({"chat_template": text}),
    "chat_template.json": lambda text: json.dumps({"chat_template": text}),
    "chat_template.jinja": str,
    "additional_chat_templates/default.jinja": str,
    "tokenizer_config.json": lambda text: json.dumps({"chat_template": text}),
}


def checkpoint(tmp_path: Path, templates: Mapping[str, str]) -> Path:
    for name, text in templates.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(FILES[name](text))
    return tmp_path


def choose(folder: Path) -> TemplateChoice:
    return choose_template(
        folder,
        stored_templates(folder),
        image_marker="<PIC>",
        family_template=ChatTemplate("own", GOOD),
    )


@pytest.mark.parametrize("first", range(len(FILES)))
def test_files_are_read_in_the_order_of_the_stock_processor(tmp_path: Path, first: int) -> None:
    names = list(FILES)[first:]
    texts = dict(zip(names, [ENGLISH, *[GOOD] * (len(names) - 1)], strict=True))
    choice = choose(checkpoint(tmp_path, texts))
    assert choice.template.source == names[0]
    assert any("Speak English." in note for note in choice.notes)
    others = [name for name in names[1:] if any(name in note for note in choice.notes)]
    assert others == names[1:]  # each that renders otherwise is named


def test_a_text_template_behind_a_good_one_is_no_news(tmp_path: Path) -> None:
    files = {"chat_template.json": GOOD, "tokenizer_config.json": TEXT}
    choice = choose(checkpoint(tmp_path, files))
    assert (choice.template.source, choice.notes) == ("chat_template.json", ())


def test_a_template_that_fails_is_named_and_the_next_is_used(tmp_path: Path) -> None:
    files = {"chat_template.jinja": TWICE, "tokenizer_config.json": GOOD}
    choice = choose(checkpoint(tmp_path, files))
    assert choice.template.source == "tokenizer_config.json"
    assert choice.notes == (
        "chat_template.jinja: the chat template cannot be used: it writes 2 image markers (<PIC>)"
        " for 1 images",
    )


@pytest.mark.parametrize("text", [TEXT, BLIND])
def test_the_family_s_own_replaces_one_that_knows_no_images(tmp_path: Path, text: str) -> None:
    choice = choose(checkpoint(tmp_path, {"tokenizer_config.json": text}))
    assert choice.template.source == "own" and "tokenizer_config.json shows no" in choice.notes[0]


def test_the_family_s_own_is_used_where_none_is_stored(tmp_path: Path) -> None:
    choice = choose(tmp_path)
    assert choice.template.source == "own" and "none is stored" in choice.notes[0]


@pytest.mark.parametrize(
    "text,reason",
    [
        (TWICE, "2 image markers"),
        (CLOSED, "add_generation_prompt"),
        ("{{ raise_exception('no pictures here') }}", "no pictures here"),
        ("{% if %}", "line 1"),
        (GOOD.replace("{{ p.text }}", ""), "leaves out"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "work"),
    ],
)
def test_a_folder_whose_template_fails_is_refused_with_file_and_remedy(
    tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(ArtifactError) as caught:
        choose(checkpoint(tmp_path, {"chat_template.jinja": text}))
    message = str(caught.value)
    assert reason in message and "chat_template.jinja" in message and "--chat-template" in message


def test_named_templates_give_their_default(tmp_path: Path) -> None:
    rows = [{"name": "tool_use", "template": TEXT}, {"name": "default", "template": GOOD}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": rows}))
    assert choose(tmp_path).template.text == GOOD


@pytest.mark.parametrize("value", [7, [], {}, [1], {"a": 1, "b": 2}, None, [{"name": "default"}]])
def test_odd_values_are_no_template(tmp_path: Path, value: object) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    assert stored_templates(tmp_path) == []


def test_a_damaged_template_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "chat_template.json").write_text("{")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": GOOD}))
    choice = choose(tmp_path)
    assert choice.template.source == "tokenizer_config.json"
    assert choice.notes[0].startswith("chat_template.json: the chat template cannot be read")


def test_a_template_that_takes_strings_where_there_is_no_image_gets_strings() -> None:
    text = GOOD.replace(
        "<{{ m.role }}>",
        "<{{ m.role }}>{% if m.role == 'system' %}{% set x = '' + m.content %}{% endif %}",
    )
    proof = prove(ChatTemplate("x", text), "<PIC>")
    assert proof.problem is None
    system = message_to_json(Message("system", ("Be brief.",)))
    user = message_to_json(Message("user", (0, "Left?")))
    rendered = proof.template.render([system, user], prompt=True)
    assert rendered.startswith("<system>Be brief.<end>") and rendered.count("<PIC>") == 1


def test_a_template_that_leaves_system_turns_out_is_noted(tmp_path: Path) -> None:
    text = GOOD.replace("m in messages", "m in messages if m.role != 'system'", 1)
    choice = choose(checkpoint(tmp_path, {"chat_template.jinja": text}))
    assert choice.notes == ("the chat template (chat_template.jinja) leaves system turns out",)


def test_a_date_in_each_prompt_is_noted(tmp_path: Path) -> None:
    text = "Today is {{ strftime_now('%d %B') }}.\n" + GOOD
    choice = choose(checkpoint(tmp_path, {"chat_template.jinja": text}))
    assert any("asks for the time" in note for note in choice.notes)


def test_a_refused_dialogue_names_the_file_and_quotes_no_text() -> None:
    text = GOOD.replace(
        "<end>", "{{ raise_exception('not ' ~ m.role) if m.role == 'system' }}<end>"
    )
    template = ChatTemplate("chat_template.jinja", text)
    with pytest.raises(
        InputError, match=r"chat_template\.jinja.* refuses this dialogue; "
    ) as caught:
        template.render([message_to_json(Message("system", ("a name",)))], prompt=True)
    assert "not system" not in str(caught.value)


def test_folders_are_compared_by_what_they_render(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
    checkpoint(tmp_path / "a", {"chat_template.jinja": GOOD, "tokenizer_config.json": TEXT})
    checkpoint(tmp_path / "b", {"chat_template.json": GOOD.replace("m.role", "m['role']")})
    checkpoint(tmp_path / "c", {"chat_template.json": ENGLISH})
    a, b, c, d = (rendered_dialogues(tmp_path / name) for name in ("a", "b", "c", "d"))
    assert a == b and a is not None and c not in (a, None) and d is None


def test_a_named_file_is_read_as_jinja_or_json(tmp_path: Path) -> None:
    (tmp_path / "a.jinja").write_text(GOOD)
    (tmp_path / "b.json").write_text(json.dumps({"chat_template": GOOD}))
    assert read_named_template(str(tmp_path / "a.jinja")).text == GOOD
    assert read_named_template(str(tmp_path / "b.json")).text == GOOD
    for bad in ("missing.jinja", "empty.jinja"):
        (tmp_path / "empty.jinja").write_text("")
        with pytest.raises(InputError, match=bad):
            read_named_template(str(tmp_path / bad))


def test_the_prompt_of_the_8b_card_is_included_with_its_fault() -> None:
    stored = read_named_template("lingshu_i_8b_card")
    proof = prove(ChatTemplate(stored.source, stored.text or ""), "<IMG_CONTEXT>")
    assert proof.problem is None
    rendered = proof.template.render([message_to_json(Message("user", (0, "Left?")))], prompt=True)
    assert rendered == (
        "<|im_start|>system\n<|im_end|>\nuser\n<IMG_CONTEXT>\nLeft?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
