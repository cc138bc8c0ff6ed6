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

from lingshu.core.data_policy import DataPolicy, check_data_policy
from lingshu.core.engine_options import EngineOptions
from lingshu.core.errors import EngineError, ImageError, InputError, one_line
from lingshu.core.files import enumerate_jsonl, sha256_bytes, write_text
from lingshu.core.llm_client import Endpoint, parse_chat_response
from lingshu.core.types import Engine, Image, Reply, Sample, Sampling
from lingshu.engines import openai
from lingshu.imaging.read import ShardReader, decode, image_bytes, image_name, png_bytes

# Below the limits that services set: 50,000 requests and 200 MB in a file.
MAX_FILE_REQUESTS, MAX_FILE_BYTES = 20_000, 90 << 20
MAX_OUTPUT_BYTES = 1 << 30
POLL_S = 30.0
TERMINAL_STATES = ("failed", "expired", "cancelled", "canceled")
_BOUNDARY = "lingshu-batch-7c1f"


@dataclass(frozen=True)
class BatchEngine:
    """A model behind the batch service of an address, or behind a folder."""

    model: str
    digest: str
    name: str
    server: Endpoint
    folder: Path | None = None
    data_policy: DataPolicy = field(default_factory=DataPolicy)
    poll_s: float = POLL_S

    @property
    def endpoint(self) -> str:
        return self.server.url

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
        requests = [
            (s, copy)
            for s in samples
            for copy in range(sampling.num_generations)
            if (s.id, copy) not in skip
        ]
        check_data_policy((sample for sample, _ in requests), self.server.url, self.data_policy)
        unanswered: list[str] = []
        for chunk, unreadable in self._request_files(requests, sampling):
            if unreadable:
                yield unreadable
            if not chunk:
                continue
            request_lines = "".join(line for _, line in chunk)
            output = (
                self._read_folder_replies(request_lines)
                if self.folder
                else self._run_remote_batch(request_lines)
            )
            if output is None:
                unanswered.append(sha256_bytes(request_lines.encode())[:16])
                continue
            yield _replies([item for item, _ in chunk], output)
        if unanswered:
            raise EngineError(
                f"{len(unanswered)} files of requests lie in {self.folder} (first"
                f" {unanswered[0]}.requests.jsonl); have them answered, put each output beside it as"
                f" {unanswered[0]}.replies.jsonl, and run the same command again."
            )

    def _request_files(
        self, requests: Sequence[tuple[Sample, int]], sampling: Sampling
    ) -> Iterator[tuple[list[tuple[tuple[Sample, int], str]], list[Reply]]]:
        """The requests cut into files, each line with its sample; beside them the samples whose
        image cannot be read.
        """
        chunk: list[tuple[tuple[Sample, int], str]] = []
        unreadable: list[Reply] = []
        n_bytes = 0
        with ShardReader() as shards:

            def encode_image(image: Image) -> bytes:
                return png_bytes(decode(image_bytes(image, shards=shards), name=image_name(image)))

            for sample, copy in requests:
                try:
                    line = self._request_line(sample, copy, sampling, encode_image)
                except ImageError as error:
                    unreadable.append(Reply(sample.id, None, copy, error=one_line(error)))
                    continue
                if chunk and (
                    len(chunk) == MAX_FILE_REQUESTS or n_bytes + len(line) > MAX_FILE_BYTES
                ):
                    yield chunk, unreadable
                    chunk, unreadable, n_bytes = [], [], 0
                chunk.append(((sample, copy), line))
                n_bytes += len(line)
        yield chunk, unreadable

    def _request_line(
        self, sample: Sample, copy: int, sampling: Sampling, encode_image: Callable[[Image], bytes]
    ) -> str:
        body = openai.request(self.name, sample, copy, sampling, encode_image=encode_image)
        row = {
            "custom_id": _custom_id(sample.id, copy),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": body,
        }
        return json.dumps(row, sort_keys=True) + "\n"

    def _read_folder_replies(self, request_lines: str) -> list[Mapping[str, Any]] | None:
        """The output that lies in the folder; without one the requests are written there."""
        assert self.folder is not None
        stem = sha256_bytes(request_lines.encode())[:16]
        output = self.folder / f"{stem}.replies.jsonl"
        if output.is_file():
            return [row for _, row in enumerate_jsonl(output, allow_truncated=False)]
        write_text(self.folder / f"{stem}.requests.jsonl", request_lines)
        return None

    # --- the service
    # -------------------------------------------------------------------------------------------------

    def _run_remote_batch(self, request_lines: str) -> list[Mapping[str, Any]]:
        key = sha256_bytes(request_lines.encode())
        batch = self._find_batch(key) or self._create_batch(request_lines, key)
        while batch.get("status") != "completed":
            if batch.get("status") in TERMINAL_STATES:
                raise EngineError(
                    f"{self.server.url}: the batch {batch.get('id')} is {batch.get('status')}; run"
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

    def _find_batch(self, key: str) -> Mapping[str, Any] | None:
        """The batch of an earlier run that asked the very same, unless it came to nothing."""
        batches = self._json("GET", "/batches?limit=100").get("data") or []
        matching = (
            b
            for b in batches
            if (b.get("metadata") or {}).get("digest") == key
            and b.get("status") not in TERMINAL_STATES
        )
        return next(matching, None)

    def _create_batch(self, request_lines: str, key: str) -> Mapping[str, Any]:
        form_header = (
            f"--{_BOUNDARY}\r\nContent-Disposition: form-data;"
            f' name="purpose"\r\n\r\nbatch\r\n--{_BOUNDARY}\r\n'
        )
        form_header += (
            'Content-Disposition: form-data; name="file";'
            f' filename="{key[:16]}.jsonl"\r\nContent-Type: application/jsonl\r\n\r\n'
        )
        data = form_header.encode() + request_lines.encode() + f"\r\n--{_BOUNDARY}--\r\n".encode()
        file = json.loads(
            self._call("POST", "/files", data, f"multipart/form-data; boundary={_BOUNDARY}")
        )
        body = {
            "input_file_id": file["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {"digest": key},
        }
        return self._json("POST", "/batches", body)

    def _json(
        self, method: str, path: str, value: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        data = None if value is None else json.dumps(value).encode()
        decoded = json.loads(self._call(method, path, data, "application/json"))
        return decoded if isinstance(decoded, dict) else {}

    def _call(
        self, method: str, path: str, data: bytes | None = None, content_type: str | None = None
    ) -> bytes:
        headers = {"Authorization": f"Bearer {self.server.api_key}"} if self.server.api_key else {}
        request = Request(
            f"{self.server.url}{path}",
            data,
            {**headers, **({"Content-Type": content_type} if content_type else {})},
            method=method,
        )
        # The environment's proxies are not used: where requests go is what the user wrote, nothing
        # else.
        opener = build_opener(ProxyHandler({}))
        reason = ""
        for attempt in range(self.server.retries + 1):
            if attempt:
                time.sleep(min(60.0, self.server.backoff_s * 2**attempt))
            try:
                with opener.open(request, timeout=self.server.timeout_s) as response:
                    content = response.read(MAX_OUTPUT_BYTES + 1)
                if len(content) > MAX_OUTPUT_BYTES:
                    raise EngineError(
                        f"{self.server.url}{path} is longer than {MAX_OUTPUT_BYTES >> 20} MB; ask"
                        " fewer rows at a time."
                    )
                return content
            except HTTPError as error:
                reason = f"HTTP status {error.code}"
                if error.code < 500 and error.code not in (408, 429):
                    break
            except (URLError, OSError) as error:
                reason = type(error).__name__
        raise EngineError(
            f"{self.server.url} has no usable batch service ({reason}); use the address without"
            " `batch:`, or a folder."
        )


def _custom_id(sample_id: str, copy: int) -> str:
    return f"{sample_id}|{copy}"


def _replies(
    requests: Sequence[tuple[Sample, int]], rows: Sequence[Mapping[str, Any]]
) -> list[Reply]:
    """One reply for each request, whatever the order of the output; one without an output row
    failed.
    """
    by_custom_id = {row.get("custom_id"): row for row in rows}
    return [
        _reply(sample.id, copy, by_custom_id.get(_custom_id(sample.id, copy)))
        for sample, copy in requests
    ]


def _reply(sample_id: str, copy: int, row: Mapping[str, Any] | None) -> Reply:
    if row is None:
        return Reply(sample_id, None, copy, error="the batch's output lacks this request")
    response = row.get("response")
    if not isinstance(response, Mapping) or response.get("status_code") != 200:
        status = response.get("status_code") if isinstance(response, Mapping) else None
        return Reply(
            sample_id,
            None,
            copy,
            error=f"HTTP status {status}" if status else "the batch did not ask this request",
        )
    answer = parse_chat_response(json.dumps(response.get("body")).encode())
    if answer is None:
        return Reply(sample_id, None, copy, error="the answer is no chat completion")
    return Reply(
        sample_id, answer.text, copy, answer.finish, answer.prompt_tokens, answer.reply_tokens
    )


def load(model: str, options: EngineOptions) -> Engine:
    """The engine for `batch:http(s)://host/v1#name` or `batch:FOLDER@http(s)://host/v1#name`; sends
    nothing yet.

    Raises:
        InputError: no address with a name, or an address or key that cannot be used.
    """
    scheme, _, rest = model.partition(":")
    url_start = max(rest.find("http://"), rest.find("https://"))
    if scheme != "batch" or url_start < 0 or (url_start and rest[url_start - 1] != "@"):
        raise InputError(
            f"{model.split('#')[0]!r} is no batch engine; write batch:http(s)://host/v1#name, or"
            " batch:FOLDER@http(s)://..."
        )
    online_engine = openai.load(rest[url_start:], replace(options))
    assert isinstance(online_engine, openai.OpenAIEngine)
    return BatchEngine(
        online_engine.model,
        online_engine.digest,
        online_engine.name,
        online_engine.server,
        Path(rest[: url_start - 1]) if url_start else None,
        options.data_policy,
    )
