"""Phantom samples: questions with checkable answers, captions and short reports over drawn images.

License: Apache-2.0 (made by this package). Revision: the code itself; link: none, nothing is
downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lingshu.core.errors import InputError, suggest_name
from lingshu.core.messages import user_turn
from lingshu.core.types import Drop, Image, Message, Meta, Sample
from lingshu.imaging.phantom import MODALITIES, SPLITS, Phantom, Split, draw_phantom
from lingshu.imaging.read import encode_png

LETTERS = "ABCD"
NUMBER_WORDS = ("no", "one", "two", "three")
# The kinds whose accuracy the quickstart promises; the others are harder and reported as they come.
MAIN_KINDS = ("modality", "lesion", "side", "size")
KINDS = (*MAIN_KINDS, "count", "choice", "open", "report")
# How often a dialogue takes up a kind. The side of a lesion is the slowest to learn, so it is asked
# most.
KIND_WEIGHTS = {
    "modality": 1.5,
    "lesion": 0.8,
    "side": 3.5,
    "size": 2.5,
    "count": 0.6,
    "choice": 0.3,
    "open": 0.2,
    "report": 0.2,
}
PURPOSES = ("text", "captions", "instruct", "mixed", "rl")
# The share of reasoned answers. Those in words alone make their marks part of the language before
# images come.
REASONED_FRACTION = {"text": 0.2, "mixed": 0.5}
DESCRIBE_QUESTION, LOCATE_QUESTION, MEASURE_QUESTION = (
    "Describe the image.",
    "Where is the lesion?",
    "How large is the lesion?",
)
# How often a caption is the whole one, the place alone, or the size alone. Place and size are a
# word or two of a long sentence there; a caption of their own makes a tiny model look for them
# before it is asked.
CAPTION_PROBS = (0.4, 0.4, 0.2)


def describe_lesions(phantom: Phantom) -> str:
    """What lesions there are, in words."""
    n_lesions = len(phantom.lesions)
    if n_lesions == 0:
        return "no lesion"
    return (
        f"{phantom.size} lesion on the {phantom.side}"
        if n_lesions == 1
        else f"{NUMBER_WORDS[n_lesions]} {phantom.size} lesions"
    )


def caption(phantom: Phantom) -> str:
    return f"{phantom.modality}, {describe_lesions(phantom)}."


def location(phantom: Phantom) -> str:
    """The short caption that names a place only."""
    return phantom.side or ("several places" if phantom.lesions else "nowhere")


def description(phantom: Phantom, rng: np.random.Generator) -> tuple[str, str]:
    """A caption with what asks for it: the whole one, or one that names the place or the size only."""
    size = phantom.size if phantom.lesions else "nothing"
    prompts = [
        (DESCRIBE_QUESTION, caption(phantom)),
        (LOCATE_QUESTION, location(phantom)),
        (MEASURE_QUESTION, size),
    ]
    return prompts[int(rng.choice(len(prompts), p=CAPTION_PROBS))]


def report_text(phantom: Phantom) -> str:
    return f"Findings: {describe_lesions(phantom)}. Impression: {'lesion' if phantom.lesions else 'normal'}."


def with_reasoning(phantom: Phantom, answer: str) -> str:
    """An answer behind the thought that leads to it: what is seen."""
    return f"<think>{caption(phantom)}</think><answer>{answer}</answer>"


def make_question(
    phantom: Phantom, kind: str, rng: np.random.Generator
) -> tuple[str, str, tuple[str, ...]] | None:
    """Question, gold answer and choices of one kind; None where the phantom has no answer to it."""
    if kind in ("side", "size") and phantom.side is None:
        return None
    if kind == "choice":
        distractors = [m for m in rng.permutation(MODALITIES).tolist() if m != phantom.modality][
            : len(LETTERS) - 1
        ]
        choices = tuple(rng.permutation([phantom.modality, *distractors]).tolist())
        listed = "\n".join(
            f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True)
        )
        return f"Which modality is it?\n{listed}", LETTERS[choices.index(phantom.modality)], choices
    templates: dict[str, tuple[str, Callable[[Phantom], str]]] = {
        "modality": ("Which imaging modality is this?", lambda p: p.modality),
        "lesion": ("Is there a lesion?", lambda p: "yes" if p.lesions else "no"),
        "side": ("On which side is the lesion?", lambda p: p.side or ""),
        "size": ("Is the lesion small or large?", lambda p: p.size),
        "count": ("How many lesions are there?", lambda p: str(len(p.lesions))),
        "open": ("What does the image show?", describe_lesions),
        "report": ("Write a short report.", report_text),
    }
    text, answer = templates[kind]
    return text, answer(phantom), ()


def make_meta(phantom: Phantom, seed: int, split: Split, index: int, kind: str) -> Meta:
    group = f"phantom-{seed}-{split}-{index}"
    return Meta(
        source="phantom",
        license="Apache-2.0",
        access="open",
        modality=phantom.modality,
        language="en",
        kind=kind,
        group=group,
    )


def question_samples(
    seed: int, split: Split, images: int, *, side: int = 56, kinds: tuple[str, ...] = KINDS
) -> Iterator[Sample]:
    """Every kind of question about each of `images` phantoms, unanswered; gold says the answer."""
    for index in range(images):
        phantom = draw_phantom(seed, split, index, side=side)
        rng = np.random.default_rng([seed, SPLITS.index(split), index, 1])
        image = Image(data=encode_png(phantom.pixels))
        for kind in kinds:
            generated = make_question(phantom, kind, rng)
            if generated is None:
                continue
            text, gold, choices = generated
            sample_meta = make_meta(phantom, seed, split, index, kind)
            yield Sample(
                f"{sample_meta.group}-{kind}",
                (user_turn(text, 1),),
                (image,),
                (gold,),
                choices,
                sample_meta,
            )


def dialogue(phantom: Phantom, rng: np.random.Generator, turns: int) -> list[tuple[str, str]]:
    """Up to `turns` different questions with their answers, drawn by SHARES."""
    candidates = {kind: q for kind in KINDS if (q := make_question(phantom, kind, rng)) is not None}
    weights = np.array([KIND_WEIGHTS[kind] for kind in candidates])
    sampled_kinds = rng.choice(
        list(candidates), size=min(turns, len(candidates)), replace=False, p=weights / weights.sum()
    )
    return [(candidates[kind][0], candidates[kind][1]) for kind in sampled_kinds.tolist()]


def _to_messages(
    pairs: list[tuple[str, str]], *, images: int, context: str = ""
) -> tuple[Message, ...]:
    messages: list[Message] = []
    for turn, (text, answer) in enumerate(pairs):
        messages.append(
            user_turn(context + text, images) if turn == 0 else Message("user", (text,))
        )
        messages.append(Message("assistant", (answer,)))
    return tuple(messages)


def training_samples(
    seed: int, images: int, purpose: str, *, first: int = 0, side: int = 56, turns: int = 3
) -> Iterator[Sample]:
    """Samples of the training split, one for each phantom from number `first` on.

    `purpose` is "text" (the caption stands in words, no image: a tiny model has to learn its
    language first), "captions", "instruct" (dialogues of up to `turns` questions), "mixed" (the
    same, half of the answers reasoned), or "rl" (one question of the four main kinds, unanswered,
    with its gold).

    Raises:
        InputError: another purpose.
    """
    if purpose not in PURPOSES:
        raise InputError(
            f"phantoms are not made for {purpose!r}; {suggest_name(purpose, PURPOSES)}"
        )
    for index in range(first, first + images):
        phantom = draw_phantom(seed, "train", index, side=side)
        rng = np.random.default_rng([seed, SPLITS.index("train"), index, 2])
        sample_meta = make_meta(phantom, seed, "train", index, purpose)
        sample_images = () if purpose == "text" else (Image(data=encode_png(phantom.pixels)),)
        name = f"{sample_meta.group}-{purpose}"
        if purpose == "rl":
            kind, text, answer = sample_question(phantom, rng)
            yield Sample(
                name,
                (user_turn(text, 1),),
                sample_images,
                (answer,),
                meta=replace(sample_meta, kind=kind),
            )
        else:
            yield Sample(
                name,
                training_messages(phantom, rng, purpose, turns),
                sample_images,
                meta=sample_meta,
            )


def sample_question(phantom: Phantom, rng: np.random.Generator) -> tuple[str, str, str]:
    """Kind, text and answer of one question of the main kinds, drawn by SHARES."""
    candidates = {
        kind: q for kind in MAIN_KINDS if (q := make_question(phantom, kind, rng)) is not None
    }
    weights = np.array([KIND_WEIGHTS[kind] for kind in candidates])
    kind = str(rng.choice(list(candidates), p=weights / weights.sum()))
    return kind, candidates[kind][0], candidates[kind][1]


def training_messages(
    phantom: Phantom, rng: np.random.Generator, purpose: str, turns: int
) -> tuple[Message, ...]:
    """The answered dialogue about one phantom."""
    if purpose == "captions":
        return _to_messages([description(phantom, rng)], images=1)
    pairs = dialogue(phantom, rng, turns)
    if purpose == "instruct":
        return _to_messages(pairs, images=1)
    styled_pairs = [
        (
            text,
            with_reasoning(phantom, answer)
            if rng.random() < REASONED_FRACTION[purpose]
            else answer,
        )
        for text, answer in pairs
    ]
    if purpose == "mixed":
        return _to_messages(styled_pairs, images=1)
    styled_pairs = (
        [description(phantom, rng), *styled_pairs[1:]] if rng.random() < 0.5 else styled_pairs
    )
    return _to_messages(styled_pairs, images=0, context=caption(phantom) + "\n")


def read(
    path: Path,
    *,
    purpose: str = "questions",
    images: int = 120,
    first: int = 0,
    side: int = 56,
    turns: int = 3,
    kinds: Sequence[str] = KINDS,
    split: Split = "test",
) -> Iterator[Sample | Drop]:
    """Samples about drawn phantoms; the last part of `path` is the seed, so `phantom/3` asks for
    seed 3.

    `purpose` "questions" asks every one of `kinds` about each of `images` phantoms of `split`,
    unanswered; the purposes of `training` give samples of the training split, from phantom number
    `first` on.

    Raises:
        InputError: the last part is no whole number, a kind that is not asked, or another purpose.
    """
    if not path.name.isdigit():
        raise InputError(f"{path} names no seed; write phantom/0.")
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"phantoms are not asked for {kind!r}; {suggest_name(kind, KINDS)}")
    if purpose == "questions":
        yield from question_samples(int(path.name), split, images, side=side, kinds=tuple(kinds))
    else:
        yield from training_samples(
            int(path.name), images, purpose, first=first, side=side, turns=turns
        )
