"""Score replies without a model: python 05_score_replies.py

A scorer is a pure function from a sample and a reply to a value, or to None with the reason why
no answer could be read.
"""

from lingshu.core.types import Message, Sample
from lingshu.scoring import yes_no

REPLIES = (
    "Yes, in the left lung.",
    "There is no nodule.",
    "Yes or no, hard to say.",
    "The lungs are clear.",
    "",
)


def main() -> list[tuple[str, float | None, str]]:
    sample = Sample("1", (Message("user", ("Is there a nodule?",)),), gold=("no",))
    scored = [(reply, yes_no.score(sample, reply)) for reply in REPLIES]
    return [(reply, score.value, score.status) for reply, score in scored]


if __name__ == "__main__":
    for reply, value, status in main():
        print(f"{value!s:>4}  {status:<9} {reply!r}")
