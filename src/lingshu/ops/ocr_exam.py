"""Questions to be read from an image: exam text is rendered, and a teacher's reasoning is kept where
its answer is exactly the gold.

The paper's synthesis B (section 2.2.2). The teacher sees the question as text and never the gold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lingshu.core.cached_client import json_format
from lingshu.core.errors import ConfigError
from lingshu.core.step_types import Pixels, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import derive_sample, qa_messages
from lingshu.core.types import Drop, Image, Sample
from lingshu.imaging.read import png_bytes
from lingshu.ops._sample_fields import check_range, require, seeded_instruction
from lingshu.ops._teacher import ask, qa_item, step_prompts

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

KIND = "ocr_exam"
_LINE_HEIGHT, _MARGIN = 1.4, 1.0  # of the font size
MAX_LINES = 120


@dataclass(frozen=True)
class Solution:
    """The teacher's reply."""

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
    """Render every question and answer it with the teacher's reasoning.

    Args:
        font: a TrueType or OpenType file; by default Pillow's own, which has Latin letters only.
        font_size: in pixels.
        width: of the rendered image, in pixels.
        prompt_file: custom prompts with the sections of this step's own.
        seed: chooses the wording of the instruction.

    Drops: has_images, several_turns, no_gold, no_glyph (the font lacks a character), too_long,
    wrong_answer.
    """
    check_range(KIND, 8, 96, font_size=font_size)
    require(
        width >= 8 * font_size,
        f"ocr_exam: width {width} holds no line at font_size {font_size}; make it wider.",
    )
    prompts, response_format = step_prompts(KIND, prompt_file), json_format(Solution)
    loaded_font = _load_font(font, font_size)

    def dialogue(sample: Sample, _: Pixels) -> TeacherDialogue:
        if sample.images:
            return Drop(sample.id, "has_images")
        item = qa_item(sample)
        if isinstance(item, Drop):
            return item
        missing = _missing_glyph(item.question, loaded_font)
        if missing:
            return Drop(sample.id, "no_glyph", f"no glyph for {missing!r}")
        lines = _wrap_text(item.question, loaded_font, width - 2 * int(_MARGIN * font_size))
        if len(lines) > MAX_LINES:
            return Drop(sample.id, "too_long", f"{len(lines)} lines")
        form = prompts.sections[item.format_section]
        prompt = prompts.render("solve", question=item.question, form=form)
        solution = yield from ask(sample, prompt, response_format)
        reasoning = solution.reasoning.strip()
        if not reasoning or not item.matches_exactly(solution.answer):
            return Drop(sample.id, "wrong_answer", "the answer is not the gold")
        answer = f"{reasoning}\n\n### Final Answer: {item.gold}"
        return derive_sample(
            item.sample,
            KIND,
            messages=qa_messages(seeded_instruction(KIND, sample, seed), answer, 1),
            images=(Image(data=_render_text(lines, loaded_font, width)),),
            meta=replace(sample.meta, modality=sample.meta.modality or "text image"),
        )

    return TeacherStep(KIND, dialogue, prompts.tag)


def _load_font(path: str | None, size: int) -> FreeTypeFont:
    from PIL import ImageFont

    try:
        font = ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)
    except OSError as error:
        problem = f"ocr_exam: font {path} cannot be read"
        raise ConfigError(f"{problem}; give a TrueType or OpenType file.") from error
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _missing_glyph(text: str, font: FreeTypeFont) -> str:
    """The first character that the font renders as it renders an unknown one."""
    unknown = _glyph_bitmap("\U0010fffe", font)
    characters = (c for c in dict.fromkeys(text) if not c.isspace())
    return next((c for c in characters if _glyph_bitmap(c, font) == unknown), "")


def _glyph_bitmap(character: str, font: FreeTypeFont) -> bytes:
    from PIL import Image as PillowImage
    from PIL import ImageDraw

    side = 2 * int(font.size)
    image = PillowImage.new("L", (side, side))
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
            while len(word) > 1 and font.getlength(word) > width:
                lengths = range(len(word), 1, -1)
                n_fit = next((n for n in lengths if font.getlength(word[:n]) <= width), 1)
                lines.append(word[:n_fit])
                word = word[n_fit:]
            line = word
        lines.append(line)
    return lines


def _render_text(lines: Sequence[str], font: FreeTypeFont, width: int) -> bytes:
    from PIL import Image as PillowImage
    from PIL import ImageDraw

    margin, line_spacing = int(_MARGIN * int(font.size)), int(_LINE_HEIGHT * int(font.size))
    image = PillowImage.new("RGB", (width, 2 * margin + line_spacing * len(lines)), "white")
    draw = ImageDraw.Draw(image)
    for index, line in enumerate(lines):
        draw.text((margin, margin + index * line_spacing), line, fill="black", font=font)
    return png_bytes(image)
