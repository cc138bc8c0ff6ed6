"""RL pool: the questions for reinforcement learning, in the paper's proportions.

After `choice_to_open`, the paper cuts yes/no questions to about 5% and balances by modality and
query format (section 3.1.4). The default for the rest is choice and open in equal parts. Questions
that the model always or never answers correctly teach nothing under group-relative rewards; a note
`pass_rate` (0 to 1, of earlier rollouts) excludes them.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from lingshu.core.quotas import UNKNOWN, allocate_quotas, group_rows, group_sizes, rows_over_quota
from lingshu.core.step_types import Decision, Pixels, Signature, TableStep
from lingshu.core.types import Drop, Sample
from lingshu.ops import _sample_fields as fields


def step(
    *,
    max_yes_no_fraction: float = 0.05,
    total: int | None = None,
    by: str = "modality",
    pass_rate_above: float = 0.0,
    pass_rate_below: float = 1.0,
    require_pass_rate: bool = False,
    max_answer_words: int = 10,
    seed: int = 0,
) -> TableStep:
    """Select the pool.

    Args:
        max_yes_no_fraction: largest share of yes/no questions in the pool; 0 excludes them.
        total: size of the pool; None takes the most that equal parts of choice and open allow.
        by: the facet over which each format is spread as evenly as possible.
        pass_rate_above, pass_rate_below: only questions with a pass rate strictly between these
            stay.
        require_pass_rate: whether a question without the note `pass_rate` is dropped.
        max_answer_words: longest open answer that a rule can be trusted to verify.
        seed: selects the samples of a group that stay.

    Drops: not_verifiable, pass_rate, no_pass_rate, over_quota.
    """
    fields.require(
        0 <= max_yes_no_fraction < 1,
        f"rl_pool: max_yes_no_fraction is {max_yes_no_fraction}; it must be at least 0 and below 1.",
    )
    fields.check_minimum("rl_pool", 1, total=total)
    fields.require(
        -1 <= pass_rate_above < pass_rate_below <= 2,
        f"rl_pool: pass_rate_above {pass_rate_above} must be less than pass_rate_below"
        f" {pass_rate_below}.",
    )

    def sign(sample: Sample, _: Pixels) -> Signature:
        name, n_words = fields.question_format(sample), len(fields.answer_text(sample).split())
        is_short = name == "open" and 1 <= n_words <= max_answer_words
        is_verifiable = sample.gold and (name in ("choice", "yes_no") or is_short)
        return {
            "format": name if is_verifiable else None,
            "cell": fields.facet_value(sample, by) or UNKNOWN,
            "pass_rate": _parse_float(sample.meta.extra.get("pass_rate")),
        }

    def decide(table: pa.Table) -> Decision:
        columns = (table[name].to_pylist() for name in ("id", "format", "cell", "pass_rate"))
        ids, formats, cells, pass_rates = columns
        drops: dict[int, Drop] = {}
        for row, (name, pass_rate) in enumerate(zip(formats, pass_rates, strict=True)):
            if name is None:
                drops[row] = Drop(ids[row], "not_verifiable")
            elif pass_rate is None and require_pass_rate:
                drops[row] = Drop(ids[row], "no_pass_rate")
            elif pass_rate is not None and not pass_rate_above < pass_rate < pass_rate_below:
                drops[row] = Drop(ids[row], "pass_rate", f"{pass_rate:.3f}")
        remaining = [row for row in range(len(ids)) if row not in drops]
        rows_by_format = _group(remaining, formats)
        quotas = format_quotas(
            group_sizes(rows_by_format), max_yes_no_fraction=max_yes_no_fraction, total=total
        )
        for name, rows in rows_by_format.items():
            rows_by_cell = _group(rows, cells)
            cell_quotas = allocate_quotas(group_sizes(rows_by_cell), quotas[name])
            drops |= {
                row: Drop(ids[row], "over_quota", f"{name}, {cell}")
                for cell, row in rows_over_quota(rows_by_cell, cell_quotas, ids, seed)
            }
        return Decision(drops, stats={f"kept of {name}": n for name, n in sorted(quotas.items())})

    return TableStep(sign, decide)


def _group(rows: list[int], groups: list[str]) -> dict[str, list[int]]:
    positions = group_rows([groups[row] for row in rows])
    return {group: [rows[i] for i in members] for group, members in positions.items()}


def _parse_float(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def format_quotas(
    sizes: Mapping[str, int], *, max_yes_no_fraction: float, total: int | None
) -> dict[str, int]:
    """How many questions of each format: choice and open alike, yes/no at most its share."""
    others = {name: n for name, n in sizes.items() if name != "yes_no"}
    if total is None:
        quotas = dict.fromkeys(others, min(others.values(), default=0))
    else:
        quotas = allocate_quotas(others, total - round(total * max_yes_no_fraction))
    if "yes_no" in sizes:
        allowed = total or sizes["yes_no"]
        if others:  # without other questions there is nothing to be a share of
            ratio = max_yes_no_fraction / (1 - max_yes_no_fraction)
            allowed = int(sum(quotas.values()) * ratio + 1e-9)
        quotas["yes_no"] = min(sizes["yes_no"], allowed)
    return quotas
