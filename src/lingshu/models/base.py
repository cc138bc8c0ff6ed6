"""What differs between model families, as one abstract class that the other modules use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from lingshu.core import registry
from lingshu.core.errors import ArtifactError, suggest_name
from lingshu.models.model_spec import Part, PixelBudget, TinyModel

if TYPE_CHECKING:
    from PIL.Image import Image


# The special tokens of the Qwen2 tokenizer, which several families share, in the order of their ids
# in the released vocabulary.
_QWEN2_TOKEN_NAMES = (
    "endoftext im_start im_end object_ref_start object_ref_end box_start box_end quad_start"
    " quad_end vision_start vision_end vision_pad image_pad video_pad"
)
QWEN2_SPECIAL_TOKENS = tuple(f"<|{name}|>" for name in _QWEN2_TOKEN_NAMES.split())
QWEN2_VISION_TOKENS = QWEN2_SPECIAL_TOKENS[-5:]  # from vision_start on


def chatml_template(image: str, *, default_system: str = "") -> str:
    """A chat template of ChatML turns, in which `image` stands for an image.

    `default_system` is the system turn of a dialogue without one; empty for none.
    """
    system_turn = (
        "{%- if not messages or messages[0]['role'] != 'system' -%}"
        f"{{{{ '<|im_start|>system\\n{default_system}<|im_end|>\\n' }}}}"
        "{%- endif -%}"
    )
    turns = (
        "{%- for message in messages -%}"
        "{{ '<|im_start|>' + message['role'] + '\\n' }}"
        "{%- if message['content'] is string -%}{{ message['content'] }}"
        "{%- else -%}{%- for part in message['content'] -%}"
        f"{{%- if part['type'] == 'image' -%}}{{{{ '{image}' }}}}"
        "{%- else -%}{{ part['text'] }}{%- endif -%}"
        "{%- endfor -%}{%- endif -%}"
        "{{ '<|im_end|>\\n' }}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
    )
    return system_turn + turns if default_system else turns


# The model input that says which tokens belong to images that are seen in both directions.
IMAGE_BLOCK_INPUT = "token_type_ids"


class Tiles(NamedTuple):
    """One image scaled and cut for a model, before normalization: uint8, tiles x 3 x height x
    width.

    `grid` is (1, patch rows, patch columns) for families that compute positions from it, else None.
    Stored as bytes because normalized floats take four times the memory (and twice that with Qwen's
    doubled frame).
    """

    pixels: NDArray[np.uint8]
    tokens: int
    grid: tuple[int, int, int] | None


class VisionTowerSpec(NamedTuple):
    """What the cost of a vision tower depends on, read from the configuration of a model.

    Full-attention blocks attend over all patches of an image (or tile), the others inside windows
    of `window_patches`. A token of the language model is made of `patches_per_token` patches and
    shows `pixels_per_token` pixels; a tile always makes `tile_tokens` tokens, None where an image
    is not cut and its size decides.
    """

    width: int
    full_attention_blocks: int
    window_attention_blocks: int
    window_patches: int
    patches_per_token: int
    pixels_per_token: int
    tile_tokens: int | None


class VisionLanguageFamily(ABC):
    """A model family of transformers: models/families/<model_type>.py with an instance `FAMILY`.

    `parts` maps each trainable part to the prefixes of its parameter names; the longest matching
    prefix decides. `blocks` names the lists of equal layers, vision first, which are sharded and
    recomputed one by one. `processor_class` and the two processor types are the public names that
    an exported checkpoint carries. `never_sampled` are tokens that stand for pixels: one sampled as
    text breaks the count of image features. `token_type_input` is the model input that marks image
    tokens, None if the model takes none; with `token_type_ids` the tokens of an image see each
    other in both directions. `text_model_types` are the language models that the family was proven
    with, empty where its own configuration names the only one.
    """

    model_type: ClassVar[str]
    model_class: ClassVar[str]
    processor_class: ClassVar[str]
    image_processor_type: ClassVar[str]
    video_processor_type: ClassVar[str | None] = None
    text_model_types: ClassVar[tuple[str, ...]] = ()
    parts: ClassVar[Mapping[Part, tuple[str, ...]]]
    blocks: ClassVar[tuple[str, ...]]
    image_token: ClassVar[str]
    special_tokens: ClassVar[tuple[str, ...]]
    named_tokens: ClassVar[Mapping[str, str]] = {}
    never_sampled: ClassVar[tuple[str, ...]]
    chat_template: ClassVar[str]
    has_mrope: ClassVar[bool] = False
    token_type_input: ClassVar[str | None] = None
    # What tiny models are given for a tokenizer: the class of transformers, its tokens by role, and
    # whether it splits bytes (as GPT-2's) or characters with bytes as the last resort.
    tokenizer_class: ClassVar[str] = "Qwen2Tokenizer"
    token_roles: ClassVar[Mapping[str, str | None]] = {
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "bos_token": None,
    }
    byte_level: ClassVar[bool] = True

    @property
    def image_marker(self) -> str:
        """What the chat template writes for an image, to be replaced by `expand`."""
        return self.image_token

    @property
    def has_bidirectional_images(self) -> bool:
        """Whether the tokens of an image see each other in both directions."""
        return self.token_type_input == IMAGE_BLOCK_INPUT

    @property
    def stock_class(self) -> Any:
        """The model class of transformers."""
        import transformers

        return getattr(transformers, self.model_class)

    @abstractmethod
    def image_processor(self, budget: PixelBudget, image_size: int) -> Any:
        """The stock image processor with this budget; `image_size` is the side of a tile."""

    @abstractmethod
    def with_budget(self, processor: Any, budget: PixelBudget) -> Any:
        """A copy of an image processor with another budget."""

    @abstractmethod
    def read_budget(self, processor: Any) -> PixelBudget: ...

    @abstractmethod
    def match_config(self, processor: Any, config: Any) -> None:
        """Compare an image processor with the configuration of its model, and write into it what
        only that knows.

        Raises:
            ArtifactError: the two are of different models.
        """

    @abstractmethod
    def prepare(self, processor: Any, image: Image, n_images: int, budget: PixelBudget) -> Tiles:
        """Scale and cut one of the `n_images` images of a sample.

        Raises:
            ImageError: a shape that the family cannot take.
        """

    @abstractmethod
    def features(self, processor: Any, tiles: Sequence[Tiles]) -> dict[str, NDArray[Any]]:
        """The model inputs of the images of a batch."""

    @abstractmethod
    def expand(self, tiles: Tiles) -> str:
        """The text of an image, in place of its marker in the chat template."""

    @abstractmethod
    def positions(
        self, is_image: NDArray[np.bool_], tiles: Sequence[Tiles]
    ) -> NDArray[np.int64] | None:
        """Position ids (3 x tokens) of a sample where `has_mrope`, else None: they count up."""

    @abstractmethod
    def token_ids(self, token_to_id: Callable[[str], int]) -> dict[str, int]:
        """The token ids that the model configuration names."""

    @abstractmethod
    def tower(self, config: Any) -> VisionTowerSpec: ...

    def tower_inputs(self, tower: Any, grid: Any) -> tuple[dict[str, Any], list[list[int]]]:
        """What a tower that takes images of any size derives from their sizes (images x 3, on the
        CPU): further inputs, and the lengths of the segments that it attends in, of whole images
        and then of windows.
        """
        raise NotImplementedError(f"{self.model_type} takes tiles of one size")

    @abstractmethod
    def tiny_config(self, spec: TinyModel, text: dict[str, Any], ids: dict[str, Any]) -> Any:
        """The stock configuration class with tiny sizes; `text` is that of the language model."""

    def processor_settings(self, processor: Any) -> dict[str, int]:  # noqa: ARG002
        """Settings of the public processor class besides those of its components."""
        return {}

    def part_of(self, parameter: str) -> Part:
        """The part that a parameter of the stock model class belongs to.

        Raises:
            ArtifactError: the name belongs to no part, so freezing it would be a guess.
        """
        lengths: dict[Part, int] = {
            part: max((len(p) for p in prefixes if parameter.startswith(p)), default=0)
            for part, prefixes in self.parts.items()
        }
        part = max(lengths, key=lengths.__getitem__)
        if not lengths[part]:
            raise ArtifactError(
                f"parameter {parameter!r} belongs to no part of {self.model_type}; is this checkpoint of"
                " that family?"
            )
        return part


def family_of(model_type: str) -> VisionLanguageFamily:
    """The family of a `model_type` of config.json.

    Raises:
        ArtifactError: a model type that no family covers.
    """
    names = registry.names("families")
    if model_type not in names:
        raise ArtifactError(
            f"model type {model_type!r} is not supported; {suggest_name(model_type, names)} Another"
            " server can run it: give its address as http://HOST/v1#NAME."
        )
    family = registry.get_attribute("families", model_type, "FAMILY")
    return cast(VisionLanguageFamily, family)


def family_of_config(config: Mapping[str, Any]) -> VisionLanguageFamily:
    """The family of the model that a config.json describes.

    Raises:
        ArtifactError: a model type that no family covers, or a language model that the family was
            not proven with, such as a mixture of experts.
    """
    family = family_of(str(config.get("model_type")))
    text = config.get("text_config")
    text_type = text.get("model_type") if isinstance(text, Mapping) else None
    if text_type is not None and text_type not in (family.text_model_types or (text_type,)):
        raise ArtifactError(
            f"the language model of this {family.model_type} is of type {text_type!r}; supported are"
            f" {', '.join(family.text_model_types)}. Another server can run it: give its address as"
            " http://HOST/v1#NAME."
        )
    return family


def check_image_steps(image_processor: Any) -> None:
    """Raise ArtifactError for an image processor that leaves out a step which is always done here."""
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not getattr(image_processor, step, True):
            problem = f"preprocessor_config.json turns {step} off, which is always done here"
            raise ArtifactError(f"{problem}; take the file of the model it was made from.")
    if not isinstance(image_processor.resample, int):
        problem = f"preprocessor_config.json has resample {image_processor.resample!r}"
        raise ArtifactError(f"{problem}, not the number of a filter; copy the file again.")


def normalize_pixels(image_processor: Any, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 pixels (... x 3 x height x width) as the floats of the stock image processor.

    Rescaling and normalizing act on single values, so a table of 3 x 256 made by the processor's
    own functions gives the same floats to the last bit at a fraction of the time.
    """
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
    table = image_processor.normalize(
        image_processor.rescale(levels, image_processor.rescale_factor),
        image_processor.image_mean,
        image_processor.image_std,
    )
    table = np.asarray(table, np.float32).reshape(3, 256)
    return np.stack([table[c][pixels[..., c, :, :]] for c in range(3)], axis=-3)
