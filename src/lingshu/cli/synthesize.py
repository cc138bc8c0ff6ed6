"""`lingshu synthesise`: a dataset and a teacher make a dataset of captions, questions, reasoning or
dialogues.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lingshu.core import config as configuration
from lingshu.core.data_policy import DataPolicy
from lingshu.core.engine_options import EngineOptions
from lingshu.core.errors import ConfigError
from lingshu.core.registry import get_attribute
from lingshu.curate.config import SynthesisConfig


def synthesize(
    recipe: str,
    dataset: Path,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=False)],
    teacher: str,
    out: Path,
    cache_dir: Path | None = None,
    verdicts: tuple[Path, ...] = (),
    limit: int | None = None,
    concurrency: int = 16,
    retries: int = 5,
    timeout_s: float = 120.0,
    agreement: tuple[str, ...] = (),
    allow_remote: bool = False,
) -> int:
    """Make synthetic samples of a dataset with a teacher, and queue a part of them for review.

    What the teacher said is remembered: run the same command again after an interruption, with a
    larger budget, or with reviewers' verdicts, and only what is missing is asked. The exit code is
    1 where rows could not be asked (the teacher failed at them, or the budget was spent), or where
    no row is left; 2 where reviewers rejected too much of a kind.

    Parameters
    ----------
    recipe
        A recipe's name (`lingshu list recipes`), a .py file with a function `recipe`, or a .yaml or
        .json file.
    dataset
        DATASET folder to begin from, as `lingshu curate` writes it.
    changes
        Typed overrides such as steps.captions.params.min_words=40, token_budget=2000000.
    teacher
        http(s)://host/v1#name, batch: before one, a checkpoint folder or hub id, scripted, or a .py
        file.
    out
        Folder of the dataset of synthetic samples.
    calls
        Folder that remembers the calls; OUT with `.calls` behind its name by default.
    verdicts
        File with reviewers' verdicts on OUT/review/queue.jsonl; may be given several times.
    limit
        Take the first LIMIT rows of the dataset only.
    concurrency
        Requests at a time, for a teacher behind an address.
    retries
        How often a request is sent again that the address refused or did not answer.
    timeout_s
        Seconds to wait for a reply.
    agreement
        A data-use agreement that covers the address; may be given several times. Credentialed rows
        are never sent.
    allow_remote
        Private samples that are not de-identified may be sent to the address.
    """
    from lingshu.cli.curate import print_card
    from lingshu.core.progress import progress_bar
    from lingshu.curate.synthesize import open_client
    from lingshu.curate.synthesize import synthesize as run
    from lingshu.inference.engines import open_engine

    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is {limit}; it must be at least 1.")
    config = read_config(recipe, overrides)
    cache_folder = cache_dir or out.with_name(f"{out.name}.calls")
    if cache_folder.resolve().is_relative_to(out.resolve()):
        raise ConfigError(
            f"--cache-dir {cache_folder} lies in --out {out}, which is replaced as a whole; choose another"
            " folder for the calls."
        )
    release = DataPolicy(frozenset(agreement), allow_remote)
    engine = open_engine(
        teacher,
        EngineOptions(
            concurrency=concurrency, retries=retries, timeout_s=timeout_s, data_policy=release
        ),
    )
    engine_retries = retries if engine.endpoint else 0
    with (
        progress_bar() as progress,
        open_client(
            config, engine, cache_folder, release=release, engine_retries=engine_retries
        ) as client,
    ):
        result = run(
            config, dataset, out, client, verdicts=verdicts, limit=limit, progress=progress
        )
    print_card(result.card)
    for summary in result.review:
        share = f"{summary.rejected.value:.0%}" if summary.rejected.value is not None else "none"
        print(f"review of {summary.kind}: {summary.reviewed} samples, {share} rejected")
    if result.n_unmatched_verdicts:
        print(f"verdicts on {result.n_unmatched_verdicts} samples that this run does not make")
    print(
        "calls: "
        + ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in result.usage.items())
    )
    print(f"to review: {out / 'review' / 'queue.jsonl'}\ndataset: {out}")
    if not result.card.rows:
        print("no row is left")
    return 1 if result.n_not_requested or not result.card.rows else 0


def read_config(recipe: str, overrides: tuple[str, ...]) -> SynthesisConfig:
    """The configuration of a recipe or file with every parameter written out and the overrides
    applied.

    Raises:
        ConfigError, InputError, UnknownName: what is wrong and what was perhaps meant.
    """
    from lingshu.curate.synthesize import resolve_synthesis

    if recipe.endswith((".yaml", ".yml", ".json")):
        config = configuration.from_plain(SynthesisConfig, configuration.read_plain(Path(recipe)))
    else:
        factory = get_attribute("recipes", recipe, "recipe")
        config = factory() if callable(factory) else None
        if not isinstance(config, SynthesisConfig):
            raise ConfigError(
                f"{recipe!r} is no recipe of a synthesis; see `lingshu list recipes`."
            )
    return configuration.override(resolve_synthesis(config), overrides)
