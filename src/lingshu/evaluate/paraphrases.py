"""Other words for the instructions of core/prompts.py: three neutral paraphrases each, asking for
the same form of answer.
"""

from __future__ import annotations

from typing import Literal

from lingshu.core.types import PromptStyle

N_PARAPHRASES = 3
Language = Literal["en", "zh"]
# (kind, language) -> what is asked for, and how the bare answer is to look; a reasoned answer goes
# into a box instead.
_INSTRUCTIONS: dict[tuple[str, Language], tuple[tuple[str, str], ...]] = {
    ("choice", "en"): (
        ("Choose one of the options above.", "Reply with its letter only."),
        ("Which option is right?", "Give just the letter."),
        ("Find the correct option.", "Answer with the letter and nothing else."),
    ),
    ("choice", "zh"): (
        ("请从上面的选项中选择一个。", "只回答选项字母。"),
        ("哪个选项是正确的？", "请只给出字母。"),
        ("请找出正确的选项。", "用字母作答，不要输出其他内容。"),
    ),
    ("multi_choice", "en"): (
        ("Choose every correct option above.", "Reply with the letters only."),
        ("Which options are right?", "Give just their letters."),
        ("Find all correct options.", "Answer with the letters and nothing else."),
    ),
    ("multi_choice", "zh"): (
        ("请从上面的选项中选出所有正确的选项。", "只回答选项字母。"),
        ("哪些选项是正确的？", "请只给出字母。"),
        ("请找出所有正确的选项。", "用字母作答，不要输出其他内容。"),
    ),
    ("yes_no", "en"): (
        ("Decide between yes and no.", "Reply with that word only."),
        ("Is the answer yes or no?", "Give just the word."),
        ("This is a yes or no question.", "Answer with one of the two words and nothing else."),
    ),
    ("yes_no", "zh"): (
        ("请判断是或否。", "只回答这个字。"),
        ("答案是“是”还是“否”？", "请只给出这个字。"),
        ("这是一个是非题。", "用“是”或“否”作答，不要输出其他内容。"),
    ),
    ("closed", "en"): (
        ("The answer is one word or a short phrase.", "Reply with it only."),
        ("What is the answer, in a word or a brief phrase?", "Give just that."),
        ("Name the answer in one word or phrase.", "Say nothing else."),
    ),
    ("closed", "zh"): (
        ("答案是一个词或短语。", "只回答这个词或短语。"),
        ("用一个词或短语来说，答案是什么？", "请只给出答案。"),
        ("请用一个词或短语作答。", "不要输出其他内容。"),
    ),
    ("open", "en"): (
        ("Keep the answer short.", ""),
        ("What is the answer, in brief?", ""),
        ("Reply in a few words.", ""),
    ),
    ("open", "zh"): (
        ("请简短作答。", ""),
        ("简要地说，答案是什么？", ""),
        ("请用几个词回答。", ""),
    ),
}
_BOX_INSTRUCTION: dict[Language, str] = {
    "en": "Put the {} in one \\boxed{{}}.",
    "zh": "请将{}放在一个\\boxed{{}}中。",
}
_BOXED_ANSWER: dict[tuple[str, Language], str] = {
    ("choice", "en"): "letter",
    ("choice", "zh"): "选项字母",
    ("multi_choice", "en"): "letters",
    ("multi_choice", "zh"): "选项字母",
}
_REPORT_PARAPHRASES = (
    (
        "Write a radiology report for the images shown, with findings and an impression. Use this"
        " format: Findings: {} Impression: {}."
    ),
    (
        "Please describe the given images in a report that has findings and an impression, written"
        " as: Findings: {} Impression: {}."
    ),
    (
        "Report on these images. Give the findings first and the impression after them, in the"
        " form: Findings: {} Impression: {}."
    ),
)
# For tasks that ask their questions bare: a line before or behind the question.
QUESTION_TEMPLATES: dict[str, tuple[str, ...]] = {
    "en": ("Question: {}", "Please answer this question.\n{}", "{}\nWhat is your answer?"),
    "zh": ("问题：{}", "请回答下面的问题。\n{}", "{}\n你的答案是什么？"),
}


def _build_paraphrases(kind: str, language: Language, prompt_style: PromptStyle) -> tuple[str, ...]:
    separator = " " if language == "en" else ""
    box_instruction = _BOX_INSTRUCTION[language].format(
        _BOXED_ANSWER.get((kind, language), "answer" if language == "en" else "答案")
    )
    return tuple(
        (
            instruction
            + separator
            + (answer_format if prompt_style == "direct" else box_instruction)
        ).strip()
        for instruction, answer_format in _INSTRUCTIONS[kind, language]
    )


_STYLES: tuple[PromptStyle, ...] = ("direct", "cot")
# (kind, language, style) as in INSTRUCTIONS, and ("report", "en", "direct") for REPORT.
PARAPHRASES: dict[tuple[str, str, PromptStyle], tuple[str, ...]] = {
    **{
        (kind, language, prompt_style): _build_paraphrases(kind, language, prompt_style)
        for kind, language in _INSTRUCTIONS
        for prompt_style in _STYLES
    },
    ("report", "en", "direct"): _REPORT_PARAPHRASES,
}
