"""Quality of the curation steps that judge: language, identifiers, burned-in text, modality.

    python bench/curation_quality.py DATA [OTHERS]

DATA holds the folders of images and texts that are named below, each with rows.jsonl; OTHERS is a
folder of pictures that are of no modality the head knows (the figures in the tables: 26 of
scikit-image's data folder). Names, numbers and addresses that are planted are made of random
syllables and digits.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from _record import record, table
from numpy.typing import NDArray
from PIL import Image as PIL
from PIL import ImageDraw, ImageFont

from lingshu.core.files import read_json
from lingshu.core.types import Image
from lingshu.deidentify.overlay_text import find_text_lines
from lingshu.deidentify.scrub import scrub
from lingshu.imaging.cache import ImageCache
from lingshu.ops import tag_modality
from lingshu.ops.language import detect_language
from lingshu.ops.tag_modality import image_features

Rows = list[dict]
# slice -> language of its texts, the fields that are joined, and whether the word lists were made
# with it in view.
TEXTS: dict[str, tuple[str, tuple[str, ...], bool]] = {
    "pmcoa_captions": ("en", ("report", "question"), True), "roco_captions_ccby": ("en", ("caption",), True),
    "iuxray_reports": ("en", ("report",), True), "vqa_rad": ("en", ("question",), True),
    "corpus_medical_meadow_small": ("en", ("input", "output"), True), "corpus_huatuo_llama_zh": ("zh", ("instruction", "output"), True),
    "corpus_liver_cancer_zh": ("zh", ("instruction", "output"), True), "medxpertqa_mm": ("en", ("question",), False),
    "pathvqa_text": ("en", ("questions", "Questions"), False), "pubmedqa_labeled": ("en", ("QUESTION",), False),
    "vqamed2019_test_text": ("en", ("question",), False), "text_mcq_benchmarks": ("en", ("question",), False),
    "llavamed_probe_outputs": ("en", ("question", "pred"), False),
}  # fmt: skip
OTHER_LANGUAGES = (
    "Das Röntgenbild zeigt eine Verschattung im rechten Unterlappen.", "Kein Nachweis einer Fraktur oder eines Ergusses.",
    "La radiographie montre une opacité du lobe inférieur droit.", "Absence de fracture visible sur ce cliché.",
    "La radiografía muestra una opacidad en el lóbulo inferior derecho.", "No se observan fracturas ni derrame pleural.",
    "La radiografia mostra un'opacità nel lobo inferiore destro.", "Non si osservano fratture né versamento pleurico.",
    "A radiografia mostra uma opacidade no lobo inferior direito.", "Não há sinais de fratura ou derrame pleural.",
    "De röntgenfoto toont een verdichting in de rechter onderkwab.", "Er is geen fractuur of pleuravocht zichtbaar.",
    "Zdjęcie pokazuje zacienienie w prawym dolnym płacie i nie ma złamania.",
    "Röntgenbilden visar en förtätning i höger underlob och ingen fraktur.",
    "Akciğer grafisinde sağ alt lobda opasite izlenmektedir ve kırık yoktur.",
    "Phim chụp cho thấy đám mờ ở thùy dưới phổi phải và không có gãy xương.",
    "Foto menunjukkan kekeruhan di lobus kanan bawah dan tidak ada fraktur.", "Рентгенограмма показывает затемнение в нижней доле справа.",
    "胸部X線写真で右下葉に浸潤影を認めるが、骨折はない。", "흉부 X선 사진에서 우하엽에 음영이 보인다.",
    "تظهر الأشعة عتامة في الفص السفلي الأيمن.",
    "एक्स-रे में दाहिने निचले लोब में धुंधलापन दिखता है।", "ภาพเอกซเรย์พบความทึบที่กลีบล่างขวา",
    "Η ακτινογραφία δείχνει σκίαση στον δεξιό κάτω λοβό.",
)  # fmt: skip
# Pictures of the ultrasound folder with words in them, and those that are neither plain nor sure
# (callipers, marks, cut letters).
WITH_TEXT = (
    "benign 134 204 207 209 210 228 241 243 257 262 266 274 293 318 319 320 367 410 malignant 10"
    " 139 143 2 53 normal 31"
)
UNCERTAIN = (
    "benign 19 202 208 239 242 302 305 222 22 246 253 261 265 267 270 271 281 285 286 112 117 120"
    " 219 23 173 178 326 9 342 392 82 98 102 140 malignant 106 107 108 114 122 123 128 131 145 14"
    " 163 201 208 67 77 78 194 164 159 normal 77 114"
)
GLYPHS = 5


def rows(data: Path, name: str) -> Rows:
    return [
        json.loads(line)
        for line in (data / name / "rows.jsonl").read_text(encoding="utf-8").split("\n")
        if line
    ]


def join_fields(row: dict, names: Iterable[str]) -> str:
    values = (row.get(name) or "" for name in names)
    return "\n".join(
        value if isinstance(value, str) else " ".join(map(str, value)) for value in values
    )


def languages(data: Path) -> str:
    lines_ = []
    for name, (truth, fields, seen) in TEXTS.items():
        counts = Counter(
            detect_language(text)
            for row in rows(data, name)
            if (text := join_fields(row, fields)).strip()
        )
        n = counts.total()
        lines_.append(
            [
                name + ("" if seen else " (unseen)"),
                truth,
                str(n),
                *(
                    share(k, n)
                    for k in (counts[truth], counts[None], n - counts[truth] - counts[None])
                ),
            ]
        )
    counts = Counter(detect_language(text) for text in OTHER_LANGUAGES)
    n = len(OTHER_LANGUAGES)
    lines_.append(
        [
            "invented sentences, 20 languages",
            "other",
            str(n),
            *(
                share(k, n)
                for k in (counts["other"], counts[None], n - counts["other"] - counts[None])
            ),
        ]
    )
    return table(["texts", "language", "n", "right (%)", "abstained (%)", "wrong (%)"], lines_)


def share(part: int, total: int) -> str:
    return f"{100 * part / total:.1f}" if total else "-"


# --- identifiers
# -----------------------------------------------------------------------------------------------------


def make_identifiers(rng: random.Random) -> dict[str, list[str]]:
    """Kind -> short texts around one synthetic identifier `{}`-free; what is in « » must be gone
    afterwards.
    """

    def name() -> str:
        return "".join(
            rng.choice(("ba", "do", "ri", "len", "mo", "sha", "tev", "kul", "nor", "wik"))
            for _ in range(2)
        ).capitalize()

    def digits(n: int) -> str:
        return "".join(rng.choice("123456789") for _ in range(n))

    year, month, day = rng.randint(1950, 2025), rng.randint(1, 12), rng.randint(1, 28)
    word = (
        "January",
        "February",
        "March",
        "April",
        "June",
        "July",
        "August",
        "October",
        "November",
        "December",
    )[rng.randint(0, 9)]
    surname = rng.choice("王李张刘陈杨赵黄吴徐孙朱")
    given = rng.choice(("建国", "小明", "丽华", "伟"))
    return {
        "name after a title": [f"Seen by Dr. «{name()} {name()}» today.", f"Mrs «{name()}» was admitted.",
        f"Prof. «{name()[0]}. {name()}» reviewed it."],
        "name after a label": [f"Patient Name: «{name()} {name()}»", f"Signed by: «{name()} {name()}», MD",
        f"Referring physician: «{name()} {name()}»", f"«{name().upper()}^{name().upper()}»"],
        "bare name": [f"We informed «{name()} {name()}» of the result."],
        "forms that no rule describes": [
            f"seen by dr. «{name().lower()}» today",
            f"her daughter «{name()}» came along",
            f"stored under «{digits(8)}» in the archive",
            f"seen on «{day}-{month}-{year % 100:02}» again",
        ],
        "date": [f"CT of «{year}-{month:02}-{day:02}».", f"On «{month}/{day}/{year}» the chest", f"dated «{day} {word} {year}»",
        f"«{word} {day}, {year}»: stable", f"«{day}.{month:02}.{year}»"],
        "phone": [f"Call «{digits(3)}-{digits(3)}-{digits(4)}».", f"Tel: «+44 20 {digits(4)} {digits(4)}»",
        f"phone «({digits(3)}) {digits(3)}-{digits(4)}»"],
        "mail or URL": [f"Write to «{name().lower()}@{name().lower()}.org».", f"See «https://{name().lower()}.com/{digits(4)}»"],
        "record number": [f"MRN: «{digits(8)}»", f"Accession number «A{digits(7)}»", f"Patient ID «{digits(6)}»",
        f"SSN «{digits(3)}-{digits(2)}-{digits(4)}»"],
        "age above 89": [f"A «{rng.randint(90, 105)}»-year-old man", f"aged «{rng.randint(90, 105)}», with"],
        "street address": [f"lives at «{digits(2)} {name()} Street», alone",
        f"of «{digits(3)} {name()} {name()} Avenue, {name()}, MA 0{digits(4)}»"],
        "Chinese name": [f"姓名：«{surname}{given}»，男", f"«{surname}»医生会诊", f"«{surname}{given}»主任医师"],
        "Chinese number or date": [f"手机«13{digits(9)}»", f"住院号：«{digits(8)}»", f"«{year}年{month}月{day}日»入院",
        f"身份证«11010{digits(1)}19800101{digits(4)}»"],
    }  # fmt: skip


def identifiers(data: Path) -> tuple[str, str]:
    rng = random.Random(0)
    found: Counter[str] = Counter()
    n_planted: Counter[str] = Counter()
    for _ in range(200):
        for kind, identifiers_of_kind in make_identifiers(rng).items():
            for text in identifiers_of_kind:
                secret = text[text.index("«") + 1 : text.index("»")]
                n_planted[kind] += 1
                left = scrub(text.replace("«", "").replace("»", "")).text
                # Gone means: neither it nor a word of it is left (for a name every part counts).
                found[kind] += not any(
                    part in left for part in (secret.split() if "name" in kind else [secret])
                )
    recall = table(
        ["planted identifier", "n", "removed (%)"],
        [[kind, str(n), share(found[kind], n)] for kind, n in n_planted.items()],
    )
    lines_ = []
    for name in (
        "pmcoa_captions",
        "roco_captions_ccby",
        "iuxray_reports",
        "corpus_medical_meadow_small",
        "text_mcq_benchmarks",
        "pubmedqa_labeled",
        "corpus_huatuo_llama_zh",
    ):
        fields = {
            "text_mcq_benchmarks": ("question", "options"),
            "pubmedqa_labeled": ("CONTEXTS", "LONG_ANSWER"),
        }.get(name) or TEXTS[name][1]
        kinds: Counter[str] = Counter()
        words = 0
        for row in rows(data, name):
            text = join_fields(row, fields)
            words += len(text.split()) if TEXTS[name][0] == "en" else len(text) // 2
            kinds += scrub(text).counts
        summary = ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items())) or "none"
        lines_.append([name, f"{words:,}", summary])
    return recall, table(["real text", "words", "placeholders set"], lines_)


# --- burned-in text
# --------------------------------------------------------------------------------------------------


def image_names(names: str) -> set[str]:
    found, kind = set(), ""
    for word in names.split():
        if word.isalpha():
            kind = word
        else:
            found.add(f"{kind}_{word}_")
    return found


def with_overlay_text(gray: NDArray[np.uint8], number: int, size: int) -> NDArray[np.uint8]:
    """One line of type near an edge, in white or gray, in black where the picture is bright."""
    if max(gray.shape) < 200:
        gray = np.asarray(cv2.resize(gray, (256, 256), interpolation=cv2.INTER_CUBIC), np.uint8)
    height, width = gray.shape
    text = ("SAMPLE^ONE 1961-04-03", "ID 00482913", "St. Test Hospital", "12:44:03 F 058Y")[
        number % 4
    ]
    image = PIL.fromarray(gray)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size)
    length = int(pen.textlength(text, font=font))
    x = 4 if number % 2 else max(0, width - length - 6)
    y = height - size - 8 if number % 3 else 6
    background = np.asarray(image)[y : y + size + 4, x : x + length].mean()
    pen.text((x, y), text, fill=0 if background > 140 else (255, 225)[number // 4 % 2], font=font)
    return np.asarray(image)


def burned_in(data: Path) -> str:
    def gray(path: Path) -> NDArray[np.uint8]:
        with ImageCache() as image_cache:
            return image_cache.gray(Image(path=str(path)))

    def middle(path: Path) -> NDArray[np.uint8]:
        pixels = gray(path)
        h, w = pixels.shape
        return np.ascontiguousarray(pixels[h // 5 : h - h // 5, w // 5 : w - w // 5])

    def images(name: str) -> list[Path]:
        return sorted((data / name / "images").iterdir())

    busi, with_text, uncertain = (
        images("busi_ultrasound"),
        image_names(WITH_TEXT),
        image_names(UNCERTAIN),
    )
    plain = [path for path in busi if path.stem not in with_text | uncertain]
    cases: list[tuple[str, str, list[Path], Callable[[Path], NDArray[np.uint8]]]] = [
        ("ultrasound without text (checked by eye)", "none", plain, gray),
        ("blood smears", "none", images("bccd_blood_smear"), gray),
        ("chest X-rays of 28 pixels", "none", images("pneumoniamnist_cxr"), gray),
        ("middle 36 % of radiology images", "none", images("vqa_rad"), middle),
        (
            "ultrasound with words (checked by eye)",
            "real",
            [path for path in busi if path.stem in with_text],
            gray,
        ),
        ("radiology images with the archive's mark", "real", images("vqa_rad"), gray),
    ]
    lines_ = [
        [what, kind, str(len(paths)), share(sum(map(has_text, map(open_, paths))), len(paths))]
        for what, kind, paths, open_ in cases
    ]
    for what, paths, open_ in (
        ("ultrasound", plain, gray),
        ("blood smears", images("bccd_blood_smear"), gray),
        ("middle of radiology images", images("vqa_rad"), middle),
    ):
        for size in (9, 11, 14, 20):
            held = sum(
                has_text(with_overlay_text(open_(path), number, size))
                for number, path in enumerate(paths)
            )
            lines_.append(
                [
                    f"{what}, one line of {size} pixels rendered in",
                    "rendered",
                    str(len(paths)),
                    share(held, len(paths)),
                ]
            )
    return table(["images", "text", "n", "held back (%)"], lines_)


def has_text(gray: NDArray[np.uint8]) -> bool:
    return bool(find_text_lines(gray, min_glyphs=GLYPHS))


# --- modality
# --------------------------------------------------------------------------------------------------------


def modality(others: Path | None) -> str:
    held_out = read_json(tag_modality.DEFAULT_HEAD)["held_out"]
    lines_ = []
    for name, found in held_out.items():
        if name != "images":
            n, tagged = found["n"], found["tagged"]
            lines_.append(
                [
                    name,
                    str(n),
                    share(found["right"], n),
                    share(tagged, n),
                    share(found["tagged_right"], tagged),
                ]
            )
    if others:
        head = tag_modality.load_classifier(tag_modality.DEFAULT_HEAD)
        with ImageCache() as image_cache:
            guesses = [
                head.predict(image_features(image_cache.rgb(Image(path=str(path)))))
                for path in image_files(others)
            ]
        tagged = sum(
            guess.probability >= head.min_probability and guess.ood_distance <= 1
            for guess in guesses
        )
        lines_.append(
            [
                "other (photographs, textures, fundus, histology)",
                str(len(guesses)),
                "-",
                share(tagged, len(guesses)),
                "0.0",
            ]
        )
    return table(
        [
            "held-out images",
            "n",
            "right if forced to choose (%)",
            "tagged (%)",
            "right of the tagged (%)",
        ],
        lines_,
    )


def image_files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.suffix in (".png", ".jpg"))


def main(data: Path, others: Path | None) -> None:
    recall, real = identifiers(data)
    images = read_json(tag_modality.DEFAULT_HEAD)["held_out"]["images"]
    record(
        "curation_quality",
        "Curation steps that judge",
        f"""**`language`**, by script and function words; it abstains rather than guess. The word
lists were written with these texts at hand, except for those marked unseen. The "wrong" ones in
ROCO are French captions, which the step identified correctly.

{languages(data)}

**`scrub_identifiers`**, synthetic identifiers, 200 of each form, most in forms that the rules
were written for, so the rows below 100 matter most. A bare name is not found, by design.
Most replacements in real text are correct (study periods in abstracts, titled persons in Chinese
case texts); drug doses, vertebral levels and stages stay.

{recall}

{real}

**`burned_in_text`**, pixels alone, for lines of {GLYPHS} or more glyphs.

{burned_in(data)}

**`tag_modality`**, built-in head: {images["train"]} images for training (each with 6 augmented
copies), {images["calibrate"]} to calibrate, {images["test"]} held out; no group in two splits, but
the same four sources: on another source expect lower figures, mostly through abstaining.

{modality(others)}""",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
