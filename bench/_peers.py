"""The peers that bench/client.py measures, each run by the interpreter of its own environment; it
must not import lingshu.

PYTHON bench/_peers.py inspect_ai|lm_eval URL COUNT CONCURRENCY FOLDER      prints {"answered": how many replies it has}

Both ask the same questions, keep every reply in their own log, retry, and score by exact match with
"yes".
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def text(number: int) -> str:
    return (
        f"Question {number}: is there a focal lesion in the right upper lobe of this chest"
        " radiograph? Answer yes or no."
    )


def inspect_ai(url: str, count: int, concurrency: int, folder: Path) -> int:
    import inspect_ai as inspect  # pyright: ignore[reportMissingImports]
    from inspect_ai.dataset import MemoryDataset, Sample  # pyright: ignore[reportMissingImports]
    from inspect_ai.model import GenerateConfig, get_model  # pyright: ignore[reportMissingImports]
    from inspect_ai.scorer import match  # pyright: ignore[reportMissingImports]
    from inspect_ai.solver import generate  # pyright: ignore[reportMissingImports]

    dataset = MemoryDataset(
        [Sample(input=text(number), target="yes", id=number) for number in range(1, count + 1)]
    )
    config = GenerateConfig(
        max_connections=concurrency,
        max_retries=5,
        temperature=0.0,
        max_tokens=256,
        top_p=1.0,
        seed=0,
    )
    model = get_model("openai-api/local/m", base_url=f"{url}/v1", api_key="none", config=config)
    task = inspect.Task(dataset=dataset, solver=generate(), scorer=match())
    [log] = inspect.eval(
        task, model=model, display="none", log_dir=str(folder), max_samples=concurrency
    )
    assert log.status == "success" and log.results is not None, log.error
    return log.results.completed_samples


def lm_eval(url: str, count: int, concurrency: int, folder: Path) -> int:
    import lm_eval as harness  # pyright: ignore[reportMissingImports]

    rows = folder / "rows.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    rows.write_text(
        "".join(
            json.dumps({"question": text(number), "answer": "yes"}) + "\n"
            for number in range(1, count + 1)
        )
    )
    task = {
        "task": "stand_in",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {
            "until": [],
            "max_gen_toks": 256,
            "temperature": 0.0,
            "do_sample": False,
        },
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    address = f"{url}/v1/chat/completions"
    done = harness.simple_evaluate(
        model="local-chat-completions",
        model_args={
            "model": "m",
            "base_url": address,
            "num_concurrent": concurrency,
            "max_retries": 5,
            "tokenized_requests": False,
        },
        tasks=[task],
        apply_chat_template=True,
        log_samples=True,
        bootstrap_iters=0,
    )
    assert done is not None
    (folder / "samples.json").write_text(json.dumps(done["samples"], default=str))
    return len(done["samples"]["stand_in"])


if __name__ == "__main__":
    client_name, address, n_requests, concurrency, out = sys.argv[1:]
    run = {"inspect_ai": inspect_ai, "lm_eval": lm_eval}[client_name]
    print(json.dumps({"answered": run(address, int(n_requests), int(concurrency), Path(out))}))
