"""A scored run as it lies in its folder: each task's facts, and its scores under every protocol.

RUN/<task>/scores.jsonl               the scores that the report leads with
RUN/<task>/scores.<protocol>.jsonl    the same replies under another protocol, where there is one
RUN/<task>/metrics.json               the task's metrics over all replies, where it has some
RUN/<task>/judge.json                 what a judge's verdicts came to, where one was asked
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lingshu.core.artifacts import SCORES, iterate_scores
from lingshu.core.errors import ArtifactError
from lingshu.core.files import read_json
from lingshu.core.run_card import RUN_CARD
from lingshu.evaluate.judgments import JUDGE, JudgeResult, read_judge_result
from lingshu.evaluate.metrics import METRICS_FILE, MetricRow, metric_rows
from lingshu.evaluate.summary import Row, awaiting_judge
from lingshu.scoring.protocols import table as table_module
from lingshu.scoring.rubric import NEEDS_JUDGE

STRICT = "strict"
DEFAULT_FACETS = ("kind", "lang", "language")
ROW_FIELDS = ("value", "status", "group", "truncated", "gold", "kind")


@dataclass(frozen=True)
class ScoredTask:
    """One task of a run. `facts` is what the run card says of it; `rows` holds the scores by
    protocol, the leading first.

    `left_out` names the files of scores that are over other items than the leading one, as
    leftovers of an earlier run are. `metrics` are those over all its replies, `judged` what a
    judge's verdicts came to. `max_tokens` is the longest reply and `limit` how many samples were
    asked for at most, as far as the run card says.
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
        """The protocol that the report leads with."""
        return next(iter(self.rows))

    @property
    def facets(self) -> tuple[str, ...]:
        return tuple(self.metadata.get("facets") or DEFAULT_FACETS)

    @property
    def title(self) -> str:
        return self.metadata.get("title") or self.name

    def known_issues(self, protocol: str) -> tuple[str, ...]:
        """What is known to be odd in a protocol, one sentence each, as the run card has it (a list,
        or by protocol) or as we know it.
        """
        issues = self.metadata.get("known_issues") or ()
        if not isinstance(issues, Mapping):
            issues = {self.protocol: issues} if issues else {}
        if protocol in issues:
            return tuple(map(str, issues[protocol]))
        return table_module.quirks(protocol) if protocol in table_module.PROTOCOLS else ()


@dataclass(frozen=True)
class ScoredRun:
    """A run folder's name, the model it asked, and its tasks in the order of its last command."""

    name: str
    model: str
    tasks: tuple[ScoredTask, ...]


def read_run(run: Path) -> ScoredRun:
    """The scores of a run folder and, where it has one, what its run card says.

    Raises:
        ArtefactError: the folder holds no scores, or a file of them or the run card is damaged.
    """
    notes, metadata, config = _read_card(run / RUN_CARD)
    stem, suffix = SCORES.split(".")
    files: dict[str, list[Path]] = {}
    for path in sorted(
        run.glob(f"*/{stem}*.{suffix}"),
        key=lambda path: (path.parent.name, path.name != SCORES, path.name),
    ):
        if path.name == SCORES or path.name.startswith(f"{stem}."):
            files.setdefault(path.parent.name, []).append(path)
    # A run folder that is used again reports the tasks of its last command, in their order.
    names = [name for name in metadata if name in files] or sorted(files)
    if not names:
        raise ArtifactError(
            f"{run} holds no scores (TASK/{SCORES}); make them with `lingshu eval`."
        )
    name = run.resolve().name
    tasks = []
    for task_name in names:
        sampling = config.get("sampling", {}).get(task_name)
        # What an earlier command asked in the same folder is not in the configuration of the last
        # one, but in its facts.
        settings = (
            {"max_tokens": sampling.get("max_tokens"), "limit": config.get("limit")}
            if sampling
            else metadata.get(task_name, {})
        )
        limits = {name: settings.get(name) for name in ("max_tokens", "limit")}
        tasks.append(
            replace(_task(task_name, metadata.get(task_name, {}), files[task_name]), **limits)
        )
    return ScoredRun(name, str(notes.get("model", name)), tuple(tasks))


def _read_card(
    path: Path,
) -> tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]], Mapping[str, Any]]:
    """The notes of a run card, the facts of its tasks and its configuration, all empty where there
    is none.
    """
    card = read_json(path) if path.is_file() else {}

    def check(value: Any, name: str, is_valid: bool) -> Any:
        if not is_valid:
            raise ArtifactError(
                f"{path}: {name} cannot be {value!r:.40}; the file is damaged: run `lingshu eval`"
                " again, or remove it."
            )
        return value

    def get_mapping(mapping: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
        value = mapping.get(key)
        return {} if value is None else check(value, name, isinstance(value, Mapping))

    notes, config = get_mapping(card, "notes", "notes"), get_mapping(card, "config", "config")
    tasks = get_mapping(notes, "tasks", "notes.tasks")
    for task in tasks:
        for key, value in get_mapping(tasks, task, f"notes.tasks.{task}").items():
            is_valid = _METADATA_CHECKS.get(key)
            check(
                value,
                f"notes.tasks.{task}.{key}",
                value is None or is_valid is None or is_valid(value),
            )
    sampling = get_mapping(config, "sampling", "config.sampling")
    for mapping, name in [
        (config, "limit"),
        *(
            (get_mapping(sampling, task, f"config.sampling.{task}"), "max_tokens")
            for task in sampling
        ),
    ]:
        check(
            mapping.get(name),
            f"config: {name}",
            mapping.get(name) is None or _is_count(mapping[name]),
        )
    return notes, tasks, config


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_METADATA_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("title", "source", "license", "revision"), lambda value: isinstance(value, str)
    ),
    **dict.fromkeys(("n", "max_tokens", "limit"), _is_count),
    "facets": _is_text_list,
    "drops": lambda value: isinstance(value, Mapping),
    "published": lambda value: isinstance(value, str) or (_is_text_list(value) and len(value) == 2),
    "protocol": lambda value: isinstance(value, str) or _is_text_list(value),
    "known_issues": lambda value: (
        _is_text_list(value)
        or (isinstance(value, Mapping) and all(map(_is_text_list, value.values())))
    ),
}


def _task(name: str, metadata: Mapping[str, Any], files: list[Path]) -> ScoredTask:
    rows: dict[str, Sequence[Row]] = {}
    for path in files:
        protocol, protocol_rows = _read_scores(path, metadata)
        if protocol in rows:
            raise ArtifactError(
                f"{path} holds the protocol {protocol} once more; delete the file that is out of"
                " date."
            )
        rows[protocol] = protocol_rows
    # The run card may name one protocol, which leads, or several, which are then all there is to
    # show.
    first, *others = rows
    rows = {
        name: rows[name]
        for name in (first, *(name for name in table_module.PROTOCOLS if name in others), *others)
    }
    card_protocol = metadata.get("protocol")
    if isinstance(card_protocol, list) and any(protocol in rows for protocol in card_protocol):
        rows = {protocol: rows[protocol] for protocol in card_protocol if protocol in rows}
    elif isinstance(card_protocol, str) and card_protocol in rows:
        rows = {card_protocol: rows[card_protocol], **rows}
    primary_protocol = next(iter(rows))
    items = {row["id"] for row in rows[primary_protocol]}
    stale = [
        protocol
        for protocol, protocol_rows in rows.items()
        if {row["id"] for row in protocol_rows} != items
    ]
    notes = tuple(
        f"The scores under the protocol {protocol} are over other items and left out; score the run"
        " again."
        for protocol in stale
    )
    table = _metrics(files[0].with_name(METRICS_FILE))
    if table and table.get("references") != len(items):
        table, notes = (
            {},
            (*notes, "The metrics are over other items and left out; score the run again."),
        )
    current_rows = {
        protocol: protocol_rows for protocol, protocol_rows in rows.items() if protocol not in stale
    }
    judge_result = read_judge_result(files[0].parent) if JUDGE in current_rows else None
    return ScoredTask(
        name, metadata, current_rows, notes, tuple(metric_rows(table)), judge_result=judge_result
    )


def _metrics(path: Path) -> Mapping[str, Any]:
    """What a file of metrics holds, nothing where there is none."""
    table = read_json(path) if path.is_file() else {}
    rows = table.get("metrics", [])
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("name"), str) for row in rows
    ):
        raise ArtifactError(f"{path} is damaged; score the run again, or remove it.")
    return table


def _read_scores(path: Path, metadata: Mapping[str, Any]) -> tuple[str, list[Row]]:
    """The protocol of a file of scores, and what the tables need of its rows."""
    fields = {*ROW_FIELDS, *(metadata.get("facets") or DEFAULT_FACETS)}
    rows: list[Row] = []
    protocols: set[str] = set()
    interned: dict[str, Any] = {}
    for row in iterate_scores(path):
        protocols.add(str(row.get("protocol") or _protocol_from_name(path)))
        # What was asked and replied is most of a file and nothing a table shows; what is left
        # repeats itself.
        values = {
            key: interned.setdefault(repr(row[key]), row[key]) for key in fields if key in row
        }
        judge_note = {"note": NEEDS_JUDGE} if awaiting_judge(row) else {}
        rows.append({"id": row["id"], **values, **judge_note})
    protocols = protocols or {_protocol_from_name(path)}
    if len(protocols) > 1:
        raise ArtifactError(
            f"{path} mixes the protocols {', '.join(sorted(protocols))}; score the run again."
        )
    return protocols.pop(), rows


def _protocol_from_name(path: Path) -> str:
    """The protocol of a file whose rows do not say: the one in its name, else strict."""
    return (
        path.name.removeprefix(SCORES.split(".")[0]).removesuffix(SCORES.split(".")[1]).strip(".")
        or STRICT
    )
