"""`lingshu curate`: sources through steps into a DATASET folder, every drop with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lingshu.cli.options import Flat
from lingshu.core.artifacts import DatasetCard
from lingshu.core.config import override, read_recipe
from lingshu.core.files import read_json
from lingshu.curate.card import format_drops
from lingshu.curate.config import CurateConfig
from lingshu.curate.run import CurateOptions


def curate(
    recipe: str,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=False)],
    out: Path,
    options: Flat[CurateOptions] = CurateOptions(),
) -> int:
    """Curate sources into a dataset.

    Work that an interrupted run finished in OUT is not repeated. The exit code is 1 if a step or a
    process failed on rows (they are dropped and counted), or if no row is left.

    Args:
        recipe: A recipe's name (`lingshu list recipes`), a .py file with a function `recipe`, or a
            .yaml or .json file.
        overrides: Typed overrides such as sources.images.path=FOLDER, steps.size.params.min_side=224,
            seed=1.
        out: Folder of the dataset.
    """
    from lingshu.core.progress import progress_bar
    from lingshu.curate import explain, export
    from lingshu.curate.plan import resolve
    from lingshu.curate.run import curate as run

    config = resolve(read_recipe(recipe, CurateConfig, what="a recipe of a curation"))
    config = override(config, overrides)
    with progress_bar() as progress:
        result = run(config, out, options, progress=progress)
    if result.already_finished:
        print(f"{out} holds this dataset already; nothing was done")
    print_card(result.card)
    for name in options.export:
        rows = read_json(out / name / export.CARD)
        print(f"{name}: {format_counts(rows)}")
    print(f"dataset: {out}" + (f"\npage: {out / explain.EXPLAIN_PAGE}" if options.explain else ""))
    if not result.card.rows:
        print("no row is left")
    return 1 if result.failures or not result.card.rows else 0


def print_card(card: DatasetCard) -> None:
    """Print the counts of a dataset."""
    for step in card.steps or ():
        added = f" + {step['added']:,}" if step["added"] else ""
        drops = format_drops(step)
        stats = ", ".join(
            f"{label} {value:,}"
            for label, value in step["stats"].items()
            if isinstance(value, int | float) and value
        )
        notes = (f" (dropped: {drops})" if drops else "") + (f"; {stats}" if stats else "")
        print(f"{step['name']}: {step['in']:,}{added} -> {step['out']:,}{notes}")
    print(f"{card.rows:,} rows, {card.images:,} images, version {(card.version or '')[:12]}")


def format_counts(counts: Mapping[str, int | float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items())
