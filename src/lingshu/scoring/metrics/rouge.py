"""ROUGE of two texts by the two definitions in common use, and ROUGE-L of the COCO code.

`google`   rouge_score 0.1.2: words of [a-z0-9], n-grams counted as often as they occur, L over the whole text
`sets`     rouge 1.0.1: n-grams are sets, sentences end at full stops, L unites the words of all pairs of sentences
`coco_l`   pycocoevalcap 1.2: L with recall weighing 1.2 squared, on tokens split at single spaces
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

from lingshu.core.types import MetricResult
from lingshu.scoring.metrics._base import Reports

_NOT_WORD = re.compile(r"[^a-z0-9]+")
_BETA_SQUARED = 1.2 * 1.2
_MIN_STEM_LENGTH = 4


def tokenize(text: str, *, use_stemmer: bool = False) -> list[str]:
    """The tokens of rouge_score; its stemmer shortens words of more than three letters."""
    tokens = _NOT_WORD.sub(" ", text.lower()).split()
    if not use_stemmer:
        return tokens
    return [stem(word) if len(word) >= _MIN_STEM_LENGTH else word for word in tokens]


def google_rouge(prediction: str, gold: str, *, use_stemmer: bool = False) -> dict[str, float]:
    """ROUGE-1, -2 and -L, F only, as rouge_score 0.1.2; 0 where either text has no word."""
    predicted, reference = (tokenize(text, use_stemmer=use_stemmer) for text in (prediction, gold))
    return {
        "rouge1": _overlap(predicted, reference),
        "rouge2": _overlap(list(pairwise(predicted)), list(pairwise(reference))),
        "rougeL": _rouge_l(predicted, reference),
    }


def google_rouge_l(prediction: str, gold: str, *, use_stemmer: bool = False) -> float:
    """ROUGE-L alone, F, as rouge_score 0.1.2."""
    return _rouge_l(*(tokenize(text, use_stemmer=use_stemmer) for text in (prediction, gold)))


def _rouge_l(predicted: Sequence[str], reference: Sequence[str]) -> float:
    return _f_score(_lcs_length(predicted, reference), len(predicted), len(reference))


def set_rouge(prediction: str, gold: str) -> dict[str, float]:
    """ROUGE-1, -2, -L, F, as rouge 1.0.1 on lower case; 0 for no sentence, where it raises."""
    try:
        return sentence_set_rouge(prediction.lower(), gold.lower())
    except ValueError:
        return {"rouge-1": 0.0, "rouge-2": 0.0, "rouge-l": 0.0}


def sentence_set_rouge(prediction: str, gold: str) -> dict[str, float]:
    """ROUGE-1, -2, -L, F: sentences end at full stops; L unites the words of all pairs of them.

    Raises:
        ValueError: either side has no sentence.
    """
    sides = _sentences(prediction, "Hypothesis"), _sentences(gold, "Reference")
    words_by_side = [[word for sentence in side for word in sentence] for side in sides]
    scores = {}
    for n in (1, 2):
        ngrams, reference = (
            {tuple(words[i : i + n]) for i in range(len(words) - n + 1)} for words in words_by_side
        )
        shared = ngrams & reference
        scores[f"rouge-{n}"] = _smoothed_f_score(len(shared), len(ngrams), len(reference))
    covered = {
        word
        for reference in sides[1]
        for sentence in sides[0]
        for word in _longest_common_subsequence(reference, sentence)
    }
    n_predicted, n_gold = (len(set(words)) for words in words_by_side)
    scores["rouge-l"] = _smoothed_f_score(len(covered), n_predicted, n_gold)
    return scores


def _sentences(text: str, side: str) -> list[list[str]]:
    sentences = [" ".join(part.split()).split(" ") for part in text.split(".") if part]
    if not sentences:
        raise ValueError(f"{side} is empty.")
    return sentences


def _smoothed_f_score(n_shared: int, n_predicted: int, n_gold: int) -> float:
    precision = n_shared / n_predicted if n_predicted else 0.0
    recall = n_shared / n_gold if n_gold else 0.0
    return 2 * (precision * recall) / (precision + recall + 1e-8)


def _longest_common_subsequence(reference: Sequence[str], prediction: Sequence[str]) -> list[str]:
    """One longest common subsequence; among equals the one that leaves the end of `prediction` first."""
    lengths = [[0] * (len(prediction) + 1) for _ in range(len(reference) + 1)]
    for i, word in enumerate(reference, 1):
        for j, prediction_word in enumerate(prediction, 1):
            lengths[i][j] = (
                lengths[i - 1][j - 1] + 1
                if word == prediction_word
                else max(lengths[i - 1][j], lengths[i][j - 1])
            )
    subsequence, i, j = [], len(reference), len(prediction)
    while i and j:
        if reference[i - 1] == prediction[j - 1]:
            subsequence.append(reference[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return subsequence


def coco_rouge_l(prediction: str, gold: str) -> float:
    """ROUGE-L as pycocoevalcap 1.2, on tokens split at single spaces."""
    prediction_tokens, gold_tokens = prediction.split(" "), gold.split(" ")
    n_shared = _lcs_length(prediction_tokens, gold_tokens)
    precision, recall = n_shared / len(prediction_tokens), n_shared / len(gold_tokens)
    if not n_shared:
        return 0.0
    return (1 + _BETA_SQUARED) * precision * recall / (recall + _BETA_SQUARED * precision)


def _overlap(prediction_ngrams: Sequence[object], gold_ngrams: Sequence[object]) -> float:
    remaining, n_shared = Counter(gold_ngrams), 0
    for ngram in prediction_ngrams:
        if remaining.get(ngram):
            remaining[ngram] -= 1
            n_shared += 1
    return _f_score(n_shared, len(prediction_ngrams), len(gold_ngrams))


def _f_score(n_shared: int, n_predicted: int, n_gold: int) -> float:
    if not n_shared:
        return 0.0
    precision, recall = n_shared / n_predicted, n_shared / n_gold
    return 2 * precision * recall / (precision + recall)


def _lcs_length(prediction_tokens: Sequence[str], gold_tokens: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    from rapidfuzz.distance import LCSseq

    return LCSseq.similarity(prediction_tokens, gold_tokens)


# The Porter stemmer (Porter 1980, "An algorithm for suffix stripping") with the departures of
# nltk's default, which rouge_score uses.

_IRREGULAR = {
    form: base
    for base, forms in {
        "sky": ("sky", "skies"), "die": ("dying",), "lie": ("lying",), "tie": ("tying",), "news": ("news",),
        "inning": ("innings", "inning"), "outing": ("outings", "outing"), "canning": ("cannings", "canning"),
        "howe": ("howe",), "proceed": ("proceed",), "exceed": ("exceed",), "succeed": ("succeed",),
    }.items() for form in forms
}  # fmt: skip
_STEP_2 = (
    ("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"), ("bli", "ble"), ("alli", "al"),
    ("entli", "ent"), ("eli", "e"), ("ousli", "ous"), ("ization", "ize"), ("ation", "ate"), ("ator", "ate"), ("alism", "al"),
    ("iveness", "ive"), ("fulness", "ful"), ("ousness", "ous"), ("aliti", "al"), ("iviti", "ive"), ("biliti", "ble"), ("fulli", "ful"),
)  # fmt: skip
_STEP_3 = (
    ("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""),
    ("ness", ""),
)  # fmt: skip
_STEP_4 = (
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti", "ous", "ive", "ize",
)  # fmt: skip
_MEASURE = re.compile("v+c+")


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """A lower-case word without its endings."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) <= 2:
        return word
    for step in (_step_1a, _step_1b, _step_1c, _step_2, _step_3, _step_4, _step_5):
        word = step(word)
    return word


def _letter_pattern(word: str) -> str:
    """`v` for each vowel and `c` for each consonant; y is a vowel behind a consonant."""
    pattern = ""
    for letter in word:
        is_vowel = letter in "aeiou" or (letter == "y" and pattern.endswith("c"))
        pattern += "v" if is_vowel else "c"
    return pattern


def _measure(word: str) -> int:
    return len(_MEASURE.findall(_letter_pattern(word)))


def _ends_with_cvc(word: str) -> bool:
    """Ends consonant, vowel, consonant other than w, x and y; or is a vowel and a consonant."""
    pattern = _letter_pattern(word)
    return (pattern.endswith("cvc") and word[-1] not in "wxy") or pattern == "vc"


def _step_1a(word: str) -> str:
    if word.endswith("ies") and len(word) == 4:
        return word[:-1]
    for suffix, replacement in (("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")):
        if word.endswith(suffix):
            return word[: -len(suffix)] + replacement
    return word


def _step_1b(word: str) -> str:
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) else word
    roots = [word.removesuffix(suffix) for suffix in ("ed", "ing") if word.endswith(suffix)]
    if not roots or "v" not in _letter_pattern(roots[0]):
        return word
    root = roots[0]
    if root.endswith(("at", "bl", "iz")):
        return root + "e"
    if root[-1:] == root[-2:-1] and _letter_pattern(root)[-1] == "c":
        return root if root[-1] in "lsz" else root[:-1]
    return root + "e" if _measure(root) == 1 and _ends_with_cvc(root) else root


def _step_1c(word: str) -> str:
    if word.endswith("y") and len(word) > 2 and _letter_pattern(word[:-1])[-1] == "c":
        return word[:-1] + "i"
    return word


def _step_2(word: str) -> str:
    if word.endswith("alli") and _measure(word[:-4]):
        return _step_2(word[:-2])
    if word.endswith("logi"):
        return word[:-1] if _measure(word[:-3]) else word
    return _replace_suffix(word, _STEP_2)


def _step_3(word: str) -> str:
    return _replace_suffix(word, _STEP_3)


def _replace_suffix(word: str, suffixes: tuple[tuple[str, str], ...]) -> str:
    for suffix, replacement in suffixes:
        if word.endswith(suffix):
            root = word[: -len(suffix)]
            return root + replacement if _measure(root) else word
    return word


def _step_4(word: str) -> str:
    for suffix in _STEP_4:
        if word.endswith(suffix):
            root = word[: -len(suffix)]
            matches = _measure(root) > 1 and (suffix != "ion" or root[-1:] in ("s", "t"))
            return root if matches else word
    return word


def _step_5(word: str) -> str:
    if word.endswith("e"):
        root = word[:-1]
        if _measure(root) > 1 or (_measure(root) == 1 and not _ends_with_cvc(root)):
            word = root
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word


# What each number is called here, and in the two packages that define it; the published tables used
# the second.
_GOOGLE_KEYS = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
_SET_KEYS = {"rouge_1_sets": "rouge-1", "rouge_2_sets": "rouge-2", "rouge_l_sets": "rouge-l"}


def rouge_metric(reports: Reports) -> list[MetricResult]:
    """Means over reports by both definitions."""
    return [
        *_mean_results(reports, google_rouge, _GOOGLE_KEYS),
        *_mean_results(reports, set_rouge, _SET_KEYS),
    ]


def _mean_results(
    reports: Reports,
    compute: Callable[[str, str], Mapping[str, float]],
    key_by_name: Mapping[str, str],
) -> list[MetricResult]:
    values = [compute(prediction, gold) for prediction, gold in reports.completed]
    return [
        reports.result(name, [value[key] for value in values]) for name, key in key_by_name.items()
    ]


METRIC = rouge_metric
