"""What the server counts, as text in Prometheus' exposition format (version 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence

_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_HELP = {
    "lingshu_requests_total": (
        "counter",
        "Chat completions by the HTTP status they ended with; 499: the client went away.",
    ),
    "lingshu_prompt_tokens_total": (
        "counter",
        "Tokens of prompts that were answered, images among them.",
    ),
    "lingshu_reply_tokens_total": ("counter", "Tokens of replies."),
    "lingshu_running": ("gauge", "Questions that are being answered."),
    "lingshu_waiting": ("gauge", "Questions that wait for their turn."),
    "lingshu_body_bytes": ("gauge", "Bytes of request bodies that are held."),
}
_HISTOGRAM_HELP = {
    "lingshu_first_token_seconds": (
        "From a request's last byte to its first text; of an engine that does not stream, to all"
        " of it."
    ),
    "lingshu_request_seconds": "From a request's last byte to the end of its reply.",
}


class ServerMetrics:
    """Counts since the start of the server."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.prompt_tokens = self.reply_tokens = 0
        self._histograms = {name: ([0] * (len(_BUCKETS_S) + 1), [0.0]) for name in _HISTOGRAM_HELP}

    def observe(self, name: str, seconds: float) -> None:
        """One observation of `lingshu_<name>_seconds`."""
        counts, total = self._histograms[f"lingshu_{name}_seconds"]
        counts[bisect_left(_BUCKETS_S, seconds)] += 1
        total[0] += seconds

    def render(self, *, running: int, waiting: int, held_bytes: int) -> str:
        """All of it; the gauges are what is so just now."""
        values: dict[str, Mapping[str, float]] = {
            "lingshu_requests_total": {
                f'{{status="{status}"}}': count for status, count in sorted(self.statuses.items())
            },
            "lingshu_prompt_tokens_total": {"": self.prompt_tokens},
            "lingshu_reply_tokens_total": {"": self.reply_tokens},
            "lingshu_running": {"": running},
            "lingshu_waiting": {"": waiting},
            "lingshu_body_bytes": {"": held_bytes},
        }
        lines: list[str] = []
        for name, (kind, description) in _HELP.items():
            lines += [f"# HELP {name} {description}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{labels} {value}" for labels, value in values[name].items()]
        for name, (counts, total) in self._histograms.items():
            lines += [
                f"# HELP {name} {_HISTOGRAM_HELP[name]}",
                f"# TYPE {name} histogram",
                *_histogram(name, counts, total[0]),
            ]
        return "\n".join(lines) + "\n"


def _histogram(name: str, counts: Sequence[int], total: float) -> list[str]:
    lines, cumulative = [], 0
    for bound, count in zip((*map(str, _BUCKETS_S), "+Inf"), counts, strict=True):
        cumulative += count
        lines.append(f'{name}_bucket{{le="{bound}"}} {cumulative}')
    return [*lines, f"{name}_sum {total:.6f}", f"{name}_count {cumulative}"]
