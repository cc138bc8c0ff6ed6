"""RL pool: the questions that reinforcement learning is to practise on, in the paper's proportions.

After `choice_to_open`, the paper cuts yes/no questions to about 5 % and balances by modality and
query format (section 3.1.4). Facts' default for the rest is choice and open in equal parts.
Questions that the model always or never answers right teach nothing under group-relative rewards; a
note `pass_rate` (0 to 1, of earlier rollouts) takes them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lingshu.core.nouns import Drop, Sample
from lingshu.core.steps import Decision, Pixels, Signature, TableStep
from lingshu.ops._facts import answer, facet, format_of, require
from lingshu.ops._quota import UNKNOWN, beyond, fill, rows_by

if TYPE_CHECKING:
    import pyarrow as pa


def step(
    *,
    yes_no: float = 0.05,
    total: int | None = None,
    by: str = "modality",
    above: float = 0.0,
    below: float = 1.0,
    need_pass_rate: bool = False,
    max_answer_words: int = 10,
    seed: int = 0,
) -> TableStep:
    """Choose the pool.

    Args:
        yes_no: share of yes/no questions in the pool, at most; 0 takes them out.
        total: size of the pool; None takes the most that equal parts of choice and open allow.
        by: the facet over which each format is spread evenly, as far as it reaches.
        above, below: only questions whose pass rate lies strictly between these stay.
        need_pass_rate: whether a question without the note `pass_rate` is dropped; else it stays.
        max_answer_words: longest open answer that a rule can be trusted to check.
        seed: which samples of a group stay.

    Drops: not_verifiable, pass_rate, no_pass_rate, over_quota.
    """
    require(0 <= yes_no < 1, f"rl_pool: yes_no is {yes_no}; it must be at least 0 and below 1.")
    require(total is None or total >= 1, f"rl_pool: total is {total}; it must be at least 1.")
    require(-1 <= above < below <= 2, f"rl_pool: above {above} must be less than below {below}.")

    def sign(sample: Sample, _: Pixels) -> Signature:
        form = format_of(sample)
        words = len(answer(sample).split())
        fit = form in ("choice", "yes_no") or (form == "open" and 1 <= words <= max_answer_words)
        return {
            "format": form if fit and sample.gold else None,
            "cell": facet(sample, by) or UNKNOWN,
            "pass_rate": _number(sample.meta.extra.get("pass_rate")),
        }

    def decide(table: pa.Table) -> Decision:
        ids, forms, cells, rates = (
            table[name].to_pylist() for name in ("id", "format", "cell", "pass_rate")
        )
        drops: dict[int, Drop] = {}
        for row, (form, rate) in enumerate(zip(forms, rates, strict=True)):
            if form is None:
                drops[row] = Drop(ids[row], "not_verifiable")
            elif rate is None and need_pass_rate:
                drops[row] = Drop(ids[row], "no_pass_rate")
            elif rate is not None and not above < rate < below:
                drops[row] = Drop(ids[row], "pass_rate", f"{rate:.3f}")
        left = [row for row in range(len(ids)) if row not in drops]
        by_form = {
            form: [left[i] for i in rows]
            for form, rows in rows_by([forms[row] for row in left]).items()
        }
        quotas = shares(
            {form: len(rows) for form, rows in by_form.items()}, yes_no=yes_no, total=total
        )
        for form, rows in by_form.items():
            cell_rows = {
                cell: [rows[i] for i in found]
                for cell, found in rows_by([cells[row] for row in rows]).items()
            }
            cut = fill({cell: len(found) for cell, found in cell_rows.items()}, quotas[form])
            drops |= {
                row: Drop(ids[row], "over_quota", f"{form}, {cell}")
                for cell, row in beyond(cell_rows, cut, ids, seed)
            }
        return Decision(drops, told={f"kept of {form}": n for form, n in sorted(quotas.items())})

    return TableStep(sign, decide)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def shares(sizes: Mapping[str, int], *, yes_no: float, total: int | None) -> dict[str, int]:
    """How many questions of each format: choice and open alike, yes/no at most its share of the
    whole.
    """
    main = {form: n for form, n in sizes.items() if form != "yes_no"}
    quotas = (
        dict.fromkeys(main, min(main.values(), default=0))
        if total is None
        else fill(main, total - round(total * yes_no))
    )
    if "yes_no" in sizes:
        # Without any other question the share has nothing to be a share of.
        allowed = (
            int(sum(quotas.values()) * yes_no / (1 - yes_no) + 1e-9)
            if main
            else (total or sizes["yes_no"])
        )
        quotas["yes_no"] = min(sizes["yes_no"], allowed)
    return quotas
