"""What the two comparisons with TRL share: a tiny Qwen2.5-VL, phantoms in the form that each side
takes, one side's process.

TRL and lingshu are measured in processes of their own, all run by one interpreter that has both.
Its environment V, torch first so that a configured CPU wheel is taken, and no torchvision:

    V/bin/pip install torch==2.13.0
    V/bin/pip install trl==1.16.0 transformers==5.23.0 datasets peft pytest pytest-timeout &&
    V/bin/pip install -e '.[torch]' V/bin/python -m pytest -m peers tests/train/test_trl_parity.py
"""

from __future__ import annotations

import copy
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PIL

from lingshu.core.types import Sample
from lingshu.imaging.read import image_bytes
from lingshu.models.families.qwen2_5_vl import FAMILY
from lingshu.models.model_spec import PixelBudget, TinyModel
from lingshu.models.processor import Processor
from lingshu.models.tiny import build_tiny

SIDE = 56
PEERS = ("trl", "transformers", "accelerate", "datasets", "torch")
# The same text, with the marks by which transformers finds the tokens of an answer.
ANSWER = "{{ '<|im_end|>\\n' }}"
MARKED = FAMILY.chat_template.replace(
    "{%- if message['content'] is string -%}",
    "{%- if message['role'] == 'assistant' -%}{%- generation -%}{%- if message['content'] is string"
    " -%}{{ message['content'] }}{%- else -%}{%- for part in message['content'] -%}{{ part['text']"
    " }}{%- endfor -%}{%- endif -%}{{ '<|im_end|>' }}{%- endgeneration -%}{{ '\\n' }}{%- else"
    " -%}{%- if message['content'] is string -%}",
).replace(ANSWER + "{%- endfor -%}", ANSWER + "{%- endif -%}{%- endfor -%}")


def tiny(samples: Sequence[Sample]) -> tuple[Any, Processor]:
    """A model of the quickstart's size, its tokenizer trained on the samples' own words."""
    corpus = [
        part for s in samples for m in s.messages for part in m.parts if isinstance(part, str)
    ]
    return build_tiny(
        TinyModel(),
        [*corpus, "system user assistant You are a helpful assistant."],
        budget=pixel_budget(),
        seed=0,
    )


def pixel_budget() -> PixelBudget:
    return PixelBudget(min_pixels=SIDE * SIDE, max_pixels=SIDE * SIDE)


def image(sample: Sample) -> PIL.Image:
    return PIL.open(BytesIO(image_bytes(sample.images[0])))


def stock_processor(processor: Processor) -> Any:
    """The stock processor class around the same tokenizer and image processor, without the video
    part that needs torchvision.
    """
    from transformers import Qwen2_5_VLProcessor
    from transformers.processing_utils import ProcessorMixin

    class ImageOnly(Qwen2_5_VLProcessor):
        def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str) -> None:
            tokens = [FAMILY.image_token, "<|video_pad|>"]
            self.image_token, self.video_token = tokens
            self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids(tokens)
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:  # noqa: ARG002
            return type(argument)

        @property
        def model_input_names(self) -> list[str]:
            return [
                "input_ids",
                "attention_mask",
                "mm_token_type_ids",
                "pixel_values",
                "image_grid_thw",
            ]

    tokenizer = copy.deepcopy(processor.tokenizer)
    # As TRL itself loads one. GRPOTrainer pads prompts on the left, and image marks on the side
    # that the tokenizer says.
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    return ImageOnly(processor.image_processor, tokenizer, MARKED)


def step_clock() -> Any:
    """A callback of transformers' Trainer that notes the CPU seconds at the end of every step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.at: list[float] = []

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            self.at.append(time.process_time())

    return Clock()


def quiet_arguments(out: str, **overrides: Any) -> dict[str, Any]:
    """Settings under which TRL trains in float32 on one CPU thread and neither saves, reports nor
    recomputes activations.
    """
    plain = {
        "output_dir": out,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
    }
    plain |= {"report_to": "none", "disable_tqdm": True, "logging_strategy": "no", "seed": 0}
    same = {
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
    }
    return plain | same | overrides


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_in_subprocess(script: str, side: str, *, python: str) -> dict[str, Any]:
    """Run one side in a separate process; its last line is what it found."""
    command = [python, str(Path(script)), "--side", side]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def ready() -> bool:
    """Whether this interpreter has TRL; says so where it has not."""
    if find_spec("trl") is None:
        print(
            f"{Path(sys.argv[0]).name}: {sys.executable} has no trl; nothing was measured. Its"
            " environment: bench/_trl.py."
        )
        return False
    torch.set_num_threads(1)
    return True


def versions() -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in PEERS)
