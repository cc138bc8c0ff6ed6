"""Abstaining: below a threshold, or where nothing is known, there is no answer, and that is said."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lingshu.core.errors import EngineError, InputError
from lingshu.core.stats import Interval
from lingshu.core.types import AnswerToken, Reply, Sampling, TextLogProb
from lingshu.evaluate.calibration import Threshold
from lingshu.inference import answer
from lingshu.inference.draft_report import build_draft
from lingshu.inference.engines import BlockingEngineAdapter
from lingshu.inference.inputs import ModelInput

RISK = Interval(0.05, 0.01, 0.1, 80)
THRESHOLD = Threshold(
    *(0.8, 0.8, RISK, RISK._replace(value=0.2, n=100), 100, ("answer token", "wording")),
    *("phantom", "strict", "m", "d", "s"),
)
NO_IMAGES = ModelInput(())


@dataclass
class OneReply:
    """An engine that always gives this reply."""

    reply: Reply
    model: str = "m"
    digest: str = "d"
    endpoint: str | None = None

    def generate(self, samples, sampling, *, skip=()):
        del sampling, skip
        yield [Reply(s.id, self.reply.text, **self._fields()) for s in samples]

    def _fields(self):
        names = ("finish", "answer_tokens", "log_prob")
        return {name: getattr(self.reply, name) for name in names}


def ask(reply: Reply, question: str = "Is there a lesion?", **model: str) -> answer.Answer:
    sample = answer.build_question_sample(question, NO_IMAGES)
    engine = OneReply(reply, **model)
    return answer.answer(engine, sample, NO_IMAGES, Sampling(), threshold=THRESHOLD)


def token(text: str, word: str, **probabilities: float) -> Reply:
    known = AnswerToken(text.index(word), word, probabilities)
    return Reply("q", text, finish="stop", answer_tokens=(known,), log_prob=TextLogProb(-3.0, 2))


def test_a_confident_answer_is_given_with_its_confidence():
    given = ask(token("Yes.", "Yes", Yes=0.85, No=0.1))
    assert (given.text, given.confidence, given.abstained) == ("Yes.", 0.85, False)
    assert answer.answer_to_json(given)["confidence"] == 0.85
    choice = "Which?\nA. effusion\nB. pneumonia"
    assert ask(token("B", "B", B=0.9, A=0.1), choice).confidence == 0.9


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (
            token("Yes.", "Yes", Yes=0.79, No=0.2),
            "its confidence 0.79 is below 0.8, set on 100 answers",
        ),
        (Reply("q", "left lung", log_prob=TextLogProb(-0.5, 3)), "its confidence 0.607 is below"),
        (Reply("q", "Yes."), "is not known in the way"),
        (Reply("q", "left, confidence: 99%"), "is not known in the way"),
        (Reply("q", ""), "is not known in the way"),
    ],
)
def test_the_model_abstains_in_words_and_in_json(reply, reason):
    given = ask(reply)
    as_json = answer.answer_to_json(given)
    assert (
        given.abstained and given.text.startswith("The model abstains: ") and reason in given.text
    )
    assert as_json["answer"] is None and as_json["abstained"] == given.text
    assert not reply.text or reply.text not in given.text
    with pytest.raises(EngineError, match="The model abstains"):
        build_draft(given, "en")


def test_a_threshold_of_another_model_is_refused():
    with pytest.raises(InputError, match="the threshold was set for m"):
        ask(token("Yes.", "Yes", Yes=0.99), digest="other")


def test_nothing_is_shown_before_it_is_known_that_the_model_does_not_abstain():
    sample = answer.build_question_sample("Is there a lesion?", NO_IMAGES)
    for probability, start in ((0.9, "Yes"), (0.5, "The model abstains")):
        shown: list[str] = []
        engine = BlockingEngineAdapter(OneReply(token("Yes", "Yes", Yes=probability)))
        given = answer.stream(
            engine, sample, NO_IMAGES, Sampling(), on_text=shown.append, threshold=THRESHOLD
        )
        engine.close()
        assert shown == [given.text] and given.text.startswith(start)
