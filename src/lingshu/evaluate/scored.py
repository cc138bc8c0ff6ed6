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

from lingshu.core.artefacts import SCORES, iterate_scores
from lingshu.core.errors import ArtefactError
from lingshu.core.files import read_json
from lingshu.core.runcard import RUN_CARD
from lingshu.evaluate._judged import JUDGE, Judged, read_judged
from lingshu.evaluate.measure import METRICS, MetricRow, rows_of
from lingshu.evaluate.summary import Row, unjudged
from lingshu.scoring import _protocols
from lingshu.scoring._reports import NEEDS_JUDGE

STRICT = "strict"
DEFAULT_BY = ("kind", "lang", "language")
KEPT = ("value", "status", "group", "truncated", "gold", "kind")


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
    facts: Mapping[str, Any]
    rows: Mapping[str, Sequence[Row]]
    left_out: tuple[str, ...] = ()
    metrics: tuple[MetricRow, ...] = ()
    max_tokens: int | None = None
    limit: int | None = None
    judged: Judged | None = None

    @property
    def protocol(self) -> str:
        """The protocol that the report leads with."""
        return next(iter(self.rows))

    @property
    def by(self) -> tuple[str, ...]:
        return tuple(self.facts.get("by") or DEFAULT_BY)

    @property
    def title(self) -> str:
        return self.facts.get("title") or self.name

    def quirks(self, protocol: str) -> tuple[str, ...]:
        """What is known to be odd in a protocol, one sentence each, as the run card has it (a list,
        or by protocol) or as we know it.
        """
        said = self.facts.get("quirks") or ()
        if not isinstance(said, Mapping):
            said = {self.protocol: said} if said else {}
        if protocol in said:
            return tuple(map(str, said[protocol]))
        return _protocols.quirks(protocol) if protocol in _protocols.PROTOCOLS else ()


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
    notes, facts, config = _card(run / RUN_CARD)
    stem, suffix = SCORES.split(".")
    files: dict[str, list[Path]] = {}
    for path in sorted(
        run.glob(f"*/{stem}*.{suffix}"),
        key=lambda path: (path.parent.name, path.name != SCORES, path.name),
    ):
        if path.name == SCORES or path.name.startswith(f"{stem}."):
            files.setdefault(path.parent.name, []).append(path)
    # A run folder that is used again reports the tasks of its last command, in their order.
    names = [name for name in facts if name in files] or sorted(files)
    if not names:
        raise ArtefactError(
            f"{run} holds no scores (TASK/{SCORES}); make them with `lingshu eval`."
        )
    name = run.resolve().name
    tasks = []
    for each in names:
        sampling = config.get("sampling", {}).get(each)
        # What an earlier command asked in the same folder is not in the configuration of the last
        # one, but in its facts.
        known = (
            {"max_tokens": sampling.get("max_tokens"), "limit": config.get("limit")}
            if sampling
            else facts.get(each, {})
        )
        asked = {name: known.get(name) for name in ("max_tokens", "limit")}
        tasks.append(replace(_task(each, facts.get(each, {}), files[each]), **asked))
    return ScoredRun(name, str(notes.get("model", name)), tuple(tasks))


def _card(
    path: Path,
) -> tuple[Mapping[str, Any], Mapping[str, Mapping[str, Any]], Mapping[str, Any]]:
    """The notes of a run card, the facts of its tasks and its configuration, all empty where there
    is none.
    """
    card = read_json(path) if path.is_file() else {}

    def checked(value: Any, name: str, right: bool) -> Any:
        if not right:
            raise ArtefactError(
                f"{path}: {name} cannot be {value!r:.40}; the file is damaged: run `lingshu eval`"
                " again, or remove it."
            )
        return value

    def object_of(holder: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
        value = holder.get(key)
        return {} if value is None else checked(value, name, isinstance(value, Mapping))

    notes, config = object_of(card, "notes", "notes"), object_of(card, "config", "config")
    tasks = object_of(notes, "tasks", "notes.tasks")
    for task in tasks:
        for key, value in object_of(tasks, task, f"notes.tasks.{task}").items():
            right = _FACTS.get(key)
            checked(
                value, f"notes.tasks.{task}.{key}", value is None or right is None or right(value)
            )
    sampling = object_of(config, "sampling", "config.sampling")
    for holder, name in [
        (config, "limit"),
        *(
            (object_of(sampling, task, f"config.sampling.{task}"), "max_tokens")
            for task in sampling
        ),
    ]:
        checked(
            holder.get(name), f"config: {name}", holder.get(name) is None or _is_count(holder[name])
        )
    return notes, tasks, config


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_FACTS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("title", "source", "licence", "revision"), lambda value: isinstance(value, str)
    ),
    **dict.fromkeys(("n", "max_tokens", "limit"), _is_count),
    "by": _is_texts,
    "drops": lambda value: isinstance(value, Mapping),
    "published": lambda value: isinstance(value, str) or (_is_texts(value) and len(value) == 2),
    "protocol": lambda value: isinstance(value, str) or _is_texts(value),
    "quirks": lambda value: (
        _is_texts(value) or (isinstance(value, Mapping) and all(map(_is_texts, value.values())))
    ),
}


def _task(name: str, facts: Mapping[str, Any], files: list[Path]) -> ScoredTask:
    rows: dict[str, Sequence[Row]] = {}
    for path in files:
        protocol, found = _read(path, facts)
        if protocol in rows:
            raise ArtefactError(
                f"{path} holds the protocol {protocol} once more; delete the file that is out of"
                " date."
            )
        rows[protocol] = found
    # The run card may name one protocol, which leads, or several, which are then all there is to
    # show.
    first, *others = rows
    rows = {
        name: rows[name]
        for name in (first, *(name for name in _protocols.PROTOCOLS if name in others), *others)
    }
    named = facts.get("protocol")
    if isinstance(named, list) and any(protocol in rows for protocol in named):
        rows = {protocol: rows[protocol] for protocol in named if protocol in rows}
    elif isinstance(named, str) and named in rows:
        rows = {named: rows[named], **rows}
    leading = next(iter(rows))
    items = {row["id"] for row in rows[leading]}
    stale = [protocol for protocol, found in rows.items() if {row["id"] for row in found} != items]
    told = tuple(
        f"The scores under the protocol {protocol} are over other items and left out; score the run"
        " again."
        for protocol in stale
    )
    held = _metrics(files[0].with_name(METRICS))
    if held and held.get("references") != len(items):
        held, told = (
            {},
            (*told, "The metrics are over other items and left out; score the run again."),
        )
    kept = {protocol: found for protocol, found in rows.items() if protocol not in stale}
    judged = read_judged(files[0].parent) if JUDGE in kept else None
    return ScoredTask(name, facts, kept, told, tuple(rows_of(held)), judged=judged)


def _metrics(path: Path) -> Mapping[str, Any]:
    """What a file of metrics holds, nothing where there is none."""
    held = read_json(path) if path.is_file() else {}
    rows = held.get("metrics", [])
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("name"), str) for row in rows
    ):
        raise ArtefactError(f"{path} is damaged; score the run again, or remove it.")
    return held


def _read(path: Path, facts: Mapping[str, Any]) -> tuple[str, list[Row]]:
    """The protocol of a file of scores, and what the tables need of its rows."""
    kept = {*KEPT, *(facts.get("by") or DEFAULT_BY)}
    rows: list[Row] = []
    given: set[str] = set()
    same: dict[str, Any] = {}
    for row in iterate_scores(path):
        given.add(str(row.get("protocol") or _named(path)))
        # What was asked and replied is most of a file and nothing a table shows; what is left
        # repeats itself.
        shared = {key: same.setdefault(repr(row[key]), row[key]) for key in kept if key in row}
        waits = {"note": NEEDS_JUDGE} if unjudged(row) else {}
        rows.append({"id": row["id"], **shared, **waits})
    given = given or {_named(path)}
    if len(given) > 1:
        raise ArtefactError(
            f"{path} mixes the protocols {', '.join(sorted(given))}; score the run again."
        )
    return given.pop(), rows


def _named(path: Path) -> str:
    """The protocol of a file whose rows do not say: the one in its name, else strict."""
    return (
        path.name.removeprefix(SCORES.split(".")[0]).removesuffix(SCORES.split(".")[1]).strip(".")
        or STRICT
    )
