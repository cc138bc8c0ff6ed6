"""Sends requests in files: to the batch service of an OpenAI-compatible address, or through a
folder that you take to one and back.

    batch:http(s)://host/v1#name     uploads the requests, waits for the batch, and reads its output
    batch:FOLDER@http(s)://host/v1#name   writes FOLDER/<digest>.requests.jsonl and reads
                                          FOLDER/<digest>.replies.jsonl

Batches cost less and take hours. A run that was interrupted while it waited finds its batch again
by the digest of the requests. Replies are those of the address itself: what was requested in one
way is not requested again in the other. core/data_policy.py decides whether a sample may be sent,
or written to a folder, at all.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

from lingshu.core.data_policy import check_data_policy
from lingshu.core.errors import EngineError, ImageError, InputError, one_line
from lingshu.core.files import enumerate_jsonl, sha256_bytes, write_text
from lingshu.core.llm_client import Endpoint, parse_chat_response
from lingshu.core.types import DataPolicy, Engine, EngineOptions, Reply, Sample, Sampling
from lingshu.engines import openai
from lingshu.engines._requests import Request, chat_request, pending_requests, png_encoder
from lingshu.imaging.read import ShardReader

# Below the limits that services set: 50,000 requests and 200 MB in a file.
MAX_FILE_REQUESTS, MAX_FILE_BYTES = 20_000, 90 << 20
MAX_OUTPUT_BYTES = 1 << 30
POLL_S = 30.0
REQUEST_LINE = {"method": "POST", "url": "/v1/chat/completions"}
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
            DataPolicyError: a sample may not leave this machine; nothing was written or sent.
            EngineError: the service refuses or failed; or the replies are not in the folder yet,
                which the message says.
        """
        requests = list(pending_requests(samples, sampling, skip))
        check_data_policy((sample for sample, _ in requests), self.server.url, self.data_policy)
        unanswered: list[str] = []
        for chunk, unreadable in self._request_files(requests, sampling):
            if unreadable:
                yield unreadable
            if not chunk:
                continue
            request_lines = "".join(line for _, line in chunk)
            run_batch = self._read_folder_replies if self.folder else self._run_remote_batch
            output = run_batch(request_lines)
            if output is None:
                unanswered.append(sha256_bytes(request_lines.encode())[:16])
                continue
            yield _replies([item for item, _ in chunk], output)
        if unanswered:
            raise EngineError(
                f"{len(unanswered)} files of requests are in {self.folder} (first"
                f" {unanswered[0]}.requests.jsonl); have them answered, save each output next to it"
                f" as {unanswered[0]}.replies.jsonl, and run the same command again."
            )

    def _request_files(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[list[tuple[Request, str]], list[Reply]]]:
        """The requests of each file with their lines, and replies for unreadable images."""
        chunk: list[tuple[Request, str]] = []
        unreadable: list[Reply] = []
        n_bytes = 0
        with ShardReader() as shards:
            encode_image = png_encoder(shards)
            for request in requests:
                sample, generation = request
                try:
                    body = chat_request(self.name, request, sampling, encode_image)
                except ImageError as error:
                    unreadable.append(Reply(sample.id, None, generation, error=one_line(error)))
                    continue
                row = {"custom_id": _custom_id(sample.id, generation), "body": body, **REQUEST_LINE}
                line = json.dumps(row, sort_keys=True) + "\n"
                is_full = len(chunk) == MAX_FILE_REQUESTS or n_bytes + len(line) > MAX_FILE_BYTES
                if chunk and is_full:
                    yield chunk, unreadable
                    chunk, unreadable, n_bytes = [], [], 0
                chunk.append((request, line))
                n_bytes += len(line)
        yield chunk, unreadable

    def _read_folder_replies(self, request_lines: str) -> list[Mapping[str, Any]] | None:
        """The output in the folder; without one the requests are written there."""
        assert self.folder is not None
        stem = sha256_bytes(request_lines.encode())[:16]
        output = self.folder / f"{stem}.replies.jsonl"
        if output.is_file():
            return [row for _, row in enumerate_jsonl(output, allow_truncated=False)]
        write_text(self.folder / f"{stem}.requests.jsonl", request_lines)
        return None

    def _run_remote_batch(self, request_lines: str) -> list[Mapping[str, Any]]:
        key = sha256_bytes(request_lines.encode())
        batch = self._find_batch(key) or self._create_batch(request_lines, key)
        while batch.get("status") != "completed":
            if batch.get("status") in TERMINAL_STATES:
                raise EngineError(
                    f"{self.server.url}: the batch {batch.get('id')} is {batch.get('status')}; run"
                    " again to send it again."
                )
            time.sleep(self.poll_s)
            batch = self._json("GET", f"/batches/{batch['id']}")
        rows: list[Mapping[str, Any]] = []
        for name in ("output_file_id", "error_file_id"):
            if batch.get(name):
                data = self._call("GET", f"/files/{batch[name]}/content")
                lines = (json.loads(line) for line in data.splitlines() if line.strip())
                rows += [row for row in lines if isinstance(row, dict)]
        return rows

    def _find_batch(self, key: str) -> Mapping[str, Any] | None:
        """The batch of an earlier run with the same requests, unless it failed."""
        for batch in self._json("GET", "/batches?limit=100").get("data") or []:
            is_same = (batch.get("metadata") or {}).get("digest") == key
            if is_same and batch.get("status") not in TERMINAL_STATES:
                return batch
        return None

    def _create_batch(self, request_lines: str, key: str) -> Mapping[str, Any]:
        form_header = (
            f"--{_BOUNDARY}\r\nContent-Disposition: form-data;"
            f' name="purpose"\r\n\r\nbatch\r\n--{_BOUNDARY}\r\n'
            'Content-Disposition: form-data; name="file";'
            f' filename="{key[:16]}.jsonl"\r\nContent-Type: application/jsonl\r\n\r\n'
        )
        data = f"{form_header}{request_lines}\r\n--{_BOUNDARY}--\r\n".encode()
        form_type = f"multipart/form-data; boundary={_BOUNDARY}"
        file = json.loads(self._call("POST", "/files", data, form_type))
        body = {
            "input_file_id": file["id"],
            "endpoint": REQUEST_LINE["url"],
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
        headers = {"Content-Type": content_type} if content_type else {}
        if self.server.api_key:
            headers["Authorization"] = f"Bearer {self.server.api_key}"
        request = urllib.request.Request(f"{self.server.url}{path}", data, headers, method=method)
        opener, reason = direct_opener(), ""
        for attempt in range(self.server.retries + 1):
            if attempt:
                time.sleep(min(60.0, self.server.backoff_s * 2**attempt))
            try:
                with opener.open(request, timeout=self.server.timeout_s) as response:
                    content = response.read(MAX_OUTPUT_BYTES + 1)
                if len(content) > MAX_OUTPUT_BYTES:
                    raise EngineError(
                        f"{self.server.url}{path} is longer than {MAX_OUTPUT_BYTES >> 20} MB; send"
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


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def direct_opener() -> urllib.request.OpenerDirector:
    """Requests go where the user wrote: neither to a proxy of the environment nor to a redirect."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


def _custom_id(sample_id: str, generation: int) -> str:
    return f"{sample_id}|{generation}"


def _replies(requests: Sequence[Request], rows: Sequence[Mapping[str, Any]]) -> list[Reply]:
    """One reply for each request, in any order of the output; one without an output row failed."""
    by_custom_id = {row.get("custom_id"): row for row in rows}
    return [
        _reply(sample.id, generation, by_custom_id.get(_custom_id(sample.id, generation)))
        for sample, generation in requests
    ]


def _reply(sample_id: str, generation: int, row: Mapping[str, Any] | None) -> Reply:
    if row is None:
        return Reply(sample_id, None, generation, error="the batch's output lacks this request")
    response = row.get("response")
    status = response.get("status_code") if isinstance(response, Mapping) else None
    if not isinstance(response, Mapping) or status != 200:
        error = f"HTTP status {status}" if status else "the batch did not send this request"
        return Reply(sample_id, None, generation, error=error)
    answer = parse_chat_response(json.dumps(response.get("body")).encode())
    if answer is None:
        return Reply(sample_id, None, generation, error="the answer is not a chat completion")
    counts = answer.prompt_tokens, answer.reply_tokens
    return Reply(sample_id, answer.text, generation, answer.finish, *counts)


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
            f"{model.split('#')[0]!r} is not a batch engine; write batch:http(s)://host/v1#name, or"
            " batch:FOLDER@http(s)://..."
        )
    online_engine = openai.load(rest[url_start:], options)
    assert isinstance(online_engine, openai.OpenAIEngine)
    return BatchEngine(
        online_engine.model,
        online_engine.digest,
        online_engine.name,
        online_engine.server,
        Path(rest[: url_start - 1]) if url_start else None,
        options.data_policy,
    )
