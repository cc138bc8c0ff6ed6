"""Made-up questions of the shape of a benchmark, so that every one of them can be run without its
data.

Images are drawn phantoms; texts speak of invented places. Nothing is taken from any benchmark.
Licence: Apache-2.0 (made by this package).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
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
_CITIES = (
    "Aldmere",
    "Brint",
    "Corvale",
    "Dunmoor",
    "Elstow",
    "Farrow",
    "Gleam",
    "Holt",
    "Imber",
    "Jarrow",
    "Kest",
    "Lorn",
)
_COLORS = (
    "red",
    "blue",
    "green",
    "yellow",
    "black",
    "white",
    "brown",
    "grey",
    "violet",
    "orange",
    "pink",
    "silver",
)
_ZH_CITIES = ("青石", "云溪", "白塔", "长桥", "北泉", "南浦")
_ZH_COLORS = ("红色", "蓝色", "绿色", "黄色", "黑色", "白色", "灰色", "紫色", "橙色", "粉色")
_COLORS_BY_LANGUAGE = {"en": _COLORS, "zh": _ZH_COLORS}
_RUBRIC = (
    {"criterion": "Says that the place is made up", "points": 5, "tags": ["axis:accuracy"]},
    {
        "criterion": "Asks why the person wants to know",
        "points": 3,
        "tags": ["axis:context_awareness"],
    },
    {
        "criterion": "Names a country that the place lies in",
        "points": -4,
        "tags": ["axis:accuracy"],
    },
)
SyntheticRows = Callable[[int], list[Sample]]


def text_choice_samples(
    n_options: int, *, language: str = "en", multi_choice: bool = False, **extra: str
) -> SyntheticRows:
    """Eight questions with `options` choices; with `multi_choice`, every fourth asks for all right ones."""
    return partial(_text_choice_samples, n_options, language, multi_choice, extra)


def image_samples(
    *kinds: str, n_images: int = 1, n_options: int = 4, language: str = "en", **extra: str
) -> SyntheticRows:
    """Two pictures (or two sets of up to `images`) with one question of each kind: choice, yes_no,
    closed, open or report.
    """
    return partial(_image_samples, kinds, n_images, n_options, language, extra)


def yes_no_maybe_samples(seed: int) -> list[Sample]:
    """Six questions about a context, answered by yes, no or maybe."""
    samples = []
    for index, answer in enumerate(("yes", "no", "maybe") * 2):
        city = _CITIES[(seed + index) % len(_CITIES)]
        status = {"yes": "is open", "no": "is closed", "maybe": "was not looked for"}[answer]
        context = f"The ward of {city} {status}."
        question = with_choices(
            f"Context: {context}\n\nIs the ward of {city} open?", ("yes", "no", "maybe")
        )
        extra = {"context": context}
        gold = LETTERS[("yes", "no", "maybe").index(answer)]
        samples.append(
            _sample(
                f"twin-{index}",
                question,
                gold,
                kind="choice",
                choices=("yes", "no", "maybe"),
                extra=extra,
            )
        )
    return samples


def rubric_samples(seed: int) -> list[Sample]:
    """Two dialogues, the second in Chinese, with criteria for a judge, and no gold."""
    extra = {"rubrics": json.dumps(_RUBRIC), "theme": SYNTHETIC_SOURCE}
    english = f"What do you know of {_CITIES[seed % len(_CITIES)]}?"
    chinese = f"你知道{_ZH_CITIES[seed % len(_ZH_CITIES)]}吗？"
    return [
        _sample("twin-0", english, None, kind="rubric", extra=extra),
        _sample("twin-1", chinese, None, kind="rubric", language="zh", extra=extra),
    ]


def _text_choice_samples(
    n_options: int, language: str, multi_choice: bool, extra: Mapping[str, str], seed: int
) -> list[Sample]:
    rng = np.random.default_rng([seed, n_options])
    return [
        _text_choice_sample(index, n_options, language, multi_choice and index % 4 == 3, extra, rng)
        for index in range(8)
    ]


def _text_choice_sample(
    index: int,
    n_options: int,
    language: str,
    multi_choice: bool,
    extra: Mapping[str, str],
    rng: np.random.Generator,
) -> Sample:
    choices = tuple(str(c) for c in rng.permutation(_COLORS_BY_LANGUAGE[language])[:n_options])
    cities = _CITIES if language == "en" else _ZH_CITIES
    city = cities[int(rng.integers(len(cities)))]
    correct_indices = sorted(rng.permutation(n_options)[: 2 if multi_choice else 1].tolist())
    colors = [choices[i] for i in correct_indices]
    if language == "zh":
        question = f"{city}医院的门是{'和'.join(colors)}的。{city}医院的门是什么颜色？"
    else:
        question = (
            f"The doors of the clinic in {city} are {' and '.join(colors)}. Which colour do they"
            " have?"
        )
    gold = "".join(LETTERS[i] for i in correct_indices)
    if multi_choice:
        extra = {**extra, "multi_choice": "yes"}
        return _sample(
            f"twin-{index}",
            with_choices(question, choices),
            gold,
            kind="closed",
            language=language,
            extra=extra,
        )
    return _sample(
        f"twin-{index}",
        with_choices(question, choices),
        gold,
        kind="choice",
        choices=choices,
        language=language,
        extra=extra,
    )


def _image_samples(
    kinds: tuple[str, ...],
    n_images: int,
    n_options: int,
    language: str,
    extra: Mapping[str, str],
    seed: int,
) -> list[Sample]:
    return [
        sample
        for index in range(2)
        for sample in _image_questions(
            kinds, n_images - index % max(n_images, 1), n_options, language, extra, seed, index
        )
    ]


def _image_questions(
    kinds: tuple[str, ...],
    n_images: int,
    n_options: int,
    language: str,
    extra: Mapping[str, str],
    seed: int,
    index: int,
) -> Iterator[Sample]:
    phantoms = [
        draw_phantom(seed, "validation", index * 8 + i, side=56) for i in range(max(n_images, 1))
    ]
    images = tuple(Image(data=encode_png(rendered.pixels)) for rendered in phantoms)
    questions = _ZH_QUESTIONS if language == "zh" else _EN_QUESTIONS
    rng = np.random.default_rng([seed, index, n_options])
    for kind in kinds:
        shared_meta: dict[str, Any] = {
            "group": f"twin-{seed}-{index}",
            "modality": phantoms[0].modality,
        }
        choices: tuple[str, ...] = ()
        if kind == "choice":
            distractors = [
                m for m in rng.permutation(MODALITIES).tolist() if m != phantoms[0].modality
            ][: n_options - 1]
            choices = tuple(str(c) for c in rng.permutation([phantoms[0].modality, *distractors]))
            question, gold = questions["choice"], LETTERS[choices.index(phantoms[0].modality)]
        elif kind == "multi_choice":
            yield _multi_choice_sample(
                phantoms[0],
                images,
                f"twin-{index}-{kind}",
                {**extra, "multi_choice": "yes"},
                shared_meta,
            )
            continue
        else:
            question, gold = questions[kind], _answer(phantoms[0], kind, language)
        yield _sample(
            f"twin-{index}-{kind}-{language}", with_choices(question, choices), gold,
            kind=kind, choices=choices, images=images, language=language, extra=extra, **shared_meta,
        )  # fmt: skip


def _multi_choice_sample(
    rendered: Phantom,
    images: tuple[Image, ...],
    name: str,
    extra: Mapping[str, str],
    shared_meta: Mapping[str, Any],
) -> Sample:
    options = (
        rendered.modality,
        "lesion" if rendered.lesions else "no lesion",
        "a bicycle",
        "a teapot",
    )
    question = with_choices("Which of these does the image show?", options)
    return _sample(name, question, "AB", kind="closed", images=images, extra=extra, **shared_meta)


_EN_QUESTIONS = {
    "choice": "Which modality is the first image?",
    "yes_no": "Is there a lesion in the first image?",
    "closed": "How many lesions does the first image show?",
    "open": "What does the first image show?",
    "report": "Write a report of the image.",
}
_ZH_QUESTIONS = {
    "yes_no": "图中有病灶吗？",
    "closed": "图中有几个病灶？",
    "open": "图中的病灶有几个？",
}


def _answer(rendered: Phantom, kind: str, language: str) -> str:
    if kind == "yes_no":
        return (
            ("Yes" if rendered.lesions else "No")
            if language == "en"
            else ("是" if rendered.lesions else "否")
        )
    if kind == "closed" or language == "zh":
        return str(len(rendered.lesions))
    return phantom.report_text(rendered) if kind == "report" else phantom.describe_lesions(rendered)


def _sample(
    sample_id: str,
    question: str,
    gold: str | None,
    *,
    kind: str,
    choices: tuple[str, ...] = (),
    images: tuple[Image, ...] = (),
    language: str = "en",
    extra: Mapping[str, str] | None = None,
    **meta_fields: Any,
) -> Sample:
    meta = Meta(
        source=SYNTHETIC_SOURCE,
        license="Apache-2.0",
        access="open",
        deidentified=True,
        language=language,
        kind=kind,
        extra=extra or {},
        **meta_fields,
    )
    return Sample(
        sample_id,
        (user_turn(question, len(images)),),
        images,
        None if gold is None else (gold,),
        choices,
        meta,
    )


def concatenate(*generators: SyntheticRows) -> SyntheticRows:
    """The samples of several twins, as of a benchmark in two languages."""
    return partial(_concatenate, generators)


def _concatenate(generators: tuple[SyntheticRows, ...], seed: int) -> list[Sample]:
    return [sample for generator in generators for sample in generator(seed)]
