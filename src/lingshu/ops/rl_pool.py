"""RL pool: the questions that reinforcement learning is to practise on, in the paper's proportions.

After `choice_to_open`, the paper cuts yes/no questions to about 5 % and balances by modality and
query format (section 3.1.4). Facts' default for the rest is choice and open in equal parts.
Questions that the model always or never answers right teach nothing under group-relative rewards; a
note `pass_rate` (0 to 1, of earlier rollouts) takes them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lingshu.core.quotas import UNKNOWN, allocate_quotas, group_rows, rows_over_quota
from lingshu.core.step_types import Decision, Pixels, Signature, TableStep
from lingshu.core.types import Drop, Sample
from lingshu.ops._sample_fields import answer_text, facet_value, question_format, require

if TYPE_CHECKING:
    import pyarrow as pa


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
    """Choose the pool.

    Args:
        yes_no: share of yes/no questions in the pool, at most; 0 takes them out.
        total: size of the pool; None takes the most that equal parts of choice and open allow.
        by: the facet over which each format is spread evenly, as far as it reaches.
        above, below: only questions whose pass rate lies strictly between these stay.
        require_pass_rate: whether a question without the note `pass_rate` is dropped; else it stays.
        max_answer_words: longest open answer that a rule can be trusted to check.
        seed: which samples of a group stay.

    Drops: not_verifiable, pass_rate, no_pass_rate, over_quota.
    """
    require(
        0 <= max_yes_no_fraction < 1,
        f"rl_pool: yes_no is {max_yes_no_fraction}; it must be at least 0 and below 1.",
    )
    require(total is None or total >= 1, f"rl_pool: total is {total}; it must be at least 1.")
    require(
        -1 <= pass_rate_above < pass_rate_below <= 2,
        f"rl_pool: above {pass_rate_above} must be less than below {pass_rate_below}.",
    )

    def sign(sample: Sample, _: Pixels) -> Signature:
        format_name = question_format(sample)
        n_words = len(answer_text(sample).split())
        is_verifiable = format_name in ("choice", "yes_no") or (
            format_name == "open" and 1 <= n_words <= max_answer_words
        )
        return {
            "format": format_name if is_verifiable and sample.gold else None,
            "cell": facet_value(sample, by) or UNKNOWN,
            "pass_rate": _parse_float(sample.meta.extra.get("pass_rate")),
        }

    def decide(table: pa.Table) -> Decision:
        ids, formats, cells, pass_rates = (
            table[name].to_pylist() for name in ("id", "format", "cell", "pass_rate")
        )
        drops: dict[int, Drop] = {}
        for row, (format_name, pass_rate) in enumerate(zip(formats, pass_rates, strict=True)):
            if format_name is None:
                drops[row] = Drop(ids[row], "not_verifiable")
            elif pass_rate is None and require_pass_rate:
                drops[row] = Drop(ids[row], "no_pass_rate")
            elif pass_rate is not None and not pass_rate_above < pass_rate < pass_rate_below:
                drops[row] = Drop(ids[row], "pass_rate", f"{pass_rate:.3f}")
        remaining = [row for row in range(len(ids)) if row not in drops]
        rows_by_format = {
            format_name: [remaining[i] for i in rows]
            for format_name, rows in group_rows([formats[row] for row in remaining]).items()
        }
        quotas = format_quotas(
            {format_name: len(rows) for format_name, rows in rows_by_format.items()},
            max_yes_no_fraction=max_yes_no_fraction,
            total=total,
        )
        for format_name, rows in rows_by_format.items():
            rows_by_cell = {
                cell: [rows[i] for i in members]
                for cell, members in group_rows([cells[row] for row in rows]).items()
            }
            cell_quotas = allocate_quotas(
                {cell: len(members) for cell, members in rows_by_cell.items()}, quotas[format_name]
            )
            drops |= {
                row: Drop(ids[row], "over_quota", f"{format_name}, {cell}")
                for cell, row in rows_over_quota(rows_by_cell, cell_quotas, ids, seed)
            }
        return Decision(
            drops, stats={f"kept of {format_name}": n for format_name, n in sorted(quotas.items())}
        )

    return TableStep(sign, decide)


def _parse_float(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def format_quotas(
    sizes: Mapping[str, int], *, max_yes_no_fraction: float, total: int | None
) -> dict[str, int]:
    """How many questions of each format: choice and open alike, yes/no at most its share of the
    whole.
    """
    other_sizes = {format_name: n for format_name, n in sizes.items() if format_name != "yes_no"}
    quotas = (
        dict.fromkeys(other_sizes, min(other_sizes.values(), default=0))
        if total is None
        else allocate_quotas(other_sizes, total - round(total * max_yes_no_fraction))
    )
    if "yes_no" in sizes:
        # Without any other question the share has nothing to be a share of.
        allowed = (
            int(sum(quotas.values()) * max_yes_no_fraction / (1 - max_yes_no_fraction) + 1e-9)
            if other_sizes
            else (total or sizes["yes_no"])
        )
        quotas["yes_no"] = min(sizes["yes_no"], allowed)
    return quotas
