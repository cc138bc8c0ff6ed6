"""Returns the gold answer (`echo`) or a fixed text (`echo:TEXT`): a model without weights, for
tests and for trying things out.

lingshu eval echo vqa --data DIR --out OUT          every answer is right: the best possible score
lingshu eval "echo:yes" vqa --data DIR --out OUT    a constant answer: what a model must beat
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from lingshu.core.errors import InputError
from lingshu.core.files import digest
from lingshu.core.types import Engine, EngineOptions, Reply, Sample, Sampling
from lingshu.engines._requests import reply_in_batches


@dataclass(frozen=True)
class EchoEngine:
    """An engine without a model; with `text` None it returns the preferred gold answer."""

    model: str
    digest: str
    text: str | None
    batch_size: int
    endpoint: str | None = None

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        *,
        skip: Container[tuple[str, int]] = (),
    ) -> Iterator[list[Reply]]:
        return reply_in_batches(samples, sampling, skip, self.batch_size, self._reply)

    def _reply(self, sample: Sample, generation: int) -> Reply:
        text = self.text if self.text is not None else next(iter(sample.gold or ()), None)
        if text is None:
            error = "echo returns nothing: the sample has no gold answer; use echo:TEXT."
            return Reply(sample.id, None, generation, error=error)
        return Reply(sample.id, text, generation, finish="stop")


def load(model: str, options: EngineOptions) -> Engine:
    """The engine for `echo` or `echo:TEXT`.

    Raises:
        InputError: another name.
    """
    name, separator, text = model.partition(":")
    if name != "echo":
        raise InputError(f"{model!r} is not an echo engine; write echo or echo:TEXT.")
    reply_text = text if separator else None
    return EchoEngine(model, digest(["echo", reply_text]), reply_text, options.batch_size)
