"""The vLLM engine: how our arguments become vLLM's.

vLLM needs a GPU and an environment of its own, so that a stand-in module takes its place here. It
shows only what our engine calls and with what; it shows nothing of vLLM itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lingshu.core.errors import ConfigError, EngineError, MissingExtraError
from lingshu.core.messages import user_turn
from lingshu.core.types import (
    CheckpointOptions,
    Engine,
    EngineOptions,
    Image,
    Message,
    Reply,
    Sample,
    Sampling,
    VllmOptions,
)
from lingshu.engines.vllm import load_vllm
from lingshu.imaging.read import encode_png
from lingshu.inference.engines import engine_name, open_engine
from lingshu.models.load import open_processor


@dataclass
class Params:
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    logit_bias: dict[int, float]
    stop_token_ids: list[int]
    repetition_penalty: float
    logprobs: int | None


@dataclass
class Llm:
    """Says "ok" to everything but what is too long."""

    model: str
    seed: int
    trust_remote_code: bool
    limit_mm_per_prompt: dict[str, int]
    conversations_seen: list[list[dict]] = field(default_factory=list)
    params: list[Params] = field(default_factory=list)
    gpu_memory_utilization: float | None = None
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    max_model_len: int | None = None
    enforce_eager: bool = False
    chat_templates: list[str] = field(default_factory=list)
    reloaded: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    cleared_caches: list[str] = field(default_factory=list)
    reset_succeeds: bool = True

    @property
    def llm_engine(self) -> Any:
        return SimpleNamespace(
            engine_core=SimpleNamespace(
                reset_encoder_cache=lambda: self.cleared_caches.append("images as encoded")
            )
        )

    def collective_rpc(self, method: str, *, kwargs: dict[str, str]) -> None:
        self.reloaded.append((method, kwargs))

    def reset_mm_cache(self) -> None:
        self.cleared_caches.append("images")

    def reset_prefix_cache(self) -> bool:
        self.cleared_caches.append("prefixes")
        return self.reset_succeeds

    def chat(
        self,
        conversations: Sequence[list[dict]],
        params: Sequence[Params],
        *,
        use_tqdm: bool,
        chat_template: str,
    ) -> list[Any]:
        assert len(conversations) == len(params) and not use_tqdm
        if any("too long" in str(turns) for turns in conversations):
            raise ValueError("the prompt is longer than the model's 10 tokens")
        self.conversations_seen += conversations
        self.params += params
        self.chat_templates.append(chat_template)
        completion = SimpleNamespace(text="ok", token_ids=[1, 2], finish_reason="stop")
        return [
            SimpleNamespace(outputs=[completion], prompt_token_ids=[0] * 9) for _ in conversations
        ]


@pytest.fixture
def fake_vllm(checkpoint, monkeypatch: pytest.MonkeyPatch) -> tuple[Engine, list[Llm]]:
    llms: list[Llm] = []
    fake = ModuleType("vllm")
    fake.LLM = lambda **options: llms.append(Llm(**options)) or llms[-1]  # type: ignore[attr-defined]
    fake.SamplingParams = Params  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", fake)
    return open_engine(f"vllm:{checkpoint}", EngineOptions()), llms


def test_the_prefix_leads_to_it_and_its_absence_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert engine_name("vllm:some/model") == "vllm"
    pytest.importorskip("torch")
    with pytest.raises(MissingExtraError, match=r"lingshu\[vllm\]"):
        open_engine("vllm:some/model", EngineOptions())


def test_a_sample_becomes_a_chat_and_its_outcome_a_reply(fake_vllm, checkpoint) -> None:
    from lingshu.models.load import identify

    engine, (llm,) = fake_vllm
    assert (engine.model, engine.digest, engine.endpoint) == (
        checkpoint.name,
        identify(str(checkpoint))[1],
        None,
    )
    assert (llm.model, llm.trust_remote_code, llm.limit_mm_per_prompt) == (
        str(checkpoint),
        False,
        {"image": 8},
    )
    image = Image(data=encode_png(np.zeros((4, 4, 3), np.uint8)))
    with_image = Sample(
        "a", (Message("system", ("Be brief.",)), user_turn("Which side?", 1)), (image,)
    )
    text_only = Sample("b", (user_turn("Why?", 0),))
    broken = Sample("c", (user_turn("?", 1),), (Image(data=b"no image"),))
    sampling = Sampling(max_tokens=9, temperature=0.5, top_p=0.9, seed=3, num_generations=2)
    [replies] = engine.generate(
        [with_image, text_only, broken], sampling, skip={("b", 1), ("c", 0)}
    )
    assert replies[0].error and (replies[0].id, replies[0].generation_index) == ("c", 1)
    assert replies[1:] == [
        Reply(*name, "stop", 9, 2) for name in (("a", "ok", 0), ("a", "ok", 1), ("b", "ok", 0))
    ]
    assert llm.conversations_seen[0][0] == {"role": "system", "content": "Be brief."}
    assert llm.conversations_seen[0][1]["content"][0]["image_url"]["url"].startswith(
        "data:image/png;base64,"
    )
    assert llm.conversations_seen[2] == [{"role": "user", "content": "Why?"}]
    first = llm.params[0]
    assert (first.max_tokens, first.temperature, first.top_p) == (9, 0.5, 0.9)
    assert len({params.seed for params in llm.params}) == 3


def test_tokens_that_stand_for_pixels_are_never_sampled(fake_vllm, checkpoint) -> None:
    engine, (llm,) = fake_vllm
    list(engine.generate([Sample("a", (user_turn("?", 0),))], Sampling()))
    assert llm.params[0].logit_bias == dict.fromkeys(
        open_processor(checkpoint).never_sampled, -100.0
    )


def test_vllm_gets_the_template_and_the_end_tokens_of_the_checkpoint(fake_vllm, checkpoint) -> None:
    engine, (llm,) = fake_vllm
    list(engine.generate([Sample("a", (user_turn("?", 0),))], Sampling()))
    processor = open_processor(checkpoint)
    assert llm.chat_templates == [processor.template.text]
    assert llm.params[0].stop_token_ids == sorted(processor.tokens.stop_ids)
    assert llm.params[0].repetition_penalty == 1  # also where generation_config.json has another
    assert engine.notes == processor.notes


def test_options_reach_vllm_and_change_the_identity(fake_vllm, checkpoint, tmp_path) -> None:
    engine, llms = fake_vllm
    (tmp_path / "brief.jinja").write_text("Be brief.\n" + open_processor(checkpoint).template.text)
    options = EngineOptions(
        vllm=VllmOptions(
            tensor_parallel_size=2,
            data_parallel_size=4,
            gpu_memory_utilization=0.7,
            max_model_len=4096,
            enforce_eager=True,
            stop_token_ids=(3,),
        ),
        checkpoint=CheckpointOptions(
            chat_template=str(tmp_path / "brief.jinja"), repetition_penalty=1.05
        ),
    )
    other = open_engine(f"vllm:{checkpoint}", options)
    list(other.generate([Sample("a", (user_turn("?", 0),))], Sampling()))
    llm = llms[-1]
    assert (llm.tensor_parallel_size, llm.data_parallel_size, llm.max_model_len) == (2, 4, 4096)
    assert (llm.gpu_memory_utilization, llm.enforce_eager) == (0.7, True)
    assert llm.params[0].repetition_penalty == 1.05 and 3 in llm.params[0].stop_token_ids
    assert llm.chat_templates[0].startswith("Be brief.")
    assert other.digest != engine.digest


@pytest.mark.parametrize("model", ["echo", "http://127.0.0.1:9/v1#m", "some/model"])
def test_options_of_vllm_are_refused_for_other_engines(model: str) -> None:
    with pytest.raises(ConfigError, match="--vllm options"):
        open_engine(model, EngineOptions(vllm=VllmOptions(tensor_parallel_size=2)))


@pytest.mark.parametrize("values", [{"tensor_parallel_size": 0}, {"gpu_memory_utilization": 1.5}])
def test_impossible_options_of_vllm_are_refused(values) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        VllmOptions(**values)


def test_new_weights_replace_the_old_ones_completely(fake_vllm, checkpoint) -> None:
    engine, (llm,) = fake_vllm
    engine.reload(checkpoint)
    assert llm.reloaded == [("reload_weights", {"weights_path": str(checkpoint)})]
    assert sorted(llm.cleared_caches) == ["images", "images as encoded", "prefixes"]
    llm.reset_succeeds = False
    with pytest.raises(EngineError, match="prefixes computed with the old weights"):
        engine.reload(checkpoint)
    assert llm.gpu_memory_utilization is None
    load_vllm(str(checkpoint), VllmOptions(gpu_memory_utilization=0.3))


def test_tokens_are_returned_for_training(fake_vllm) -> None:
    engine, _ = fake_vllm
    [[reply]] = engine.generate([Sample("a", (user_turn("?", 0),))], Sampling())
    assert reply.token_ids == (1, 2)


def test_a_prompt_that_vllm_refuses_fails_one_sample(fake_vllm) -> None:
    engine, _ = fake_vllm
    samples = [Sample(name, (user_turn(name, 0),)) for name in ("good", "too long", "also good")]
    [replies] = engine.generate(samples, Sampling())
    assert [(reply.id, reply.text) for reply in replies] == [
        ("good", "ok"),
        ("too long", None),
        ("also good", "ok"),
    ]
    assert "longer than" in (replies[1].error or "")
