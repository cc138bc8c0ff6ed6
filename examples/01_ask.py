"""Ask a model about an image: python 01_ask.py CHECKPOINT "Is there a lesion?" image.png"""

import sys

from lingshu.core.messages import user_turn
from lingshu.core.types import EngineOptions, Image, Sample, Sampling
from lingshu.engines import hf


def main(model: str, question: str, *files: str) -> str | None:
    engine = hf.load(model, EngineOptions())
    images = tuple(Image(path=file) for file in files)
    sample = Sample("question", (user_turn(question, len(images)),), images)
    [[reply]] = engine.generate([sample], Sampling(max_tokens=64))
    return reply.text if reply.error is None else reply.error


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
