"""From messages and images to token ids, labels, positions and pixel values; needs no torchvision.

The stock processors of both families need a video processor, which transformers 5 builds on
torchvision only. This one uses the family's tokenizer and PIL image processor, and its pixels equal
theirs to the last bit.

Shapes: B batch, L tokens of a sample or of the longest in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PIL

from lingshu.core.entities import Span
from lingshu.core.errors import ArtifactError, InputError
from lingshu.core.messages import message_to_json
from lingshu.core.types import Message
from lingshu.models.base import Tiles, VisionLanguageFamily
from lingshu.models.model_spec import PixelBudget
from lingshu.models.token_spans import (
    AlignedText,
    EntityPolicy,
    entity_character_mask,
    entity_token_mask,
)

IGNORE_INDEX = -100  # label of a token that no loss is taken on; torch's default


@dataclass(frozen=True)
class EncodedSample:
    """One sample for a model; `labels` are `ids` where an answer is learned, else IGNORE_INDEX.

    `positions` is 3 x L for families with M-RoPE, else None. `token_values` holds what an objective
    needs of each supervised token, in order: "entity" (1 inside a marked entity, else 0), "weight",
    and in reinforcement learning "advantage", "old" and "reference". `branches` are the lengths of
    parts at the end that all continue what precedes the first of them and do not see each other.
    `scaled_images` says of each image that is shown with far fewer pixels than it has, with how
    many.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    is_image: NDArray[np.bool_]
    positions: NDArray[np.int64] | None
    tiles: tuple[Tiles, ...]
    token_values: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    branches: tuple[int, ...] = ()
    scaled_images: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def supervised(self) -> int:
        """The number of tokens that a loss is taken on."""
        return int((self.labels != IGNORE_INDEX).sum())


@dataclass(frozen=True)
class Processor:
    """A tokenizer, an image processor and a pixel budget of one family."""

    family: VisionLanguageFamily
    tokenizer: Any
    image_processor: Any
    budget: PixelBudget

    @property
    def image_token_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(self.family.image_token)

    @property
    def end_of_turn(self) -> str:
        """The token that ends an answer."""
        known = self.family.end_of_turn in self.tokenizer.added_tokens_encoder
        return self.family.end_of_turn if known else self.tokenizer.eos_token

    @property
    def never_sampled(self) -> list[int]:
        """Ids of the tokens that stand for pixels, where the vocabulary has them."""
        vocab = self.tokenizer.get_vocab()
        return sorted(vocab[token] for token in self.family.never_sampled if token in vocab)

    def with_budget(self, budget: PixelBudget) -> Processor:
        image_processor = self.family.with_budget(self.image_processor, budget)
        return Processor(self.family, self.tokenizer, image_processor, budget)

    def tiles(self, images: Sequence[PIL.Image]) -> tuple[Tiles, ...]:
        """Scale and cut the images of one sample.

        Raises:
            ImageError: an image of a shape that the family cannot take.
        """
        return tuple(
            self.family.prepare(self.image_processor, image, len(images), self.budget)
            for image in images
        )

    def encode(
        self,
        messages: Sequence[Message],
        tiles: Sequence[Tiles],
        *,
        entities: Sequence[Span] | None = None,
        policy: EntityPolicy = "any",
    ) -> EncodedSample:
        """Encode a dialogue: for training if it ends in an assistant turn, else ready to be
        answered.

        Every assistant turn is tokenized apart from what precedes it, just as a model that
        generates it sees it. With `entities` (characters of assistant turns) the token value
        "entity" marks their supervised tokens; token ids and labels are the same with and without.

        Raises:
            InputError: messages that refer to other images than were given, or invalid text.
            ArtifactError: a template or tokenizer with which answers cannot be separated.
        """
        shown = [part for message in messages for part in message.parts if isinstance(part, int)]
        if shown != list(range(len(tiles))):
            raise InputError(
                f"the messages show images {shown}, {len(tiles)} were given; show each once, in"
                " order."
            )
        if any("\ud800" <= character <= "\udfff" for m in messages for character in m.text):
            raise InputError(
                "a turn contains a lone surrogate (half of a character), which no tokenizer takes;"
                " fix the text."
            )
        ids: list[int] = []
        labels: list[int] = []
        unexpanded = iter(tiles)
        entity_masks = [np.zeros(0, bool)]
        turns = iter([turn for turn, message in enumerate(messages) if message.role == "assistant"])
        for text, answer in self._segments(messages):
            if answer and entities is not None:
                turn = next(turns)
                segment_ids, entity_mask = self._tokenize_with_entities(
                    messages[turn], text, [span for span in entities if span.turn == turn], policy
                )
                entity_masks.append(entity_mask)
            else:
                segment_ids = self._tokenize(text if answer else self._expand(text, unexpanded))
            ids += segment_ids
            labels += segment_ids if answer else [IGNORE_INDEX] * len(segment_ids)
        token_ids = np.array(ids, np.int64)
        is_image = token_ids == self.image_token_id
        if int(is_image.sum()) != sum(t.tokens for t in tiles):
            raise ArtifactError(
                "the chat template of this checkpoint does not show one image marker per image;"
                " fix its chat_template.jinja."
            )
        token_values = {}
        if entities is not None:
            token_values["entity"] = np.concatenate(entity_masks).astype(np.float32)
        return EncodedSample(
            token_ids,
            np.array(labels, np.int64),
            is_image,
            self.family.positions(is_image, tiles),
            tuple(tiles),
            token_values,
        )

    def _tokenize_with_entities(
        self, message: Message, answer: str, spans: Sequence[Span], policy: EntityPolicy
    ) -> tuple[list[int], NDArray[np.bool_]]:
        """The tokens of a rendered answer, and which of them are in its entities."""
        if not spans:
            answer_ids = self._tokenize(answer)
            return answer_ids, np.zeros(len(answer_ids), bool)
        if not self.tokenizer.is_fast:
            raise ArtifactError(
                "the tokenizer of this checkpoint returns no character offsets, which entities"
                " need; give it a tokenizer.json."
            )
        in_entity = entity_character_mask(
            message.text, self._escape_special_tokens(message).text, answer, spans
        )
        tokenized = self.tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
        is_word = ~np.isin(tokenized["input_ids"], list(self.tokenizer.added_tokens_decoder))
        return tokenized["input_ids"], entity_token_mask(
            AlignedText(answer, tokenized["offset_mapping"], is_word), in_entity, policy
        )

    def _segments(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """The rendered dialogue in pieces; True marks an answer including its end token."""
        conversation = [
            message_to_json(self._escape_special_tokens(message)) for message in messages
        ]
        segments: list[tuple[str, bool]] = []
        consumed = ""
        for turn, message in enumerate(messages):
            if message.role != "assistant":
                continue
            prompt = self.render(conversation[:turn], prompt=True)
            full_text = self.render(conversation[: turn + 1], prompt=False)
            if not (prompt.startswith(consumed) and full_text.startswith(prompt)):
                raise ArtifactError(
                    "the chat template rewrites earlier turns, so answers cannot be separated; use"
                    " another checkpoint."
                )
            end = full_text.find(self.end_of_turn, len(prompt))
            end = len(full_text) if end < 0 else end + len(self.end_of_turn)
            segments += [(prompt[len(consumed) :], False), (full_text[len(prompt) : end], True)]
            consumed = full_text[:end]
        last_is_question = not messages or messages[-1].role != "assistant"
        remainder = self.render(conversation, prompt=last_is_question)[len(consumed) :]
        # The line break after the last answer is never generated and teaches nothing.
        return [*segments, (remainder, False)] if last_is_question else segments

    def render(self, conversation: Sequence[dict[str, Any]], *, prompt: bool) -> str:
        """The text of the chat template; `prompt` opens the assistant's turn at its end."""
        return self.tokenizer.apply_chat_template(
            list(conversation), tokenize=False, add_generation_prompt=prompt
        )

    def _escape_special_tokens(self, message: Message) -> Message:
        # Control tokens inside a question or a caption must stay text: they could close a turn or
        # act as an image.
        parts: list[str | int] = []
        for is_text, run_parts in groupby(message.parts, lambda part: isinstance(part, str)):
            group = list(run_parts)
            # a token may be spread over neighboring texts
            text = "".join(map(str, group)) if is_text else ""
            special_tokens = [t for t in self.tokenizer.added_tokens_encoder if t in text]
            for token in special_tokens:
                text = text.replace(token, f"{token[0]} {token[1:]}")
            parts += [text] if special_tokens else group
        return Message(message.role, tuple(parts))

    def _expand(self, text: str, tiles: Iterator[Tiles]) -> str:
        """Replace each marker by the image tokens of the next image; a surplus marker stays."""
        marker = self.family.image_marker
        expanded, *pieces = text.split(marker)
        for piece in pieces:
            tile = next(tiles, None)
            expanded += self.family.expand(tile) if tile else marker
            expanded += piece
        return expanded

    def _tokenize(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def collate(
        self,
        batch: Sequence[EncodedSample],
        *,
        pad: Literal["left", "right"],
        length: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """Pad samples to one length: input_ids, labels, attention_mask (B x L) and the family's
        other inputs.

        Training pads on the right; generation on the left, so that the next tokens of all rows are
        in one column. Where a sample has branches, attention_mask is B x 1 x L x L: what sees what.
        """
        max_length = max(len(e) for e in batch) if length is None else length
        shape = (len(batch), max_length)
        ids, labels = np.full(shape, self.tokenizer.pad_token_id), np.full(shape, IGNORE_INDEX)
        mask, is_image = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        positions = np.zeros((3, *shape), np.int64)
        for row, e in enumerate(batch):
            columns = slice(0, len(e)) if pad == "right" else slice(max_length - len(e), max_length)
            ids[row, columns], labels[row, columns] = e.ids, e.labels
            mask[row, columns], is_image[row, columns] = 1, e.is_image
            if e.positions is not None:
                positions[:, row, columns] = e.positions
        arrays: dict[str, NDArray[Any]] = {"input_ids": ids, "labels": labels}
        arrays["attention_mask"] = mask
        if self.family.has_mrope:
            arrays["position_ids"] = positions
        if self.family.token_type_input:
            arrays[self.family.token_type_input] = is_image
        if any(e.branches for e in batch):
            assert pad == "right"
            arrays["attention_mask"] = np.stack(
                [
                    visibility_mask(
                        len(e),
                        e.branches,
                        max_length,
                        is_image=e.is_image if self.family.has_bidirectional_images else None,
                    )
                    for e in batch
                ]
            )[:, None]
            if not self.family.has_mrope:
                arrays["position_ids"] = np.stack(
                    [branch_position_ids(len(e), e.branches, max_length) for e in batch]
                )
        if tiles := [t for e in batch for t in e.tiles]:
            arrays |= self.family.features(self.image_processor, tiles)
        return to_tensors(arrays)


def to_tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def visibility_mask(
    tokens: int,
    branches: Sequence[int],
    max_length: int,
    *,
    is_image: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:
    """Which tokens (columns) each token (row) sees: earlier ones, but none of another branch, and
    with `is_image` all of its own image.
    """
    branch_ids = np.zeros(max_length, np.int64)
    n_shared = tokens - sum(branches)
    branch_ids[n_shared:tokens] = np.repeat(np.arange(1, len(branches) + 1), branches)
    branch_ids[tokens:] = -1
    past = np.tri(max_length, dtype=bool)
    if is_image is not None:
        starts = is_image & ~np.concatenate([[False], is_image[:-1]])
        image_ids = np.zeros(max_length, np.int64)
        image_ids[:tokens] = np.where(is_image, starts.cumsum(), 0)
        past |= (image_ids[:, None] == image_ids) & (image_ids > 0)
    visible = past & ((branch_ids[None] == 0) | (branch_ids[None] == branch_ids[:, None]))
    visible[:, tokens:] = False
    # A row of padding that sees nothing would give NaN.
    np.fill_diagonal(visible, val=True)
    return visible


def branch_position_ids(tokens: int, branches: Sequence[int], max_length: int) -> NDArray[np.int64]:
    """Positions of a family that counts them up: every branch continues from the same one."""
    n_shared = tokens - sum(branches)
    position_ids = [np.arange(n_shared), *(n_shared + np.arange(branch) for branch in branches)]
    return np.pad(np.concatenate(position_ids), (0, max_length - tokens))


def load_processor(
    folder: str | Path, family: VisionLanguageFamily, *, revision: str | None = None
) -> Processor:
    """The processor of a checkpoint folder or hub id, with the pixel budget saved there.

    Raises:
        ArtifactError: tokenizer or image processor files are missing or damaged.
    """
    from transformers import AutoImageProcessor, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision)
        image_processor = AutoImageProcessor.from_pretrained(
            folder, revision=revision, backend="pil"
        )
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{folder}: tokenizer or image processor cannot be loaded"
            f" ({str(error).splitlines()[0]})."
        ) from error
    return Processor(family, tokenizer, image_processor, family.read_budget(image_processor))
