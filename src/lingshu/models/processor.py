"""From messages and images to token ids, labels, positions and pixel values; needs no torchvision.

The stock processors of most families need a video processor, which transformers 5 builds on
torchvision only. This one uses the family's tokenizer and PIL image processor, and its pixels equal
theirs to the last bit. The chat template is proven when a checkpoint is opened, and the ids of its
tokens are compared with the rows of the model (weights/chat_template.py, `read_prompt_tokens`).

Shapes: B batch, L tokens of a sample or of the longest in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PIL

from lingshu.core.entities import Span
from lingshu.core.errors import ArtifactError, InputError, library_errors
from lingshu.core.messages import message_to_json
from lingshu.core.types import Message
from lingshu.models.base import Tiles, VisionLanguageFamily, check_image_steps
from lingshu.models.model_spec import PixelBudget
from lingshu.models.token_spans import (
    AlignedText,
    EntityPolicy,
    entity_character_mask,
    entity_token_mask,
)
from lingshu.weights.chat_template import (
    ChatTemplate,
    Proof,
    StoredTemplate,
    choose_template,
    prove,
    stored_templates,
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


class PromptTokens(NamedTuple):
    """The tokens of a tokenizer that are more than text, and the rows of the model for them.

    `control` are never taken from the text of a turn; those in `markup`, such as the marks of
    thoughts, are taken from answers. `end_of_turn` ends an answer, `stop_ids` end a reply. `n_rows`
    is None without a model.
    """

    image_id: int
    pad_id: int
    end_of_turn: str
    stop_ids: frozenset[int]
    never_sampled: tuple[int, ...]
    control: tuple[str, ...]
    markup: frozenset[str]
    n_rows: int | None


@dataclass(frozen=True)
class Processor:
    """A tokenizer, an image processor, a pixel budget and a chat template of one family.

    `notes` say what a user should know about the template.
    """

    family: VisionLanguageFamily
    tokenizer: Any
    image_processor: Any
    budget: PixelBudget
    template: ChatTemplate
    tokens: PromptTokens
    notes: tuple[str, ...] = ()

    @property
    def image_token_id(self) -> int:
        return self.tokens.image_id

    @property
    def never_sampled(self) -> list[int]:
        """Ids of the tokens that stand for pixels, where the model has rows for them."""
        return list(self.tokens.never_sampled)

    def with_budget(self, budget: PixelBudget) -> Processor:
        image_processor = self.family.with_budget(self.image_processor, budget)
        return replace(self, image_processor=image_processor, budget=budget)

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
            InputError: messages that refer to other images than were given, invalid text, or a
                dialogue that the chat template refuses or does not show as it would be answered.
            ArtifactError: a tokenizer that entities cannot be used with.
        """
        shown = [part for message in messages for part in message.parts if isinstance(part, int)]
        if shown != list(range(len(tiles))):
            raise InputError(
                f"the messages show images {shown}, {len(tiles)} were given; show each once, in"
                " order."
            )
        try:
            for message in messages:
                message.text.encode()
        except UnicodeEncodeError:
            raise InputError(
                "a turn contains a lone surrogate (half of a character), which no tokenizer takes;"
                " fix the text."
            ) from None
        ids: list[int] = []
        labels: list[int] = []
        unexpanded = iter(tiles)
        entity_masks = [np.zeros(0, bool)]
        for text, turn in self._segments(messages):
            answer = turn is not None
            if turn is not None and entities is not None:
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
            raise InputError(
                f"the chat template ({self.template.source}) does not show each image of this"
                " dialogue once; change its turns."
            )
        if self.tokens.n_rows is not None and token_ids.max(initial=0) >= self.tokens.n_rows:
            raise InputError(
                f"a token of this dialogue has the id {token_ids.max()}, and the model has"
                f" {self.tokens.n_rows} rows; change its text."
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
            message.text, self._escape_control_tokens(message).text, answer, spans
        )
        tokenized = self.tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
        is_word = ~np.isin(tokenized["input_ids"], list(self.tokenizer.added_tokens_decoder))
        return tokenized["input_ids"], entity_token_mask(
            AlignedText(answer, tokenized["offset_mapping"], is_word), in_entity, policy
        )

    def _segments(self, messages: Sequence[Message]) -> list[tuple[str, int | None]]:
        """The rendered dialogue in pieces, with the turn of those that are learned: an answer
        including its end token.

        An answer is learned if what precedes it is what the model would see when it gives it, and if
        the dialogue still shows both. Templates that leave thoughts out of earlier answers
        change those, so that only answers without thoughts are learned before the last one. Not
        learned either: what an assistant says before the first question, and empty answers.
        """
        conversation = [
            message_to_json(self._escape_control_tokens(message)) for message in messages
        ]
        last = len(messages) - 1
        is_answered = bool(messages) and messages[-1].role == "assistant"
        dialogue = self.render(conversation, prompt=not is_answered)
        segments: list[tuple[str, int | None]] = []
        consumed = 0
        has_question = False
        for turn, message in enumerate(messages):
            has_question = has_question or message.role == "user"
            if message.role != "assistant" or not has_question or not message.text.strip():
                continue
            prompt = self.render(conversation[:turn], prompt=True)
            full_text = (
                dialogue if turn == last else self.render(conversation[: turn + 1], prompt=False)
            )
            end = full_text.find(self.tokens.end_of_turn, len(prompt))
            end = len(full_text) if end < 0 else end + len(self.tokens.end_of_turn)
            if full_text.startswith(prompt) and dialogue.startswith(full_text[:end]):
                segments += [(prompt[consumed:], None), (full_text[len(prompt) : end], turn)]
                consumed = end
            elif turn == last:
                raise InputError(
                    f"the chat template ({self.template.source}) does not write the last answer"
                    " where it would be generated; change the turns."
                )
        # The line break after the last answer is never generated and teaches nothing.
        if is_answered and segments and segments[-1][1] == last:
            return segments
        return [*segments, (dialogue[consumed:], None)]

    def render(self, conversation: Sequence[Mapping[str, Any]], *, prompt: bool) -> str:
        """The text of the chat template; `prompt` opens the assistant's turn at its end.

        Raises:
            InputError: the template refuses the dialogue.
        """
        return self.template.render(conversation, prompt=prompt)

    def _escape_control_tokens(self, message: Message) -> Message:
        # Control tokens inside a question or a caption must stay text: they could close a turn or
        # act as an image.
        is_answer = message.role == "assistant"
        parts: list[str | int] = []
        for is_text, run_parts in groupby(message.parts, lambda part: isinstance(part, str)):
            group = list(run_parts)
            # a token may be spread over neighboring texts
            text = "".join(map(str, group)) if is_text else ""
            found = [token for token in self.tokens.control if token in text]
            if is_answer:
                found = [token for token in found if token not in self.tokens.markup]
            for token in found:
                text = text.replace(token, f"{token[0]} {token[1:]}")
            parts += [text] if found else group
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
        ids, labels = np.full(shape, self.tokens.pad_id), np.full(shape, IGNORE_INDEX)
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


def build_processor(
    family: VisionLanguageFamily, tokenizer: Any, image_processor: Any, budget: PixelBudget
) -> Processor:
    """A processor with the family's own chat template, for a model that is made here."""
    proof = prove(_family_template(family, tokenizer), family.image_marker)
    assert proof.problem is None, proof.problem
    tokens = read_prompt_tokens(tokenizer, family, proof, None)
    return Processor(family, tokenizer, image_processor, budget, proof.template, tokens)


def load_processor(
    folder: Path,
    family: VisionLanguageFamily,
    config: Any,
    *,
    template: StoredTemplate | None = None,
) -> Processor:
    """The processor of a checkpoint folder, with the pixel budget saved there.

    Args:
        config: The model's configuration, whose ids and rows the tokenizer is compared with.
        template: A chat template to use instead of those that are stored there.

    Raises:
        ArtifactError: tokenizer or image processor files are missing or damaged, no chat template
            works, or the tokenizer is not that of the model.
    """
    from transformers import AutoImageProcessor, AutoTokenizer

    # What is wrong with a file of someone else may surface anywhere in transformers.
    problem = f"{folder}: its tokenizer or image processor cannot be loaded"
    with library_errors(problem, "copy its tokenizer and preprocessor files again"):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        image_processor = AutoImageProcessor.from_pretrained(
            folder, backend="pil", trust_remote_code=False
        )
        check_image_steps(image_processor)
        family.match_config(image_processor, config)
        budget = family.read_budget(image_processor)
    choice = choose_template(
        folder,
        stored_templates(folder) if template is None else [template],
        image_marker=family.image_marker,
        family_template=_family_template(family, tokenizer),
    )
    try:
        tokens = read_prompt_tokens(tokenizer, family, choice.proof, config)
    except ArtifactError as error:
        raise ArtifactError(f"{folder}: {error}") from None
    tokenizer.chat_template = choice.template.text  # what an export writes
    return Processor(
        family, tokenizer, image_processor, budget, choice.template, tokens, choice.notes
    )


def _family_template(family: VisionLanguageFamily, tokenizer: Any) -> ChatTemplate:
    source = f"the {family.model_type} family's own"
    return ChatTemplate(source, family.chat_template, dict(tokenizer.special_tokens_map))


def read_prompt_tokens(
    tokenizer: Any, family: VisionLanguageFamily, proof: Proof, config: Any
) -> PromptTokens:
    """The tokens of prompts and replies, compared with the configuration of the model.

    Ids that no prompt uses may lie beyond the rows, as some converters write `<video>`; they cannot
    be sampled.

    Raises:
        ArtifactError: an id that prompts use has no row, or the configuration names another image
            token.
    """
    added = tokenizer.added_tokens_encoder
    special = set(tokenizer.all_special_tokens)
    special |= {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    image_id = added.get(family.image_token)
    if image_id is None:
        raise ArtifactError(
            f"the tokenizer has no token {family.image_token}, which stands for images; copy the"
            " tokenizer files of this model again."
        )
    # Gemma's vocabulary also adds line breaks and HTML tags, which stay the text that they are.
    own = {*special, *family.special_tokens, *family.never_sampled}
    marks = {token for token in added if not token.isspace() and token in proof.template.text}
    after = [(proof.after_answer.find(token), token) for token in own]
    found = min((position for position in after if position[0] >= 0), default=None)
    end_of_turn = found[1] if found else tokenizer.eos_token
    if end_of_turn is None:
        raise ArtifactError(
            "neither the tokenizer (eos_token) nor the chat template ends an answer with a token;"
            " copy the tokenizer files of this model again."
        )
    stop_ids = {tokenizer.convert_tokens_to_ids(end_of_turn), tokenizer.eos_token_id} - {None}
    pad_id = tokenizer.pad_token_id
    used_ids = {*stop_ids, image_id, tokenizer.vocab_size - 1} | ({pad_id} - {None})
    used_ids.update(tokenizer("".join(proof.renders), add_special_tokens=False)["input_ids"])
    n_rows = None
    if config is not None:
        n_rows = int(config.get_text_config().vocab_size)
        _check_ids(tokenizer, config, image_id, max(used_ids), n_rows)
    banned = sorted(added[token] for token in family.never_sampled if token in added)
    return PromptTokens(
        image_id,
        min(stop_ids) if pad_id is None else pad_id,
        end_of_turn,
        frozenset(stop_ids),
        tuple(token_id for token_id in banned if n_rows is None or token_id < n_rows),
        tuple(token for token in added if token in own | marks),
        frozenset(marks - own),
        n_rows,
    )


def _check_ids(tokenizer: Any, config: Any, image_id: int, largest: int, n_rows: int) -> None:
    if largest >= n_rows:
        raise ArtifactError(
            f"the tokenizer gives {tokenizer.convert_ids_to_tokens(largest)!r} the id {largest}, and"
            f" the model has {n_rows} rows (vocab_size of config.json); the two are of different"
            " models, so copy the tokenizer files again."
        )
    for key in ("image_token_id", "image_token_index"):
        configured = getattr(config, key, None)
        if configured is not None:
            if configured != image_id:
                raise ArtifactError(
                    f"{key} of config.json is {configured}, and the tokenizer gives the image token"
                    f" the id {image_id}; the two are of different models, so copy the files again."
                )
            return
