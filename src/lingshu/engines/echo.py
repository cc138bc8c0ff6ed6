"""Says the gold answer (`echo`) or what it is told (`echo:TEXT`): a model without weights, for
tests and for trying things out.

lingshu eval echo vqa --data DIR --out OUT          every answer is right: shows what a task's score can reach
lingshu eval "echo:yes" vqa --data DIR --out OUT    a constant answer: the floor that a model must beat
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from lingshu.core.engine_options import EngineOptions
from lingshu.core.errors import ImageError, InputError, one_line
from lingshu.core.files import digest
from lingshu.core.types import Engine, Reply, Sample, Sampling
from lingshu.imaging.read import ShardReader, open_image


@dataclass(frozen=True)
class EchoEngine:
    """An engine that needs no model; `text` None says the preferred gold answer of each sample."""

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
        """Replies in the order of the samples, `batch_size` at a time; the images are opened, as
        every engine must.
        """
        requests = [
            (sample, copy) for sample in samples for copy in range(sampling.num_generations)
        ]
        with ShardReader() as shards:
            for start in range(0, len(requests), self.batch_size):
                batch = requests[start : start + self.batch_size]
                replies = [
                    self._reply(sample, copy, shards)
                    for sample, copy in batch
                    if (sample.id, copy) not in skip
                ]
                if replies:
                    yield replies

    def _reply(self, sample: Sample, copy: int, shards: ShardReader) -> Reply:
        try:
            for image in sample.images:
                open_image(image, shards=shards)
        except ImageError as error:
            return Reply(sample.id, None, copy, error=one_line(error))
        text = self.text if self.text is not None else next(iter(sample.gold or ()), None)
        if text is None:
            return Reply(
                sample.id,
                None,
                copy,
                error="echo has nothing to say: the sample has no gold answer; use echo:TEXT.",
            )
        return Reply(sample.id, text, copy, finish="stop")


def load(model: str, options: EngineOptions) -> Engine:
    """The engine for `echo` or `echo:TEXT`.

    Raises:
        InputError: another name.
    """
    name, separator, text = model.partition(":")
    if name != "echo":
        raise InputError(f"{model!r} is no echo engine; write echo or echo:TEXT.")
    reply_text = text if separator else None
    return EchoEngine(model, digest(["echo", reply_text]), reply_text, options.batch_size)
