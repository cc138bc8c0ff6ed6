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
from lingshu.core.nouns import Image, Meta, Sample
from lingshu.core.rows import LETTERS, with_choices
from lingshu.imaging.read import encode_png
from lingshu.sources import phantom
from lingshu.sources._phantom_art import MODALITIES, Phantom, draw

TWIN = "made up"
_PLACES = (
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
_COLOURS = (
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
_ZH_PLACES = ("青石", "云溪", "白塔", "长桥", "北泉", "南浦")
_ZH_COLOURS = ("红色", "蓝色", "绿色", "黄色", "黑色", "白色", "灰色", "紫色", "橙色", "粉色")
_LETTERS_OF = {"en": _COLOURS, "zh": _ZH_COLOURS}
_CRITERIA = (
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
Twin = Callable[[int], list[Sample]]


def text_choices(
    options: int, *, language: str = "en", several: bool = False, **extra: str
) -> Twin:
    """Eight questions with `options` choices; with `several`, every fourth asks for all right ones."""
    return partial(_text_choices, options, language, several, extra)


def pictures(
    *kinds: str, images: int = 1, options: int = 4, language: str = "en", **extra: str
) -> Twin:
    """Two pictures (or two sets of up to `images`) with one question of each kind: choice, yes_no,
    closed, open or report.
    """
    return partial(_pictures, kinds, images, options, language, extra)


def yes_no_maybe(seed: int) -> list[Sample]:
    """Six questions about a context, answered by yes, no or maybe."""
    found = []
    for number, answer in enumerate(("yes", "no", "maybe") * 2):
        place = _PLACES[(seed + number) % len(_PLACES)]
        told = {"yes": "is open", "no": "is closed", "maybe": "was not looked for"}[answer]
        context = f"The ward of {place} {told}."
        question = with_choices(
            f"Context: {context}\n\nIs the ward of {place} open?", ("yes", "no", "maybe")
        )
        extra = {"context": context}
        gold = LETTERS[("yes", "no", "maybe").index(answer)]
        found.append(
            _sample(
                f"twin-{number}",
                question,
                gold,
                kind="choice",
                choices=("yes", "no", "maybe"),
                extra=extra,
            )
        )
    return found


def rubrics(seed: int) -> list[Sample]:
    """Two dialogues, the second in Chinese, with criteria for a judge, and no gold."""
    extra = {"rubrics": json.dumps(_CRITERIA), "theme": TWIN}
    english = f"What do you know of {_PLACES[seed % len(_PLACES)]}?"
    chinese = f"你知道{_ZH_PLACES[seed % len(_ZH_PLACES)]}吗？"
    return [
        _sample("twin-0", english, None, kind="rubric", extra=extra),
        _sample("twin-1", chinese, None, kind="rubric", language="zh", extra=extra),
    ]


def _text_choices(
    options: int, language: str, several: bool, extra: Mapping[str, str], seed: int
) -> list[Sample]:
    rng = np.random.default_rng([seed, options])
    return [
        _text_choice(number, options, language, several and number % 4 == 3, extra, rng)
        for number in range(8)
    ]


def _text_choice(
    number: int,
    options: int,
    language: str,
    several: bool,
    extra: Mapping[str, str],
    rng: np.random.Generator,
) -> Sample:
    choices = tuple(str(c) for c in rng.permutation(_LETTERS_OF[language])[:options])
    places = _PLACES if language == "en" else _ZH_PLACES
    place = places[int(rng.integers(len(places)))]
    right = sorted(rng.permutation(options)[: 2 if several else 1].tolist())
    said = [choices[i] for i in right]
    if language == "zh":
        question = f"{place}医院的门是{'和'.join(said)}的。{place}医院的门是什么颜色？"
    else:
        question = (
            f"The doors of the clinic in {place} are {' and '.join(said)}. Which colour do they"
            " have?"
        )
    gold = "".join(LETTERS[i] for i in right)
    if several:
        extra = {**extra, "several": "yes"}
        return _sample(
            f"twin-{number}",
            with_choices(question, choices),
            gold,
            kind="closed",
            language=language,
            extra=extra,
        )
    return _sample(
        f"twin-{number}",
        with_choices(question, choices),
        gold,
        kind="choice",
        choices=choices,
        language=language,
        extra=extra,
    )


def _pictures(
    kinds: tuple[str, ...],
    images: int,
    options: int,
    language: str,
    extra: Mapping[str, str],
    seed: int,
) -> list[Sample]:
    return [
        sample
        for number in range(2)
        for sample in _about(
            kinds, images - number % max(images, 1), options, language, extra, seed, number
        )
    ]


def _about(
    kinds: tuple[str, ...],
    images: int,
    options: int,
    language: str,
    extra: Mapping[str, str],
    seed: int,
    number: int,
) -> Iterator[Sample]:
    drawn = [draw(seed, "validation", number * 8 + i, side=56) for i in range(max(images, 1))]
    shown = tuple(Image(data=encode_png(p.pixels)) for p in drawn)
    asked = _ZH if language == "zh" else _EN
    rng = np.random.default_rng([seed, number, options])
    for kind in kinds:
        group: dict[str, Any] = {"group": f"twin-{seed}-{number}", "modality": drawn[0].modality}
        choices: tuple[str, ...] = ()
        if kind == "choice":
            others = [m for m in rng.permutation(MODALITIES).tolist() if m != drawn[0].modality][
                : options - 1
            ]
            choices = tuple(str(c) for c in rng.permutation([drawn[0].modality, *others]))
            question, gold = asked["choice"], LETTERS[choices.index(drawn[0].modality)]
        elif kind == "several":
            yield _several(
                drawn[0], shown, f"twin-{number}-{kind}", {**extra, "several": "yes"}, group
            )
            continue
        else:
            question, gold = asked[kind], _answer(drawn[0], kind, language)
        yield _sample(
            f"twin-{number}-{kind}-{language}", with_choices(question, choices), gold,
            kind=kind, choices=choices, images=shown, language=language, extra=extra, **group,
        )  # fmt: skip


def _several(
    drawn: Phantom,
    shown: tuple[Image, ...],
    name: str,
    extra: Mapping[str, str],
    group: Mapping[str, Any],
) -> Sample:
    options = (drawn.modality, "lesion" if drawn.lesions else "no lesion", "a bicycle", "a teapot")
    question = with_choices("Which of these does the image show?", options)
    return _sample(name, question, "AB", kind="closed", images=shown, extra=extra, **group)


_EN = {
    "choice": "Which modality is the first image?",
    "yes_no": "Is there a lesion in the first image?",
    "closed": "How many lesions does the first image show?",
    "open": "What does the first image show?",
    "report": "Write a report of the image.",
}
_ZH = {"yes_no": "图中有病灶吗？", "closed": "图中有几个病灶？", "open": "图中的病灶有几个？"}


def _answer(drawn: Phantom, kind: str, language: str) -> str:
    if kind == "yes_no":
        return (
            ("Yes" if drawn.lesions else "No")
            if language == "en"
            else ("是" if drawn.lesions else "否")
        )
    if kind == "closed" or language == "zh":
        return str(len(drawn.lesions))
    return phantom.report(drawn) if kind == "report" else phantom.lesions_of(drawn)


def _sample(
    name: str,
    question: str,
    gold: str | None,
    *,
    kind: str,
    choices: tuple[str, ...] = (),
    images: tuple[Image, ...] = (),
    language: str = "en",
    extra: Mapping[str, str] | None = None,
    **facts: Any,
) -> Sample:
    meta = Meta(
        source=TWIN,
        licence="Apache-2.0",
        access="open",
        deidentified=True,
        language=language,
        kind=kind,
        extra=extra or {},
        **facts,
    )
    return Sample(
        name,
        (user_turn(question, len(images)),),
        images,
        None if gold is None else (gold,),
        choices,
        meta,
    )


def joined(*twins: Twin) -> Twin:
    """The samples of several twins, as of a benchmark in two languages."""
    return partial(_joined, twins)


def _joined(twins: tuple[Twin, ...], seed: int) -> list[Sample]:
    return [sample for twin in twins for sample in twin(seed)]
