"""Reading questions off an image: exam text is drawn, and a teacher's reasoning is kept where its
answer is the gold exactly.

The paper's synthesis B (section 2.2.2). The teacher sees the question as text and never the gold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lingshu.core.errors import ConfigError
from lingshu.core.response_format import json_format, one_response
from lingshu.core.step_types import Pixels, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import (
    build_request,
    derive_sample,
    load_prompts,
    qa_messages,
    seeded_choice,
)
from lingshu.core.types import Drop, Image, Sample
from lingshu.imaging.read import png_bytes
from lingshu.ops._qa_items import qa_item
from lingshu.ops._sample_fields import require

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

KIND = "ocr_exam"
INSTRUCTIONS = (
    "Explain and answer the question in the image.",
    "Read the question in the picture, work it out and give the answer.",
    "The image holds an exam question. Solve it and explain how.",
    "Answer the pictured question with a short explanation.",
)
_LINE_HEIGHT, _MARGIN = 1.4, 1.0  # of the font size
MAX_LINES = 120


@dataclass(frozen=True)
class Solution:
    """What the teacher replies."""

    reasoning: str
    answer: str


def step(
    *,
    font: str | None = None,
    font_size: int = 20,
    width: int = 672,
    prompt_file: str | None = None,
    seed: int = 0,
) -> TeacherStep:
    """Draw every question and answer it with the teacher's reasoning.

    Args:
        font: a TrueType or OpenType file; by default the one that Pillow brings, which has Latin
            letters only.
        font_size: in pixels.
        width: of the drawn image, in pixels.
        prompt_file: other prompts, with the sections of this step's own.
        seed: chooses the wording of the instruction.

    Drops: has_images, several_turns, no_gold, no_glyph (the font lacks a character), too_long,
    wrong_answer.
    """
    require(
        8 <= font_size <= 96, f"ocr_exam: font_size is {font_size}; it must lie between 8 and 96."
    )
    require(
        width >= 8 * font_size,
        f"ocr_exam: width {width} holds no line at font_size {font_size}; make it wider.",
    )
    prompts, response_format = load_prompts(KIND, prompt_file), json_format(Solution)
    loaded_font = _load_font(font, font_size)

    def dialogue(sample: Sample, _: Pixels) -> TeacherDialogue:
        item = qa_item(sample)
        if sample.images or isinstance(item, str):
            return Drop(sample.id, "has_images" if sample.images else str(item))
        missing = _missing_glyph(item.question, loaded_font)
        lines = _wrap_text(item.question, loaded_font, width - 2 * int(_MARGIN * font_size))
        if missing or len(lines) > MAX_LINES:
            return Drop(
                sample.id,
                "no_glyph" if missing else "too_long",
                f"no glyph for {missing!r}" if missing else f"{len(lines)} lines",
            )
        prompt = prompts.render(
            "solve", question=item.question, form=prompts.sections[item.format_section]
        )
        solution = yield from one_response(build_request(sample, prompt, response_format))
        if not solution.reasoning.strip() or not item.matches_exactly(solution.answer):
            return Drop(sample.id, "wrong_answer", "the answer is not the gold")
        answer = f"{solution.reasoning.strip()}\n\n### Final Answer: {item.gold}"
        return derive_sample(
            sample,
            KIND,
            messages=qa_messages(seeded_choice(INSTRUCTIONS, sample.id, seed), answer, 1),
            images=(Image(data=_render_text(lines, loaded_font, width)),),
            gold=item.sample.gold,
            meta=replace(sample.meta, modality=sample.meta.modality or "text image"),
        )

    return TeacherStep(KIND, dialogue, prompts.tag)


def _load_font(path: str | None, size: int) -> FreeTypeFont:
    from PIL import ImageFont

    try:
        font = ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)
    except OSError as error:
        raise ConfigError(
            f"ocr_exam: font {path} cannot be read; give a TrueType or OpenType file."
        ) from error
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _missing_glyph(text: str, font: FreeTypeFont) -> str:
    """The first character that the font draws as it draws what it does not have."""
    placeholder = _glyph_bitmap("\U0010fffe", font)
    return next(
        (
            c
            for c in dict.fromkeys(text)
            if not c.isspace() and _glyph_bitmap(c, font) == placeholder
        ),
        "",
    )


def _glyph_bitmap(character: str, font: FreeTypeFont) -> bytes:
    from PIL import Image as Pictures
    from PIL import ImageDraw

    side = 2 * int(font.size)
    image = Pictures.new("L", (side, side))
    ImageDraw.Draw(image).text((0, 0), character, fill=255, font=font)
    return image.tobytes()


def _wrap_text(text: str, font: FreeTypeFont, width: int) -> list[str]:
    """The text in lines of at most `width` pixels; a word that is wider is cut."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split(" "):
            candidate = f"{line} {word}" if line else word
            if font.getlength(candidate) <= width:
                line = candidate
                continue
            if line:
                lines.append(line)
            while word and font.getlength(word) > width:
                n_characters = next(
                    n
                    for n in range(len(word), 0, -1)
                    if n == 1 or font.getlength(word[:n]) <= width
                )
                lines.append(word[:n_characters])
                word = word[n_characters:]
            line = word
        lines.append(line)
    return lines


def _render_text(lines: Sequence[str], font: FreeTypeFont, width: int) -> bytes:
    from PIL import Image as Pictures
    from PIL import ImageDraw

    size = int(font.size)
    margin, line_spacing = int(_MARGIN * size), int(_LINE_HEIGHT * size)
    image = Pictures.new("RGB", (width, 2 * margin + line_spacing * len(lines)), "white")
    draw = ImageDraw.Draw(image)
    for index, line in enumerate(lines):
        draw.text((margin, margin + index * line_spacing), line, fill="black", font=font)
    return png_bytes(image)
