"""A scored run as its folder holds it: each task's metadata, and its scores under every protocol.

RUN/<task>/scores.jsonl               the leading scores of the report
RUN/<task>/scores.<protocol>.jsonl    the same replies under another protocol
RUN/<task>/metrics.json               the task's metrics over all replies
RUN/<task>/judge.json                 the results of a judge
RUN/manifest.json                     size and sha256 of all that the report is made of
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lingshu.core.artifacts import (
    REPORT_HTML,
    REPORT_JSON,
    REPORT_MD,
    SCORES,
    iterate_scores,
    reply_files,
)
from lingshu.core.cached_client import CALLS_FILE
from lingshu.core.errors import ArtifactError
from lingshu.core.files import MANIFEST, check_manifest, read_json, read_manifest, write_manifest
from lingshu.core.run_card import RUN_CARD, check_file_card
from lingshu.evaluate.judgments import JUDGE, JudgeResult, read_judge_result
from lingshu.evaluate.metrics import METRICS_FILE, MetricRow, metric_rows
from lingshu.evaluate.summary import Row, awaiting_judge
from lingshu.evaluate.thumbnails import THUMBNAILS
from lingshu.scoring.protocols.table import PROTOCOLS, quirks
from lingshu.scoring.rubric import NEEDS_JUDGE

STRICT = "strict"
DEFAULT_FACETS = ("kind", "lang", "language")
REPORT_FILES = (REPORT_JSON, REPORT_MD, REPORT_HTML)
ROW_FIELDS = ("value", "status", "group", "truncated", "gold", "kind", "confidence", "confidence_method")  # fmt: skip


@dataclass(frozen=True)
class _TaskCard:
    """What a run card says of a task; everything may be missing."""

    title: str | None = None
    source: str | None = None
    license: str | None = None
    revision: str | None = None
    n: int | None = None
    max_tokens: int | None = None
    limit: int | None = None
    facets: list[str] | None = None
    drops: dict[str, Any] | None = None
    published: str | tuple[str, str] | None = None
    protocol: str | list[str] | None = None
    known_issues: list[str] | dict[str, list[str]] | None = None


@dataclass(frozen=True)
class _Notes:
    model: Any = None
    tasks: dict[str, _TaskCard] | None = None


@dataclass(frozen=True)
class _Config:
    limit: int | None = None
    sampling: dict[str, _TaskCard] | None = None


@dataclass(frozen=True)
class _Card:
    notes: _Notes | None = None
    config: _Config | None = None


@dataclass(frozen=True)
class ScoredTask:
    """One task: the metadata of its run card, and its scores by protocol, the leading one first.

    `excluded` names the files of scores that are over other items than the leading one, as
    leftovers of an earlier run are. `max_tokens` is the longest reply and `limit` the number of
    requested samples, where the run card has them.
    """

    name: str
    metadata: Mapping[str, Any]
    rows: Mapping[str, Sequence[Row]]
    excluded: tuple[str, ...] = ()
    metrics: tuple[MetricRow, ...] = ()
    max_tokens: int | None = None
    limit: int | None = None
    judge_result: JudgeResult | None = None

    @property
    def protocol(self) -> str:
        """The leading protocol."""
        return next(iter(self.rows))

    @property
    def facets(self) -> tuple[str, ...]:
        return tuple(self.metadata.get("facets") or DEFAULT_FACETS)

    @property
    def title(self) -> str:
        return self.metadata.get("title") or self.name

    def known_issues(self, protocol: str) -> tuple[str, ...]:
        """The known issues of a protocol, a sentence each, from the run card or our own table."""
        issues = self.metadata.get("known_issues") or ()
        if not isinstance(issues, Mapping):
            issues = {self.protocol: issues} if issues else {}
        if protocol in issues:
            return tuple(issues[protocol])
        return quirks(protocol) if protocol in PROTOCOLS else ()


@dataclass(frozen=True)
class ScoredRun:
    """A run folder's name, its model, and its tasks in the order of its last command."""

    name: str
    model: str
    tasks: tuple[ScoredTask, ...]


def seal_run(run: Path, tasks: Iterable[str]) -> None:
    """Record the digests of the run card and of all files of the tasks in the run's manifest."""
    paths = [run / RUN_CARD, *(path for task in tasks for path in sorted((run / task).rglob("*")))]
    write_manifest(
        run,
        paths=[path for path in paths if not path.name.startswith(".")],
        is_append_only=lambda path: (
            path.name in (THUMBNAILS, CALLS_FILE) or path in reply_files(path.parent)
        ),
    )


def check_run(run: Path, *, ignored: Container[str] = REPORT_FILES) -> bool:
    """Compare a run folder with its manifest; False if it has none, as earlier versions wrote it.

    Raises:
        ArtifactError: a file is missing or was changed.
    """
    remedy = "run `lingshu eval` again with the same --out, which scores the stored replies again."
    return check_manifest(run, ignored=ignored, remedy=remedy) is not None


def unchecked_files(run: Path) -> list[Path]:
    """Scores that neither a manifest nor a run card of their own names: an older version wrote them."""
    if (run / MANIFEST).is_file():
        return []
    files = [path for folder in sorted(run.iterdir()) for _, path in scores_files(folder)]
    return [path for path in files if not check_file_card(path)]


def _check_listed(run: Path, path: Path, listed: Container[str]) -> None:
    if str(path.relative_to(run)) not in listed and not check_file_card(path):
        raise ArtifactError(
            f"{path} is not listed in {run / MANIFEST}: it belongs to another run; remove it, or run"
            " `lingshu eval` again with the same --out."
        )


def read_run(run: Path) -> ScoredRun:
    """The scores of a run folder and, where it has one, its run card; both are checked first.

    Raises:
        ArtifactError: the folder holds no scores, or a file of them or the run card is damaged.
    """
    listed = read_manifest(run) if check_run(run) else None
    card = _read_card(run / RUN_CARD)
    notes, config = card.notes or _Notes(), card.config or _Config()
    cards, sampling = notes.tasks or {}, config.sampling or {}
    files: dict[str, list[tuple[str, Path]]] = {}
    for folder in sorted(run.iterdir() if run.is_dir() else ()):
        if protocols := scores_files(folder):
            files[folder.name] = protocols
    # A run folder that is used again reports the tasks of its last command, in their order.
    names = [name for name in cards if name in files] or list(files)
    if not names:
        raise ArtifactError(
            f"{run} holds no scores (TASK/{SCORES}); make them with `lingshu eval`."
        )
    tasks = []
    for name in names:
        for _, path in files[name]:
            if listed is None:
                check_file_card(path)
            else:
                _check_listed(run, path, listed)
        task_card = cards.get(name, _TaskCard())
        task = _read_task(name, asdict(task_card), files[name], run / name)
        # The configuration is that of the last command; other tasks keep theirs in the metadata.
        limits = task_card.max_tokens, task_card.limit
        if name in sampling:
            limits = sampling[name].max_tokens, config.limit
        tasks.append(replace(task, max_tokens=limits[0], limit=limits[1]))
    name = run.resolve().name
    return ScoredRun(name, name if notes.model is None else str(notes.model), tuple(tasks))


def scores_files(folder: Path) -> list[tuple[str, Path]]:
    """The scores files of a folder with the protocol in each name; scores.jsonl is strict."""
    stem, suffix = SCORES.split(".")
    others = sorted(folder.glob(f"{stem}.*.{suffix}"))
    paths = [folder / SCORES, *others] if (folder / SCORES).is_file() else others
    names = (path.name.removeprefix(stem).removesuffix(suffix).strip(".") for path in paths)
    return [(name or STRICT, path) for name, path in zip(names, paths, strict=True)]


def _read_card(path: Path) -> _Card:
    if not path.is_file():
        return _Card()
    from pydantic import TypeAdapter, ValidationError  # slow to import

    try:
        return TypeAdapter(_Card).validate_json(json.dumps(read_json(path)), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"][:4]))
        raise ArtifactError(
            f"{path}: {name} cannot be {first['input']!r:.40}; the file is damaged: run `lingshu"
            " eval` again, or remove it."
        ) from error


def _read_task(
    name: str, metadata: Mapping[str, Any], files: Sequence[tuple[str, Path]], folder: Path
) -> ScoredTask:
    rows: dict[str, Sequence[Row]] = {}
    for name_protocol, path in files:
        protocol, protocol_rows = _read_scores(path, name_protocol, metadata)
        if protocol in rows:
            raise ArtifactError(
                f"{path} holds the protocol {protocol} once more; delete the file that is out of"
                " date."
            )
        rows[protocol] = protocol_rows
    rows = {name: rows[name] for name in _order_protocols(list(rows), metadata.get("protocol"))}
    items = {row["id"] for row in next(iter(rows.values()))}
    stale = [name for name in rows if {row["id"] for row in rows[name]} != items]
    excluded = [f"The scores under the protocol {name}" for name in stale]
    table = _read_metrics(folder / METRICS_FILE)
    if table and table.get("references") != len(items):
        table = {}
        excluded.append("The metrics")
    current = {name: rows[name] for name in rows if name not in stale}
    return ScoredTask(
        name,
        metadata,
        current,
        tuple(
            f"{text} are over other items and left out; score the run again." for text in excluded
        ),
        tuple(metric_rows(table)),
        judge_result=read_judge_result(folder) if JUDGE in current else None,
    )


def _order_protocols(names: Sequence[str], requested: str | Sequence[str] | None) -> list[str]:
    """The leading protocol first; a card that names several names all that is shown."""
    first, *others = names
    known = [name for name in PROTOCOLS if name in others]
    ordered = list(dict.fromkeys((first, *known, *others)))
    if isinstance(requested, str):
        return sorted(ordered, key=lambda name: name != requested)
    return [name for name in requested or () if name in ordered] or ordered


def _read_metrics(path: Path) -> Mapping[str, Any]:
    table = read_json(path) if path.is_file() else {}
    rows = table.get("metrics", [])
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("name"), str) for row in rows
    ):
        raise ArtifactError(f"{path} is damaged; score the run again, or remove it.")
    return table


def _read_scores(
    path: Path, name_protocol: str, metadata: Mapping[str, Any]
) -> tuple[str, list[Row]]:
    """The protocol of a scores file (by its name if rows have none) and its rows for tables."""
    fields = {*ROW_FIELDS, *(metadata.get("facets") or DEFAULT_FACETS)}
    rows: list[Row] = []
    protocols: set[str] = set()
    interned: dict[str, Any] = {}
    names: set[str | int] = set()
    for row in iterate_scores(path):
        if row["id"] in names:
            raise ArtifactError(
                f"{path} has the id {row['id']!r:.40} twice; score the run again, each sample once."
            )
        names.add(row["id"])
        protocols.add(str(row.get("protocol") or name_protocol))
        # Questions and replies are most of a file and in no table; the rest repeats itself.
        values = {
            key: interned.setdefault(repr(row[key]), row[key]) for key in fields if key in row
        }
        judge_note = {"note": NEEDS_JUDGE} if awaiting_judge(row) else {}
        rows.append({"id": row["id"], **values, **judge_note})
    if len(protocols) > 1:
        raise ArtifactError(
            f"{path} mixes the protocols {', '.join(sorted(protocols))}; score the run again."
        )
    return next(iter(protocols), name_protocol), rows
