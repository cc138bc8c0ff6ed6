"""Greedy answers of GGUF files, run in an environment that has llama-cpp-python.

    python bench/_llama_cpp_side.py MODEL.gguf MMPROJ.gguf ROWS.jsonl IMAGE_TOKENS

A row has `prompt` (rendered, with <__media__> in place of the image) and `image`, a PNG file. Prints
a JSON line for each: `text`, the reply, and `logits`, those of its first token.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import llama_cpp  # pyright: ignore[reportMissingImports]
import numpy as np
from llama_cpp import mtmd_cpp  # pyright: ignore[reportMissingImports]

CONTEXT, MAX_TOKENS = 512, 32


class Answerer:
    """A model with its projector; every image has `image_tokens` tokens, so that none is scaled."""

    def __init__(self, model: str, projector: str, image_tokens: int) -> None:
        self.llama = llama_cpp.Llama(model, n_ctx=CONTEXT, n_threads=1, verbose=False)
        self.context = self.llama._ctx.ctx
        settings = mtmd_cpp.mtmd_context_params_default()
        settings.use_gpu, settings.n_threads, settings.print_timings = False, 1, False
        settings.image_min_tokens = settings.image_max_tokens = image_tokens
        self.vision = mtmd_cpp.mtmd_init_from_file(projector.encode(), self.llama.model, settings)
        if self.vision is None:
            raise SystemExit(f"{projector} is refused by llama.cpp")

    def answer(self, prompt: str, image: bytes) -> dict[str, object]:
        buffer = (ctypes.c_uint8 * len(image)).from_buffer_copy(image)
        bitmap = mtmd_cpp.mtmd_helper_bitmap_init_from_buf(self.vision, buffer, len(image), False)
        bitmaps = (mtmd_cpp.mtmd_bitmap_p_ctypes * 1)(bitmap)
        text, encoded = mtmd_cpp.mtmd_input_text(), prompt.encode()
        text.text, text.text_len = encoded, len(encoded)
        text.add_special, text.parse_special = False, True
        chunks, position = mtmd_cpp.mtmd_input_chunks_init(), llama_cpp.llama_pos(0)
        try:
            code = mtmd_cpp.mtmd_tokenize(self.vision, chunks, ctypes.byref(text), bitmaps, 1)
            _check(code, "mtmd_tokenize")
            self.llama.reset()
            self.llama._ctx.kv_cache_clear()
            start, sequence = llama_cpp.llama_pos(0), llama_cpp.llama_seq_id(0)
            code = mtmd_cpp.mtmd_helper_eval_chunks(
                self.vision, self.context, chunks, start, sequence, CONTEXT, True, position
            )
            _check(code, "mtmd_helper_eval_chunks")
        finally:
            mtmd_cpp.mtmd_input_chunks_free(chunks)
            mtmd_cpp.mtmd_bitmap_free(bitmap)
        first = self._logits()
        return {"text": self._generate(), "logits": first.tolist()}

    def _logits(self) -> np.ndarray:
        pointer = llama_cpp.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(pointer, (self.llama.n_vocab(),)).copy()

    def _generate(self) -> str:
        ids: list[int] = []
        while len(ids) < MAX_TOKENS:
            token = int(self._logits().argmax())
            if token == self.llama.token_eos():
                break
            ids.append(token)
            tokens = (llama_cpp.llama_token * 1)(token)
            code = llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(tokens, 1))
            _check(code, "llama_decode")
        return self.llama.detokenize(ids).decode("utf-8", "replace")


def _check(code: int, function: str) -> None:
    if code:
        raise SystemExit(f"{function} ended with {code}")


def main() -> None:
    model, projector, rows, image_tokens = sys.argv[1:]
    answerer = Answerer(model, projector, int(image_tokens))
    for line in Path(rows).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        print(json.dumps(answerer.answer(row["prompt"], Path(row["image"]).read_bytes())))


if __name__ == "__main__":
    main()
