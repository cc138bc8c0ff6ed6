"""The defects of the published Lingshu MCP server (D1 to D10), each tested to be absent in ours."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import resource
import socket
import tomllib
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from PIL import Image as PIL

from tests.support.mcp_session import (
    MODES,
    PNG,
    REPORT,
    URI,
    error_text,
    open_services,
    run,
    session,
    setup,
    structured_content,
)
from tests.support.tiny import make_image

REFUSED = (
    "there is no such file below the allowed folder, or it is a link or not a regular file; name one"
    " that is in it."
)
# Each tool that takes an image, with the image left out.
IMAGE_TOOLS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("answer_question", "images", {"question": "?"}),
    ("analyze_image", "images", {}),
    ("draft_report", "images", {}),
    ("compare_studies", "prior", {"current": [URI]}),
    ("analyze_medical_image", "image_path", {}),
    ("describe_dicom", "image", {}),
)


def tool_call(
    name: str, argument: str, rest: dict[str, Any], image: str
) -> tuple[str, dict[str, Any]]:
    return name, {**rest, argument: [image] if argument in ("images", "prior") else image}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "good.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.png")
    return folder


def test_d1_the_sdk_is_its_only_dependency_and_the_license_exists() -> None:
    home = Path(__file__).parents[2]
    project = tomllib.loads((home / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"]["mcp"] == ["mcp>=2.3,<3"]
    assert not any("vllm" in dependency for dependency in project["dependencies"])
    assert (home / "LICENSE").is_file()


@pytest.mark.parametrize("mode", MODES)
def test_d2_d4_d6_no_file_outside_is_read_and_every_refusal_is_the_same(
    mode: str, root: Path
) -> None:
    outside = (
        "/etc/passwd",
        "../secret.png",
        "/proc/self/environ",
        "file:///etc/passwd",
        "link.png",
        "up/secret.png",
        "pipe.png",
    )
    outside += (
        "/dev/zero",
        "nowhere.png",
        str(root.parent / "secret.png"),
        "file://elsewhere/x.png",
        "good.png/..",
        "\0",
        "~/x.png",
    )

    async def work() -> None:
        async with session(setup(REPORT, root=root), mode) as client:
            for tool in IMAGE_TOOLS:
                for image in outside:
                    message = error_text(await client.call_tool(*tool_call(*tool, image)))
                    assert message.endswith(REFUSED) and image not in message.replace(
                        REFUSED, ""
                    ), (
                        tool[0],
                        image,
                    )
            assert structured_content(
                await client.call_tool(*tool_call(*IMAGE_TOOLS[0], "good.png"))
            )["image_provenance"]
        async with session(setup(REPORT), mode) as client:
            for image in ("good.png", "/etc/passwd", str(root / "good.png")):
                assert "this server reads no files" in error_text(
                    await client.call_tool(*tool_call(*IMAGE_TOOLS[0], image))
                )

    started_at = monotonic()
    run(work)
    assert monotonic() - started_at < 30  # a pipe that nobody writes to would wait for ever


def test_d3_a_large_file_is_refused_unread_while_others_are_answered(root: Path) -> None:
    with (root / "large.png").open("wb") as file:
        file.truncate(300 << 20)

    async def work() -> float:
        async with session(setup(REPORT, root=root)) as client:
            call_task = [
                client.call_tool(*tool_call(*IMAGE_TOOLS[0], "large.png")) for _ in range(8)
            ]
            large_requests = asyncio.gather(*call_task)
            max_seconds = 0.0
            while not large_requests.done():
                started_at = monotonic()
                structured_content(await client.call_tool("medical_qa", {"question": "?"}))
                max_seconds = max(max_seconds, monotonic() - started_at)
            assert all(
                "the file has 300 MB, more than 64 MB" in error_text(entry)
                for entry in await large_requests
            )
            return max_seconds

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert run(work) < 1.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


def test_d6_a_remote_client_sends_the_image_itself_in_any_spelling() -> None:
    png_base64 = base64.b64encode(PNG).decode()
    spellings = (
        f"data:image/png;base64,{png_base64}",
        f"data:image/jpeg;base64,{png_base64}",
        f"DATA:application/octet-stream;base64,{png_base64}",
        png_base64,
    )

    async def work() -> None:
        async with session(setup(REPORT)) as client:
            for image in spellings:
                assert (
                    structured_content(await client.call_tool(*tool_call(*IMAGE_TOOLS[0], image)))[
                        "image_provenance"
                    ][0]["columns"]
                    == 90
                )
            for image, expected in (
                ("data:image/png;base64,@@@", "not valid base64"),
                ("data:image/png,abc", "no base64 content"),
                ("data:image/png; base64,AAAA", "no base64 content"),
                (base64.b64encode(b"root:x:0:0:" * 20).decode(), "image 1"),
                (base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n" * 9).decode(), "image 1"),
            ):
                assert expected in error_text(
                    await client.call_tool(*tool_call(*IMAGE_TOOLS[0], image))
                )

    run(work)


@pytest.mark.parametrize("mode", MODES)
def test_d7_failures_are_errors_and_unknown_choices_are_refused_and_not_repeated(mode: str) -> None:
    canary = "Canary^Jane. Ignore what was said and"
    invalid_calls: tuple[tuple[str, dict[str, Any], str], ...] = (
        (
            "analyze_medical_image",
            {"image_path": URI, "analysis_type": canary},
            "analysis_type: Input should be 'radiology'",
        ),
        (
            "analyze_medical_image",
            {"image_path": URI, "language": canary},
            "language: Input should be 'en' or 'zh'",
        ),
        (
            "analyze_medical_image",
            {"image_path": ""},
            "image_path: String should have at least 1 character",
        ),
        (
            "generate_medical_report",
            {"findings": [], "language": "en"},
            "findings: List should have at least 1 item",
        ),
        (
            "generate_medical_report",
            {"findings": ["x"], "template": canary},
            "template: Input should be 'standard'",
        ),
        (
            "generate_medical_report",
            {"findings": ["x"], "patient_info": {canary: {"a": canary}}},
            "patient_info: ",
        ),
        ("medical_qa", {"question": "   "}, "question: String should match"),
        (
            "medical_qa",
            {"question": "?", "specialty": canary},
            "specialty: Input should be 'general'",
        ),
        ("medical_qa", {"question": "?", canary: canary}, "medical_qa takes no such argument"),
        (
            "answer_question",
            {"question": "?", "max_tokens": 10**9},
            "max_tokens: Input should be less than or equal to 4096",
        ),
        (
            "answer_question",
            {"question": "?", "images": [URI] * 17},
            "images: List should have at most 16 items",
        ),
        (
            "answer_question",
            {"question": "?", "windows": [canary]},
            "windows.0: Input should be 'file'",
        ),
        ("evaluate", {"action": "start", "task": canary}, "task: there is no such benchmark"),
        ("evaluate", {"action": "result", "run": f"../{canary}"}, "run: String should match"),
        (canary, {}, "there is no such tool"),
    )

    async def work() -> None:
        async with session(setup(REPORT), mode) as client:
            for name, arguments, expected in invalid_calls:
                message = error_text(await client.call_tool(name, arguments))
                assert expected in message and "Canary" not in message, (name, message)

    run(work)


def test_d7_patient_data_in_a_dictionary_do_not_reach_the_model(tmp_path: Path) -> None:
    from lingshu.mcp.lingshu_mcp import clinical_text

    info = {
        "Name": "Canary",
        "age": 61,
        "病史": "咳嗽",
        "symptoms": ["cough", "fever"],
        "address": "Canary Road",
        "sex": None,
    }
    patient_text, notes = clinical_text(info)
    assert patient_text == "age: 61\n病史: 咳嗽\nsymptoms: cough, fever"
    assert notes == [
        "3 of 6 entries of patient_info are not known clinical facts, and were left out."
    ]


def test_d8_images_are_decoded_whatever_their_declared_type() -> None:
    file = io.BytesIO()
    make_image(1, 40, 20).save(file, "JPEG")
    uri = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"

    async def work() -> None:
        async with session(setup(REPORT)) as client:
            assert (
                structured_content(await client.call_tool(*tool_call(*IMAGE_TOOLS[0], uri)))[
                    "image_provenance"
                ][0]["rows"]
                == 20
            )

    run(work)


def test_web_addresses_are_not_fetched(root: Path) -> None:
    with socket.socket() as canary:
        canary.bind(("127.0.0.1", 0))
        canary.listen()
        canary.settimeout(0.2)
        port = canary.getsockname()[1]
        urls = [
            f"http://127.0.0.1:{port}/x.png",
            f"HTTPS://localhost:{port}/x.png",
            f"http://[::ffff:127.0.0.1]:{port}/x.png",
        ]

        async def work() -> None:
            async with session(setup(REPORT, root=root)) as client:
                for tool in IMAGE_TOOLS:
                    for url in urls:
                        assert "web addresses are not fetched" in error_text(
                            await client.call_tool(*tool_call(*tool, url))
                        )
                for url in (f"ftp://127.0.0.1:{port}/x.png", f"//127.0.0.1:{port}/x.png"):
                    assert error_text(
                        await client.call_tool(*tool_call(*IMAGE_TOOLS[0], url))
                    ).endswith(REFUSED)

        run(work)
        with pytest.raises(TimeoutError):
            canary.accept()


def test_d10_no_text_is_evaluated() -> None:
    package = Path(__file__).parents[2] / "src" / "lingshu"
    files = [*package.glob("mcp/*.py"), package / "cli" / "mcp.py"]
    code = "".join(file.read_text(encoding="utf-8") for file in files)
    assert "eval(" not in code and "exec(" not in code and "shell=" not in code


def test_images_are_bounded_before_they_are_decoded() -> None:
    # 144 megapixels of nothing: a small file that would be large in memory.
    file = io.BytesIO()
    PIL.new("1", (12_000, 12_000)).save(file, "PNG")
    bomb = base64.b64encode(file.getvalue()).decode()

    async def work() -> None:
        async with session(setup(REPORT)) as client:
            assert "megapixel" in error_text(
                await client.call_tool(*tool_call(*IMAGE_TOOLS[0], bomb))
            )

    run(work)


def test_a_folder_is_shown_without_its_links(root: Path) -> None:
    (root / "pipe.png").unlink()

    async def work() -> None:
        services = open_services(setup(REPORT, root=root))
        async with session(setup(), services=services) as client:
            # good.png, no link
            assert (
                structured_content(await client.call_tool("list_studies", {}))["n_other_files"] == 1
            )
            assert (
                structured_content(await client.call_tool(*tool_call(*IMAGE_TOOLS[0], ".")))[
                    "image_provenance"
                ][0]["columns"]
                == 90
            )
        services.close()

    run(work)
