"""`lingshu curate`: sources through steps into a DATASET folder, shard by shard, every drop with
its reason.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from lingshu.core import config as configuration
from lingshu.core.artifacts import DatasetCard
from lingshu.core.errors import ConfigError
from lingshu.core.files import read_json
from lingshu.core.registry import get_attribute
from lingshu.curate.config import CurateConfig


def curate(
    recipe: str,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=False)],
    out: Path,
    backend: Literal["local", "ray"] = "local",
    ray_address: str | None = None,
    workers: int | None = None,
    limit: int | None = None,
    explain: bool = False,
    license: Literal["permissive", "any"] | None = None,
    export: tuple[str, ...] = (),
    key: Path | None = None,
) -> int:
    """Curate sources into a dataset.

    What an interrupted run has done in OUT is not done again. The exit code is 1 where a step or a
    process failed on rows (they are dropped and counted), or where no row is left.

    Parameters
    ----------
    recipe
        A recipe's name (`lingshu list recipes`), a .py file with a function `recipe`, or a .yaml or
        .json file.
    changes
        Typed overrides such as sources.images.path=FOLDER, steps.size.params.min_side=224, seed=1.
    out
        Folder of the dataset.
    backend
        local works in processes of this machine; ray in tasks of a Ray cluster.
    ray_address
        Address of the cluster; without it, a Ray of this machine is started.
    workers
        Number of processes; one for each core by default, and 0 works in this process.
    limit
        Read this many rows of each source only.
    explain
        Also write OUT/explain.html: what each step did to sampled rows.
    licence
        permissive keeps rows whose licence allows use, change and redistribution, also
        commercially.
    export
        Also write OUT/llava or OUT/ms-swift, a form that other trainers read; may be given several
        times.
    key
        File with a secret of 16 bytes or more, which patient and study ids are hashed under; random
        by default.
    """
    from lingshu.core.progress import progress_bar
    from lingshu.curate.export import CARD
    from lingshu.curate.run import curate as run

    config = read_config(recipe, overrides, workers=workers, license=license)
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is {limit}; it must be at least 1.")
    with progress_bar() as progress:
        result = run(
            config,
            out,
            backend=backend,
            ray_address=ray_address,
            limit=limit,
            explain=explain,
            exports=export,
            key=None if key is None else _read_key(key),
            progress=progress,
        )
    if result.already_finished:
        print(f"{out} holds this dataset already; nothing was done")
    print_card(result.card)
    for name in export:
        rows = read_json(out / name / CARD)
        print(
            f"{name}: "
            + ", ".join(f"{label.replace('_', ' ')} {count:,}" for label, count in rows.items())
        )
    print(f"dataset: {out}" + (f"\npage: {out / 'explain.html'}" if explain else ""))
    if not result.card.rows:
        print("no row is left")
    return 1 if result.failures or not result.card.rows else 0


def read_config(
    recipe: str,
    overrides: tuple[str, ...],
    *,
    workers: int | None,
    license: Literal["permissive", "any"] | None,
) -> CurateConfig:
    """The configuration of a recipe or file with every parameter written out and the overrides
    applied.

    Raises:
        ConfigError, InputError, UnknownName: what is wrong and what was perhaps meant.
    """
    from lingshu.curate.plan import resolve

    if recipe.endswith((".yaml", ".yml", ".json")):
        config = configuration.from_plain(CurateConfig, configuration.read_plain(Path(recipe)))
    else:
        factory = get_attribute("recipes", recipe, "recipe")
        config = factory() if callable(factory) else None
        if not isinstance(config, CurateConfig):
            raise ConfigError(f"{recipe!r} is no recipe of a curation; see `lingshu list recipes`.")
    config = configuration.override(resolve(config), overrides)
    return replace(
        config,
        workers=config.workers if workers is None else workers,
        license=license or config.license,
    )


def _read_key(path: Path) -> bytes:
    from lingshu.core.pseudonyms import check_key

    try:
        return check_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); give --key a file with 16 random bytes or"
            " more."
        ) from error


def print_card(card: DatasetCard) -> None:
    """The counts of a dataset as lines for a terminal."""
    for step in card.steps or ():
        drops = ", ".join(f"{reason} {count:,}" for reason, count in step["drops"].items())
        added = f" + {step['added']:,}" if step["added"] else ""
        stats_text = ", ".join(
            f"{label} {value:,}"
            for label, value in step["stats"].items()
            if isinstance(value, int | float) and value
        )
        notes = "".join(
            (f" (dropped: {drops})" if drops else "", f"; {stats_text}" if stats_text else "")
        )
        print(f"{step['name']}: {step['in']:,}{added} -> {step['out']:,}{notes}")
    print(f"{card.rows:,} rows, {card.images:,} images, version {(card.version or '')[:12]}")
