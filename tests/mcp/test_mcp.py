"""`lingshu mcp` through the official client in memory, on the stateless protocol and the older
handshake: tools, resources, prompts.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import PromptReference, ResourceTemplateReference

from lingshu.cli.main import main
from lingshu.core.errors import ConfigError, InputError
from lingshu.core.safe_folder import SafeFolder
from lingshu.imaging.windows import CT_WINDOWS, FILE_WINDOW
from lingshu.inference.inputs import ViewOptions
from lingshu.inference.study_index import MediaResolver
from lingshu.mcp.results import Language
from lingshu.mcp.texts import choice_label, render_prompt
from lingshu.mcp.tools import AnalysisType, WindowName
from tests.support.mcp_session import (
    ENDLESS_ENGINE,
    MODES,
    PNG,
    REMOTE_ENGINE,
    REPORT,
    URI,
    Setup,
    error_text,
    open_services,
    run,
    session,
    setup,
    structured_content,
    text,
)
from tests.support.serving import write_engine

DATA = Path(__file__).parents[3] / "shared" / "data" / "dicom_odd_files" / "pydicom" / "test_files"
OWN_TOOLS = [
    "analyze_image",
    "answer_question",
    "draft_report",
    "compare_studies",
    "describe_dicom",
    "list_studies",
    "score_report",
    "evaluate",
]
LINGSHU_MCP_TOOLS = ["analyze_medical_image", "generate_medical_report", "medical_qa"]
ECHO = setup(REPORT)
PNG_BASE64 = URI.partition(",")[2]
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="the DICOM files of shared/data are not here"
)


def call(
    given: Setup,
    name: str,
    arguments: dict[str, Any],
    mode: str = "auto",
    *,
    answer: str | None = None,
) -> Any:
    async def work() -> Any:
        async with session(given, mode, answer=answer) as client:
            return await client.call_tool(name, arguments)

    return run(work)


@pytest.mark.parametrize("mode", MODES)
def test_without_a_model_tools_are_listed_and_explain_what_is_missing(mode: str) -> None:
    async def work() -> None:
        async with session(setup(), mode) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert list(tools) == OWN_TOOLS + LINGSHU_MCP_TOOLS
            assert all(
                tool.annotations and tool.annotations.read_only_hint is (name != "evaluate")
                for name, tool in tools.items()
            )
            assert all(
                tool.output_schema and tool.title and tool.description for tool in tools.values()
            )
            assert tools["analyze_image"].input_schema["properties"]["language"]["enum"] == [
                "en",
                "zh",
            ]
            assert "phantom" in tools["evaluate"].input_schema["properties"]["task"]["enum"]
            message = error_text(
                await client.call_tool("answer_question", {"question": "Is there a lesion?"})
            )
            assert message.startswith(
                "this server was started without a model; start it with `lingshu mcp MODEL`"
            )
            assert (
                "without a model"
                in (await client.read_resource("lingshu://model")).contents[0].text  # type: ignore[union-attr]
            )

    run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_result_names_its_model_its_prompt_and_its_images(mode: str) -> None:
    progress_values: list[float] = []

    async def work() -> dict[str, Any]:
        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            progress_values.append(progress)

        async with session(ECHO, mode) as client:
            arguments = {"question": "Is there a lesion?", "images": [URI, URI.partition(",")[2]]}
            return structured_content(
                await client.call_tool("answer_question", arguments, progress_callback=on_progress)
            )

    result = run(work)
    assert (
        next(iter(result)) == "answer"
        and result["answer"] == "Findings: a nodule. Impression: benign."
    )
    assert (
        result["model"] == REPORT
        and len(result["model_digest"]) == 64
        and len(result["prompt_sha256"]) == 64
    )
    assert result["notice"] == "Research only; not for clinical use." and result["finish"] == "stop"
    assert result["image_provenance"] == [
        {"item": n, "kind": "picture", "rows": 60, "columns": 90, "index": 1, "total": 1}
        for n in (1, 2)
    ]
    assert progress_values == [1.0]


def test_a_draft_has_sections_and_is_preliminary() -> None:
    result = structured_content(
        call(ECHO, "draft_report", {"images": [URI], "indication": "cough"})
    )
    assert (result["findings"], result["impression"], result["status"], result["verified"]) == (
        "a nodule.",
        "benign.",
        "preliminary",
        False,
    )
    assert "not verified by a person" in result["markdown"]
    assert (
        structured_content(call(ECHO, "draft_report", {"images": [URI], "language": "zh"}))[
            "prompt_sha256"
        ]
        != result["prompt_sha256"]
    )


def test_two_studies_are_distinguished_by_item() -> None:
    result = structured_content(
        call(ECHO, "compare_studies", {"prior": [URI, URI], "current": [URI]})
    )
    assert [entry["item"] for entry in result["image_provenance"]] == [1, 1, 2]


def test_a_report_is_scored_without_a_model() -> None:
    same = structured_content(
        call(
            setup(),
            "score_report",
            {"report": "No effusion.", "reference": "No effusion.", "modality": "x-ray"},
        )
    )
    values = {entry["name"]: entry.get("value") for entry in same["metrics"]}
    assert values["rouge_l"] == 1.0 and values["radgraph_f1"] is None
    assert next(
        entry["note"] for entry in same["metrics"] if entry["name"] == "radgraph_f1"
    ).startswith("unavailable")


def test_the_published_names_answer_with_the_published_keys() -> None:
    result = structured_content(
        call(ECHO, "analyze_medical_image", {"image_path": URI, "patient_context": "cough"})
    )
    assert {"status", "analysis_type", "language", "report", "timestamp", "model"} <= result.keys()
    assert (result["status"], result["analysis_type"], result["language"]) == (
        "success",
        "radiology",
        "zh",
    )
    result = structured_content(
        call(
            ECHO,
            "medical_qa",
            {"question": "What is a nodule?", "specialty": "radiology", "language": "en"},
        )
    )
    assert result["question"] == "What is a nodule?" and result["answer"].startswith("Findings")
    info = {"name": "Canary", "age": 61, "patient_id": "123"}
    result = structured_content(
        call(
            ECHO,
            "generate_medical_report",
            {"findings": ["a nodule"], "patient_info": info, "template": "brief"},
        )
    )
    assert result["findings_count"] == 1 and result["notes"][0].startswith(
        "2 of 3 entries of patient_info"
    )


@needs_data
@pytest.mark.parametrize("mode", MODES)
def test_studies_are_listed_described_and_shown_without_identities(
    mode: str, tmp_path: Path
) -> None:
    root = tmp_path / "Canary^Jane"
    root.mkdir()
    (root / "CanaryJane.dcm").write_bytes((DATA / "CT_small.dcm").read_bytes())
    (root / "notes.txt").write_text("no DICOM")

    async def work() -> str:
        output = ""
        async with session(setup(REPORT, root=root), mode) as client:
            studies = structured_content(await client.call_tool("list_studies", {}))
            [study] = studies["studies"]
            assert (
                study["modalities"] == ["CT"]
                and study["files"] == 1
                and studies["n_other_files"] == 1
                and studies["is_complete"]
            )
            described = structured_content(
                await client.call_tool("describe_dicom", {"image": study["uri"]})
            )
            assert described["series"][0]["rows"] == 128 and described["patients"] == 1
            arguments = {
                "question": "What is shown?",
                "images": [study["uri"], "CanaryJane.dcm", f"file://{root}/CanaryJane.dcm"],
            }
            result = structured_content(
                await client.call_tool(
                    "answer_question", {**arguments, "windows": ["lung", "soft"]}
                )
            )
            assert [(entry["item"], entry["window"]) for entry in result["image_provenance"]] == [
                (n, w) for n in (1, 2, 3) for w in ("lung", "soft")
            ]
            read = await client.read_resource(study["uri"])
            output += (
                json.dumps([studies, described, result])
                + str(read)
                + str(await client.read_resource("lingshu://studies"))
            )
            name = study["uri"].rpartition("/")[2]
            ref = ResourceTemplateReference(uri="lingshu://study/{study}")
            assert (
                await client.complete(ref, {"name": "study", "value": name[:2]})
            ).completion.values == [name]
        return output

    output = run(work)
    # Patient's name, id and study UID of the file, and our own in its path.
    for canary in ("Canary", "CompressedSamples", "1CT1", "1.3.6.1.4.1.5962", "2004"):
        assert canary not in output, canary


def test_the_series_of_a_study_have_the_numbers_of_its_description(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    from tests.support.dicom_files import dicom

    for series, images in ((1, 2), (2, 3), (3, 5)):
        for index in range(images):
            ids = {
                "StudyInstanceUID": "1.9",
                "SeriesInstanceUID": f"1.9.{series}",
                "SeriesNumber": str(10 * series),
                "Modality": "MR",
            }
            file = dicom(np.full((4, 4), index, np.uint16), InstanceNumber=str(index + 1), **ids)
            (tmp_path / f"{series}-{index}").write_bytes(file)

    async def work() -> list[list[tuple[int, int]]]:
        async with session(setup(REPORT, root=tmp_path), "auto") as client:
            [study] = structured_content(await client.call_tool("list_studies", {}))["studies"]
            described = structured_content(
                await client.call_tool("describe_dicom", {"image": study["uri"]})
            )["series"]
            assert [(entry["number"], entry["images"]) for entry in described] == [
                (1, 2),
                (2, 3),
                (3, 5),
            ]
            series_numbers = []
            for requested in ([], [2], [3, 1]):
                arguments = {"question": "?", "images": [study["uri"]], "series": requested}
                image_provenance = structured_content(
                    await client.call_tool("answer_question", arguments)
                )["image_provenance"]
                series_numbers.append(
                    sorted({(entry["series"], entry["total"]) for entry in image_provenance})
                )
            return series_numbers

    assert run(work) == [[(3, 5)], [(2, 3)], [(1, 2), (3, 5)]]


def test_a_file_that_is_named_by_a_hash_is_not_read_as_base64(tmp_path: Path) -> None:
    name = "ab" * 32
    (tmp_path / name).write_bytes(PNG)
    media = MediaResolver(SafeFolder(tmp_path))
    assert len(media.load_inputs([name, PNG_BASE64], ViewOptions()).images) == 2
    with pytest.raises(InputError, match=r"^image 1"):
        media.load_inputs(["cd" * 32], ViewOptions())


def test_nothing_is_kept_of_deleted_files(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    from tests.support.dicom_files import dicom

    file = tmp_path / "Canary^Jane.dcm"
    media = MediaResolver(SafeFolder(tmp_path))
    for size in (4, 5, 6):
        file.write_bytes(
            dicom(
                np.zeros((size, size), np.uint16), StudyInstanceUID="1.9", SeriesInstanceUID="1.9.1"
            )
        )
        assert len(media.build_index().studies) == len(media._study_cache) == 1
    file.unlink()
    assert media.build_index().studies == {} and media._study_cache == {}


@pytest.mark.parametrize("mode", MODES)
def test_resources_prompts_and_completion(mode: str, tmp_path: Path) -> None:
    async def work() -> None:
        async with session(setup(REPORT, runs=tmp_path / "runs"), mode) as client:
            uris = [str(entry.uri) for entry in (await client.list_resources()).resources]
            assert uris == [
                "lingshu://benchmarks",
                "lingshu://model",
                "lingshu://studies",
                "lingshu://runs",
            ]
            templates = [
                entry.uri_template
                for entry in (await client.list_resource_templates()).resource_templates
            ]
            assert templates == [
                "lingshu://benchmark/{name}",
                "lingshu://study/{study}",
                "lingshu://run/{run}",
            ]
            assert (
                json.loads(
                    (await client.read_resource("lingshu://benchmark/vqa_rad")).contents[0].text  # type: ignore[union-attr]
                )["expected_n"]
                == 451
            )
            for bad_uri in (
                "lingshu://benchmark/..%2F..%2Fetc",
                "lingshu://run/%2Fetc",
                "lingshu://study/x",
                "lingshu://run/x",
                "lingshu://x",
            ):
                with pytest.raises(MCPError):
                    await client.read_resource(bad_uri)
            assert [entry.name for entry in (await client.list_prompts()).prompts] == [
                "cxr_report",
                "ct_report",
                "vqa",
                "critique",
            ]
            prompt_result = await client.get_prompt(
                "critique", {"report": "A {language} nodule.", "language": "en"}
            )
            assert "A {language} nodule." in prompt_result.messages[0].content.text  # type: ignore[union-attr]
            completed = await client.complete(
                PromptReference(name="ct_report"), {"name": "region", "value": "c"}
            )
            assert completed.completion.values == ["chest"]
            ref = ResourceTemplateReference(uri="lingshu://benchmark/{name}")
            assert (
                "slake_zh"
                in (
                    await client.complete(ref, {"name": "name", "value": "slake"})
                ).completion.values
            )
            with pytest.raises(MCPError, match="region: Input should be") as error:
                await client.get_prompt("ct_report", {"region": "Canary^Jane"})
            assert "Canary" not in str(error.value)

    run(work)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_leaves_this_machine_before_a_person_agrees(mode: str, tmp_path: Path) -> None:
    model = write_engine(tmp_path, REMOTE_ENGINE)
    question_arguments = {"question": "Is there a lesion?", "images": [URI]}
    calls = (
        ("answer_question", question_arguments),
        ("draft_report", {"images": [URI]}),
        ("compare_studies", {"prior": [URI], "current": [URI]}),
        ("analyze_medical_image", {"image_path": URI}),
        ("medical_qa", {"question": "What is a nodule?"}),
        ("generate_medical_report", {"findings": ["a nodule"]}),
        ("evaluate", {"action": "start", "task": "phantom"}),
    )

    async def work() -> None:
        services = open_services(setup(model, runs=tmp_path / "runs"))
        requests = services.model.open().engine.requests  # type: ignore[attr-defined]
        async with session(setup(), mode, services=services) as client:
            for name, arguments in calls:
                assert "this client cannot ask you" in error_text(
                    await client.call_tool(name, arguments)
                ), name
        async with session(setup(), mode, services=services, answer="decline") as client:
            for name, arguments in calls:
                assert "you did not agree" in error_text(await client.call_tool(name, arguments)), (
                    name
                )
            assert requests == [] and not (tmp_path / "runs").exists()
        async with session(setup(), mode, services=services, answer="accept") as client:
            assert (
                structured_content(await client.call_tool("answer_question", question_arguments))[
                    "answer"
                ]
                == "sent"
            )
            assert (
                "1 image and the question would leave this machine and go to"
                " http://hospital.example/v1." in services.media.last_question  # type: ignore[attr-defined]
            )
            assert len(requests) == 1
        services.close()
        async with session(setup(model, allow_remote=True), mode) as client:
            assert (
                structured_content(await client.call_tool("answer_question", question_arguments))[
                    "answer"
                ]
                == "sent"
            )

    run(work)


@pytest.mark.parametrize("mode", MODES)
def test_a_cancelled_call_frees_the_engine(mode: str, tmp_path: Path) -> None:
    async def work() -> None:
        services = open_services(setup(write_engine(tmp_path, ENDLESS_ENGINE)))
        started = asyncio.Event()

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            started.set()

        async with session(setup(), mode, services=services) as client:
            call_task = asyncio.create_task(
                client.call_tool("medical_qa", {"question": "?"}, progress_callback=on_progress)
            )
            await started.wait()
            engine = services.model.open()
            assert engine.running == 1
            call_task.cancel()
            while engine.running:
                await asyncio.sleep(0.01)

    run(work)


def test_the_windows_and_kinds_of_the_tools_are_complete() -> None:
    assert get_args(WindowName) == (FILE_WINDOW, *CT_WINDOWS)
    for language in get_args(Language):
        for kind in get_args(AnalysisType):
            label = choice_label("analysis_type", kind, language)
            assert label in render_prompt("analyze", language, kind=label, context="")


def test_wrong_options_are_reported_at_start_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("short\n")
    for arguments, message in (
        (["--http", "nonsense"], "--http nonsense is not HOST:PORT"),
        (["--http", "0.0.0.0:0"], "--http 0.0.0.0:0 is open to other machines; give --key-file"),
        (["--http", "127.0.0.1:0", "--key-file", str(keys)], "key 1 is shorter than 16 characters"),
        (["--key-file", str(keys)], "--key-file and --allow-host are for --http"),
        (["--root", str(tmp_path / "nowhere")], "cannot be opened"),
        (["--max-batch-size", "0"], "--max-batch-size is 0"),
    ):
        assert main(["mcp", *arguments]) == 2
        assert message in capsys.readouterr().err
    keys.write_text("a-token-of-some-length\n")
    assert main(["mcp", "--http", "0.0.0.0:0", "--key-file", str(keys)]) == 2
    assert "--allow-host" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        open_services(setup(runs=keys))


def test_importing_and_building_load_no_torch() -> None:
    code = """
import sys
from lingshu.core.types import EngineOptions
from lingshu.mcp.server import build_server
from lingshu.mcp.services import McpConfig, open_services
build_server(open_services("some/checkpoint", McpConfig(), EngineOptions(), allow_remote=False))
print(sorted({"torch", "transformers", "cv2", "pyarrow"} & set(sys.modules)))
"""
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert process.stdout == "[]\n", process.stderr


def test_a_bug_is_reported_without_its_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("ERROR", "lingshu")
    model = write_engine(tmp_path, "def load(model, options):\n    raise KeyError('Canary')\n")
    result = call(setup(model), "medical_qa", {"question": "Canary?"})
    assert error_text(
        result
    ) == "the server failed; what happened is in its log." and "Canary" not in text(result)
    assert "bug: KeyError in load, line 2" in caplog.text and "Canary" not in caplog.text


def test_base64_may_be_wrapped_into_lines() -> None:
    wrapped = base64.encodebytes(PNG).decode()
    media = MediaResolver(None)
    for item in (wrapped, f"data:image/png;base64,{wrapped}"):
        assert len(media.load_inputs([item], ViewOptions()).images) == 1
