"""Reading questions off an image: exam text is drawn, and a teacher's reasoning is kept where its
answer is the gold exactly.

The paper's synthesis B (section 2.2.2). The teacher sees the question as text and never the gold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lingshu.core.errors import ConfigError
from lingshu.core.forms import json_form, one
from lingshu.core.nouns import Drop, Image, Sample
from lingshu.core.steps import Pixels, Talk, TeacherStep
from lingshu.imaging.read import png_bytes
from lingshu.ops._exam import item_of
from lingshu.ops._facts import require
from lingshu.ops._teaching import choose, dialogue, prompts, request, synthetic

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

KIND = "ocr_exam"
ASKED = (
    "Explain and answer the question in the image.",
    "Read the question in the picture, work it out and give the answer.",
    "The image holds an exam question. Solve it and explain how.",
    "Answer the pictured question with a short explanation.",
)
_LINE_HEIGHT, _MARGIN = 1.4, 1.0  # of the font size
MOST_LINES = 120


@dataclass(frozen=True)
class Solved:
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
    told, form = prompts(KIND, prompt_file), json_form(Solved)
    letters = _font(font, font_size)

    def talk(sample: Sample, _: Pixels) -> Talk:
        item = item_of(sample)
        if sample.images or isinstance(item, str):
            return Drop(sample.id, "has_images" if sample.images else str(item))
        missing = _missing(item.question, letters)
        lines = _lines(item.question, letters, width - 2 * int(_MARGIN * font_size))
        if missing or len(lines) > MOST_LINES:
            return Drop(
                sample.id,
                "no_glyph" if missing else "too_long",
                f"no glyph for {missing!r}" if missing else f"{len(lines)} lines",
            )
        ask = told.fill("solve", question=item.question, form=told.parts[item.form])
        found = yield from one(request(sample, ask, form))
        if not found.reasoning.strip() or not item.exactly(found.answer):
            return Drop(sample.id, "wrong_answer", "the answer is not the gold")
        answer = f"{found.reasoning.strip()}\n\n### Final Answer: {item.gold}"
        return synthetic(
            sample,
            KIND,
            messages=dialogue(choose(ASKED, sample.id, seed), answer, 1),
            images=(Image(data=_drawn(lines, letters, width)),),
            gold=item.sample.gold,
            meta=replace(sample.meta, modality=sample.meta.modality or "text image"),
        )

    return TeacherStep(KIND, talk, told.tag)


def _font(path: str | None, size: int) -> FreeTypeFont:
    from PIL import ImageFont

    try:
        found = ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)
    except OSError as error:
        raise ConfigError(
            f"ocr_exam: font {path} cannot be read; give a TrueType or OpenType file."
        ) from error
    assert isinstance(found, ImageFont.FreeTypeFont)
    return found


def _missing(text: str, letters: FreeTypeFont) -> str:
    """The first character that the font draws as it draws what it does not have."""
    hollow = _shape("\U0010fffe", letters)
    return next(
        (c for c in dict.fromkeys(text) if not c.isspace() and _shape(c, letters) == hollow), ""
    )


def _shape(character: str, letters: FreeTypeFont) -> bytes:
    from PIL import Image as Pictures
    from PIL import ImageDraw

    side = 2 * int(letters.size)
    square = Pictures.new("L", (side, side))
    ImageDraw.Draw(square).text((0, 0), character, fill=255, font=letters)
    return square.tobytes()


def _lines(text: str, letters: FreeTypeFont, width: int) -> list[str]:
    """The text in lines of at most `width` pixels; a word that is wider is cut."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if letters.getlength(longer) <= width:
                line = longer
                continue
            if line:
                lines.append(line)
            while word and letters.getlength(word) > width:
                fits = next(
                    n
                    for n in range(len(word), 0, -1)
                    if n == 1 or letters.getlength(word[:n]) <= width
                )
                lines.append(word[:fits])
                word = word[fits:]
            line = word
        lines.append(line)
    return lines


def _drawn(lines: Sequence[str], letters: FreeTypeFont, width: int) -> bytes:
    from PIL import Image as Pictures
    from PIL import ImageDraw

    size = int(letters.size)
    margin, pitch = int(_MARGIN * size), int(_LINE_HEIGHT * size)
    picture = Pictures.new("RGB", (width, 2 * margin + pitch * len(lines)), "white")
    pen = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        pen.text((margin, margin + number * pitch), line, fill="black", font=letters)
    return png_bytes(picture)
