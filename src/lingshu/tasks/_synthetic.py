"""Synthetic questions of the form of a benchmark, so that every benchmark runs without its data.

Images are rendered phantoms; texts are about invented places. Nothing is taken from any benchmark.
License: Apache-2.0 (made by this package).
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from lingshu.core.messages import user_turn
from lingshu.core.rows import LETTERS, with_choices
from lingshu.core.types import Image, Meta, Sample
from lingshu.imaging.phantom import MODALITIES, Phantom, draw_phantom
from lingshu.imaging.read import encode_png
from lingshu.sources import phantom

SYNTHETIC_SOURCE = "made up"
_CITIES = {
    "en": "Aldmere Brint Corvale Dunmoor Elstow Farrow Gleam Holt Imber Jarrow Kest Lorn",
    "zh": "青石 云溪 白塔 长桥 北泉 南浦",
}
_COLORS = {
    "en": "red blue green yellow black white brown grey violet orange pink silver",
    "zh": "红色 蓝色 绿色 黄色 黑色 白色 灰色 紫色 橙色 粉色",
}
_COLOR_QUESTIONS = {
    "en": "The doors of the clinic in {0} are {1}. Which colour do they have?",
    "zh": "{0}医院的门是{1}的。{0}医院的门是什么颜色？",
}
_IMAGE_QUESTIONS = {
    "en": {
        "choice": "Which modality is the first image?",
        "yes_no": "Is there a lesion in the first image?",
        "closed": "How many lesions does the first image show?",
        "open": "What does the first image show?",
        "report": "Write a report of the image.",
        "multi_choice": "Which of these does the image show?",
    },
    "zh": {
        "yes_no": "图中有病灶吗？",
        "closed": "图中有几个病灶？",
        "open": "图中的病灶有几个？",
    },
}
_RUBRIC = (
    ("Says that the place is made up", 5, "axis:accuracy"),
    ("Asks why the person wants to know", 3, "axis:context_awareness"),
    ("Names a country that the place lies in", -4, "axis:accuracy"),
)
SyntheticRows = Callable[[int], list[Sample]]


def concatenate(*generators: SyntheticRows) -> SyntheticRows:
    """The samples of several generators, as of a benchmark in two languages."""
    return lambda seed: [sample for generator in generators for sample in generator(seed)]


def text_choice_samples(
    n_options: int, *, language: str = "en", multi_choice: bool = False, **extra: str
) -> SyntheticRows:
    """Eight questions with `n_options` options; with `multi_choice`, every fourth asks for all right ones."""

    def generate(seed: int) -> list[Sample]:
        rng = np.random.default_rng([seed, n_options])
        samples = []
        for index in range(8):
            asks_all = multi_choice and index % 4 == 3
            question, choices, gold = _color_question(rng, n_options, 1 + asks_all, language)
            name, fields = f"twin-{index}", {"language": language, "extra": extra}
            if asks_all:
                fields["extra"] = {**extra, "multi_choice": "yes"}
                samples.append(_sample(name, question, gold, "closed", **fields))
            else:
                samples.append(_sample(name, question, gold, "choice", choices, **fields))
        return samples

    return generate


def _color_question(
    rng: np.random.Generator, n_options: int, n_correct: int, language: str
) -> tuple[str, tuple[str, ...], str]:
    """A question, its options and the letters of the right ones."""
    choices = tuple(map(str, rng.permutation(_COLORS[language].split())[:n_options]))
    cities = _CITIES[language].split()
    city = cities[int(rng.integers(len(cities)))]
    correct = sorted(rng.permutation(n_options)[:n_correct].tolist())
    colors = (" and " if language == "en" else "和").join(choices[i] for i in correct)
    question = with_choices(_COLOR_QUESTIONS[language].format(city, colors), choices)
    return question, choices, "".join(LETTERS[i] for i in correct)


def yes_no_maybe_samples(seed: int) -> list[Sample]:
    """Six questions about a context, answered by yes, no or maybe."""
    answers = ("yes", "no", "maybe")
    statuses = {"yes": "is open", "no": "is closed", "maybe": "was not looked for"}
    cities, samples = _CITIES["en"].split(), []
    for index, answer in enumerate(answers * 2):
        city = cities[(seed + index) % len(cities)]
        context = f"The ward of {city} {statuses[answer]}."
        question = with_choices(f"Context: {context}\n\nIs the ward of {city} open?", answers)
        letter, extra = LETTERS[answers.index(answer)], {"context": context}
        samples.append(_sample(f"twin-{index}", question, letter, "choice", answers, extra=extra))
    return samples


def rubric_samples(seed: int) -> list[Sample]:
    """Two dialogues, the second in Chinese, with criteria for a judge and no gold."""
    rubric = [{"criterion": text, "points": n, "tags": [tag]} for text, n, tag in _RUBRIC]
    extra = {"rubrics": json.dumps(rubric), "theme": SYNTHETIC_SOURCE}
    city, zh_city = (
        cities[seed % len(cities)] for cities in (_CITIES["en"].split(), _CITIES["zh"].split())
    )
    return [
        _sample("twin-0", f"What do you know of {city}?", None, "rubric", extra=extra),
        _sample("twin-1", f"你知道{zh_city}吗？", None, "rubric", language="zh", extra=extra),
    ]


def image_samples(
    *kinds: str, n_images: int = 1, n_options: int = 4, language: str = "en", **extra: str
) -> SyntheticRows:
    """Two images, or sets of up to `n_images`, with a question of each kind (_IMAGE_QUESTIONS)."""

    def generate(seed: int) -> list[Sample]:
        return [sample for index in (0, 1) for sample in generate_set(seed, index)]

    def generate_set(seed: int, index: int) -> Iterator[Sample]:
        phantoms = [
            draw_phantom(seed, "validation", index * 8 + i, side=56)
            for i in range(max(n_images - index, 1))
        ]
        first, modality = phantoms[0], phantoms[0].modality
        rng = np.random.default_rng([seed, index, n_options])
        make_sample = partial(
            _sample,
            images=tuple(Image(data=encode_png(rendered.pixels)) for rendered in phantoms),
            group=f"twin-{seed}-{index}",
            modality=modality,
        )
        for kind in kinds:
            name, question, choices = f"twin-{index}-{kind}", _IMAGE_QUESTIONS[language][kind], ()
            if kind == "multi_choice":
                finding = "lesion" if first.lesions else "no lesion"
                question = with_choices(question, (modality, finding, "a bicycle", "a teapot"))
                flags = {**extra, "multi_choice": "yes"}
                yield make_sample(name, question, "AB", "closed", extra=flags)
                continue
            if kind == "choice":
                others = [each for each in rng.permutation(MODALITIES).tolist() if each != modality]
                options = [modality, *others[: n_options - 1]]
                choices = tuple(str(choice) for choice in rng.permutation(options))
                question = with_choices(question, choices)
                gold = LETTERS[choices.index(modality)]
            else:
                gold = _answer(first, kind, language)
            name, fields = f"{name}-{language}", {"language": language, "extra": extra}
            yield make_sample(name, question, gold, kind, choices, **fields)

    return generate


def _answer(rendered: Phantom, kind: str, language: str) -> str:
    if kind == "yes_no":
        answers = {"en": ("No", "Yes"), "zh": ("否", "是")}
        return answers[language][bool(rendered.lesions)]
    if kind == "closed" or language == "zh":
        return str(len(rendered.lesions))
    return phantom.report_text(rendered) if kind == "report" else phantom.describe_lesions(rendered)


def _sample(
    sample_id: str,
    question: str,
    gold: str | None,
    kind: str,
    choices: tuple[str, ...] = (),
    *,
    images: tuple[Image, ...] = (),
    **meta_fields: Any,
) -> Sample:
    fields = {"language": "en", "deidentified": True, "access": "open", **meta_fields}
    meta = Meta(source=SYNTHETIC_SOURCE, license="Apache-2.0", kind=kind, **fields)
    golds = None if gold is None else (gold,)
    return Sample(sample_id, (user_turn(question, len(images)),), images, golds, choices, meta)
