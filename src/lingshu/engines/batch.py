"""Asks through files: the batch service of an OpenAI-compatible address, or a folder that somebody
carries to one and back.

    batch:http(s)://host/v1#name     uploads the requests, waits for the batch, and reads its output
    batch:FOLDER@http(s)://host/v1#name   writes FOLDER/<digest>.requests.jsonl and reads FOLDER/<digest>.replies.jsonl

Batches cost less and take hours. A run that was killed while it waited finds its batch again by the
digest of the requests. Replies are those of the address itself: what was asked in one way is not
asked again in the other. Core/release.py decides whether a sample may be sent, and written to a
folder, at all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from lingshu.core.errors import BadImage, EngineError, InputError, one_line
from lingshu.core.files import numbered_jsonl, sha256_bytes, write_text
from lingshu.core.nouns import Engine, Image, Reply, Sample, Sampling
from lingshu.core.options import EngineOptions
from lingshu.core.release import Release, check_release
from lingshu.core.wire import Endpoint, read_answer
from lingshu.engines import openai
from lingshu.imaging.read import ShardReader, decode, image_bytes, image_name, png_bytes

# Below the limits that services set: 50,000 requests and 200 MB in a file.
FILE_REQUESTS, FILE_BYTES = 20_000, 90 << 20
MAX_OUTPUT_BYTES = 1 << 30
POLL_S = 30.0
OVER = ("failed", "expired", "cancelled", "canceled")
_FENCE = "lingshu-batch-7c1f"


@dataclass(frozen=True)
class Batch:
    """A model behind the batch service of an address, or behind a folder."""

    model: str
    digest: str
    name: str
    wire: Endpoint
    folder: Path | None = None
    release: Release = field(default_factory=Release)
    poll_s: float = POLL_S

    @property
    def endpoint(self) -> str:
        return self.wire.url

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        *,
        skip: Container[tuple[str, int]] = (),
    ) -> Iterator[list[Reply]]:
        """The replies of one file of requests after the other.

        Raises:
            ReleaseError: a sample may not leave this machine; nothing was written or sent.
            EngineError: the service refuses or failed; or the replies are not in the folder yet,
                which the message says.
        """
        asked = [
            (s, copy)
            for s in samples
            for copy in range(sampling.copies)
            if (s.id, copy) not in skip
        ]
        check_release((sample for sample, _ in asked), self.wire.url, self.release)
        waiting: list[str] = []
        for part, unreadable in self._parts(asked, sampling):
            if unreadable:
                yield unreadable
            if not part:
                continue
            lines = "".join(line for _, line in part)
            output = self._carried(lines) if self.folder else self._served(lines)
            if output is None:
                waiting.append(sha256_bytes(lines.encode())[:16])
                continue
            yield _replies([item for item, _ in part], output)
        if waiting:
            raise EngineError(
                f"{len(waiting)} files of requests lie in {self.folder} (first"
                f" {waiting[0]}.requests.jsonl); have them answered, put each output beside it as"
                f" {waiting[0]}.replies.jsonl, and run the same command again."
            )

    def _parts(
        self, asked: Sequence[tuple[Sample, int]], sampling: Sampling
    ) -> Iterator[tuple[list[tuple[tuple[Sample, int], str]], list[Reply]]]:
        """The requests cut into files, each line with its sample; beside them the samples whose
        image cannot be read.
        """
        part: list[tuple[tuple[Sample, int], str]] = []
        unreadable: list[Reply] = []
        held = 0
        with ShardReader() as shards:

            def encoded(image: Image) -> bytes:
                return png_bytes(decode(image_bytes(image, shards=shards), name=image_name(image)))

            for sample, copy in asked:
                try:
                    line = self._line(sample, copy, sampling, encoded)
                except BadImage as error:
                    unreadable.append(Reply(sample.id, None, copy, error=one_line(error)))
                    continue
                if part and (len(part) == FILE_REQUESTS or held + len(line) > FILE_BYTES):
                    yield part, unreadable
                    part, unreadable, held = [], [], 0
                part.append(((sample, copy), line))
                held += len(line)
        yield part, unreadable

    def _line(
        self, sample: Sample, copy: int, sampling: Sampling, encoded: Callable[[Image], bytes]
    ) -> str:
        body = openai.request(self.name, sample, copy, sampling, encoded=encoded)
        row = {
            "custom_id": _name(sample.id, copy),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": body,
        }
        return json.dumps(row, sort_keys=True) + "\n"

    def _carried(self, lines: str) -> list[Mapping[str, Any]] | None:
        """The output that lies in the folder; without one the requests are written there."""
        assert self.folder is not None
        stem = sha256_bytes(lines.encode())[:16]
        output = self.folder / f"{stem}.replies.jsonl"
        if output.is_file():
            return [row for _, row in numbered_jsonl(output, torn_ok=False)]
        write_text(self.folder / f"{stem}.requests.jsonl", lines)
        return None

    # --- the service
    # -------------------------------------------------------------------------------------------------

    def _served(self, lines: str) -> list[Mapping[str, Any]]:
        key = sha256_bytes(lines.encode())
        batch = self._known(key) or self._begin(lines, key)
        while batch.get("status") != "completed":
            if batch.get("status") in OVER:
                raise EngineError(
                    f"{self.wire.url}: the batch {batch.get('id')} is {batch.get('status')}; run"
                    " again to send it anew."
                )
            time.sleep(self.poll_s)
            batch = self._json("GET", f"/batches/{batch['id']}")
        rows: list[Mapping[str, Any]] = []
        for name in ("output_file_id", "error_file_id"):
            if batch.get(name):
                data = self._call("GET", f"/files/{batch[name]}/content")
                rows += [
                    row
                    for line in data.splitlines()
                    if line.strip() and isinstance(row := json.loads(line), dict)
                ]
        return rows

    def _known(self, key: str) -> Mapping[str, Any] | None:
        """The batch of an earlier run that asked the very same, unless it came to nothing."""
        found = self._json("GET", "/batches?limit=100").get("data") or []
        same = (
            b
            for b in found
            if (b.get("metadata") or {}).get("digest") == key and b.get("status") not in OVER
        )
        return next(same, None)

    def _begin(self, lines: str, key: str) -> Mapping[str, Any]:
        head = (
            f"--{_FENCE}\r\nContent-Disposition: form-data;"
            f' name="purpose"\r\n\r\nbatch\r\n--{_FENCE}\r\n'
        )
        head += (
            'Content-Disposition: form-data; name="file";'
            f' filename="{key[:16]}.jsonl"\r\nContent-Type: application/jsonl\r\n\r\n'
        )
        data = head.encode() + lines.encode() + f"\r\n--{_FENCE}--\r\n".encode()
        file = json.loads(
            self._call("POST", "/files", data, f"multipart/form-data; boundary={_FENCE}")
        )
        asked = {
            "input_file_id": file["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {"digest": key},
        }
        return self._json("POST", "/batches", asked)

    def _json(
        self, method: str, path: str, value: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        data = None if value is None else json.dumps(value).encode()
        found = json.loads(self._call(method, path, data, "application/json"))
        return found if isinstance(found, dict) else {}

    def _call(
        self, method: str, path: str, data: bytes | None = None, kind: str | None = None
    ) -> bytes:
        headers = {"Authorization": f"Bearer {self.wire.api_key}"} if self.wire.api_key else {}
        request = Request(
            f"{self.wire.url}{path}",
            data,
            {**headers, **({"Content-Type": kind} if kind else {})},
            method=method,
        )
        # The environment's proxies are not used: where requests go is what the user wrote, nothing
        # else.
        opener = build_opener(ProxyHandler({}))
        why = ""
        for attempt in range(self.wire.retries + 1):
            if attempt:
                time.sleep(min(60.0, self.wire.backoff_s * 2**attempt))
            try:
                with opener.open(request, timeout=self.wire.timeout_s) as response:
                    found = response.read(MAX_OUTPUT_BYTES + 1)
                if len(found) > MAX_OUTPUT_BYTES:
                    raise EngineError(
                        f"{self.wire.url}{path} is longer than {MAX_OUTPUT_BYTES >> 20} MB; ask"
                        " fewer rows at a time."
                    )
                return found
            except HTTPError as error:
                why = f"HTTP status {error.code}"
                if error.code < 500 and error.code not in (408, 429):
                    break
            except (URLError, OSError) as error:
                why = type(error).__name__
        raise EngineError(
            f"{self.wire.url} has no usable batch service ({why}); use the address without"
            " `batch:`, or a folder."
        )


def _name(sample: str, copy: int) -> str:
    return f"{sample}|{copy}"


def _replies(asked: Sequence[tuple[Sample, int]], rows: Sequence[Mapping[str, Any]]) -> list[Reply]:
    """One reply for each request, whatever the order of the output; one without an output row
    failed.
    """
    by_name = {row.get("custom_id"): row for row in rows}
    return [_reply(sample.id, copy, by_name.get(_name(sample.id, copy))) for sample, copy in asked]


def _reply(sample: str, copy: int, row: Mapping[str, Any] | None) -> Reply:
    if row is None:
        return Reply(sample, None, copy, error="the batch's output lacks this request")
    response = row.get("response")
    if not isinstance(response, Mapping) or response.get("status_code") != 200:
        status = response.get("status_code") if isinstance(response, Mapping) else None
        return Reply(
            sample,
            None,
            copy,
            error=f"HTTP status {status}" if status else "the batch did not ask this request",
        )
    answer = read_answer(json.dumps(response.get("body")).encode())
    if answer is None:
        return Reply(sample, None, copy, error="the answer is no chat completion")
    return Reply(
        sample, answer.text, copy, answer.finish, answer.prompt_tokens, answer.reply_tokens
    )


def load(model: str, options: EngineOptions) -> Engine:
    """The engine for `batch:http(s)://host/v1#name` or `batch:FOLDER@http(s)://host/v1#name`; sends
    nothing yet.

    Raises:
        InputError: no address with a name, or an address or key that cannot be used.
    """
    kind, _, rest = model.partition(":")
    place = max(rest.find("http://"), rest.find("https://"))
    if kind != "batch" or place < 0 or (place and rest[place - 1] != "@"):
        raise InputError(
            f"{model.split('#')[0]!r} is no batch engine; write batch:http(s)://host/v1#name, or"
            " batch:FOLDER@http(s)://..."
        )
    live = openai.load(rest[place:], replace(options))
    assert isinstance(live, openai.OpenAI)
    return Batch(
        live.model,
        live.digest,
        live.name,
        live.wire,
        Path(rest[: place - 1]) if place else None,
        options.release,
    )
