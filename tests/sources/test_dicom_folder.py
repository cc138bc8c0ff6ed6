"""A hospital's folder: grouped by study and series, joined with reports, and nobody can be found in
what comes out.
"""

from __future__ import annotations

import io
import logging
import traceback
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")

from lingshu.core.errors import InputError  # noqa: E402
from lingshu.core.types import Drop, Sample  # noqa: E402
from lingshu.imaging.read import open_image  # noqa: E402
from lingshu.sources import dicom_folder  # noqa: E402
from tests.support.dicom_files import SECRETS, dicom, dicom_with_identifiers  # noqa: E402
from tests.support.source_files import KEY, PNG, drop_reasons, only_samples  # noqa: E402


def image(
    value: int,
    *,
    patient: str = "P1",
    study: str = "1.1",
    series: str = "1.1.1",
    z: int = 0,
    **others: object,
) -> bytes:
    position = {
        "ImagePositionPatient": ["0", "0", str(z)],
        "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
    }
    ids = {
        "PatientID": patient,
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "Modality": "MR",
    }
    window = {"WindowCenter": "128", "WindowWidth": "256"}
    return dicom(np.full((4, 4), value, np.uint16), **{**ids, **position, **window, **others})


def write_folder(root: Path, *files: bytes) -> Path:
    for number, file in enumerate(files):
        (root / f"{number:03}").write_bytes(file)
    return root


def first_pixels(sample: Sample) -> list[int]:
    return [int(np.asarray(open_image(one))[0, 0, 0]) for one in sample.images]


def test_a_study_is_one_sample_with_its_series_in_order_of_position(tmp_path: Path) -> None:
    files = [
        image(30, z=3),
        image(10, z=1),
        image(20, z=2),
        image(90, series="1.1.2"),
        image(5, study="2.2", series="2.2.1", patient="P2"),
    ]
    one, two = only_samples(dicom_folder.read(write_folder(tmp_path, *files), key=KEY))
    assert first_pixels(one) == [10, 20, 30, 90] and first_pixels(two) == [5]
    assert (
        one.meta.group != two.meta.group
        and "series" not in one.meta.extra
        and "series" in two.meta.extra
    )
    assert (
        one.meta.modality == "MR"
        and one.meta.access == "private"
        and one.meta.deidentified is False
    )
    assert (
        one.meta.extra["windows"] == "; ".join(["file 128/256"] * 4)
        and one.meta.extra["burned_in_risk"] == "low"
    )


def test_series_and_images_can_be_separate_samples(tmp_path: Path) -> None:
    root = write_folder(tmp_path, image(10, z=1), image(20, z=2), image(90, series="1.1.2"))
    assert [
        first_pixels(s) for s in only_samples(dicom_folder.read(root, per="series", key=KEY))
    ] == [
        [10, 20],
        [90],
    ]
    one, two, three = only_samples(dicom_folder.read(root, per="image", key=KEY))
    assert one.meta.extra["series"] == two.meta.extra["series"] != three.meta.extra["series"]
    assert one.meta.group == three.meta.group and len({one.id, two.id, three.id}) == 3


def test_slices_of_a_long_series_are_sampled_evenly(tmp_path: Path) -> None:
    root = write_folder(tmp_path, *(image(i, z=i) for i in range(20)))
    (sample,) = only_samples(dicom_folder.read(root, slices=4, key=KEY))
    assert first_pixels(sample) == [2, 7, 12, 17]
    assert len(only_samples(dicom_folder.read(root, slices=None, key=KEY))[0].images) == 20
    frames = dicom(
        np.arange(10, dtype=np.uint16)[:, None, None] * np.ones((10, 4, 4), np.uint16),
        WindowCenter="128",
        WindowWidth="256",
    )
    (tmp_path / "cine").mkdir()
    assert first_pixels(
        only_samples(dicom_folder.read(write_folder(tmp_path / "cine", frames), slices=2, key=KEY))[
            0
        ]
    ) == [2, 7]


def test_ct_is_shown_in_three_windows_each_on_record(tmp_path: Path) -> None:
    file = dicom(np.zeros((4, 4), np.int16), Modality="CT", RescaleSlope="1", RescaleIntercept="0")
    (sample,) = only_samples(dicom_folder.read(write_folder(tmp_path, file), key=KEY))
    assert (
        sample.meta.extra["windows"] == "lung -600/1500; soft 50/400; bone 400/1800"
        and len(sample.images) == 3
    )
    (other,) = only_samples(dicom_folder.read(tmp_path, windows=["brain"], key=KEY))
    assert other.meta.extra["windows"] == "brain 40/80" and other.id == sample.id


def test_reports_are_joined_by_hashes_of_numbers_that_are_not_carried(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    root = write_folder(
        tmp_path / "in",
        image(1, AccessionNumber="ZZ1"),
        image(2, study="2.2", series="2.2.1", AccessionNumber="ZZ2"),
    )
    table = tmp_path / "reports.csv"
    table.write_text("acc,text\nZZ1,No finding.\nZZ7,Nobody's.\nZZ8,\n")
    found = list(
        dicom_folder.read(
            root, reports=table, columns={"accession": "acc", "report": "text"}, key=KEY
        )
    )
    one, two, *drops = found
    assert isinstance(one, Sample) and isinstance(two, Sample)
    assert (
        one.question == dicom_folder.DEFAULT_QUESTION
        and one.messages[-1].text == "No finding."
        and one.meta.kind == "report"
    )
    assert not two.answered and two.meta.kind is None
    assert drop_reasons(drops) == ["report_without_images", "empty_report"] and "ZZ" not in repr(
        found
    )
    by_study = {"study": "acc", "report": "text"}
    table.write_text("acc,text\n2.2,By study.\n")
    assert [
        s.answered
        for s in dicom_folder.read(root, reports=table, columns=by_study, key=KEY)
        if isinstance(s, Sample)
    ] == [False, True]
    table.write_text("acc,text,text\n2.2,One.,Other.\n")
    with pytest.raises(InputError, match="column 'text' 2 times"):
        list(dicom_folder.read(root, reports=table, columns=by_study, key=KEY))


def test_questions_are_joined_next_to_the_report_and_share_its_images(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    other = image(2, patient="P2", study="2.2", series="2.2.1", AccessionNumber="ZZ2")
    root = write_folder(tmp_path / "in", image(1, AccessionNumber="ZZ1"), other)
    questions, reports = tmp_path / "questions.csv", tmp_path / "reports.csv"
    reports.write_text("accession,report\nZZ1,No finding.\n")
    questions.write_text(
        'accession,question,answer,choices,kind,name\nZZ1,Which side?,left,"[""right"",'
        ' ""left""]",side,ZZNAME\nZZ2,Is there one?,no,,,ZZNAME\nZZ2,Is there'
        ' one?,,,,\nZZ9,Whose?,nobody,,,\nZZ1,Which?,up,"[""left""]",,\n'
    )
    found = list(dicom_folder.read(root, reports=reports, questions=questions, key=KEY))
    report, side, one = [f for f in found if isinstance(f, Sample)]
    assert (
        report.meta.kind == "report"
        and report.images == side.images
        and report.meta.group == side.meta.group != one.meta.group
    )
    assert (
        side.question == "Which side?\nA. right\nB. left"
        and side.gold == ("B",)
        and side.messages[-1].text == "B"
    )
    assert (
        side.id == f"{report.id}-q1"
        and side.meta.kind == "side"
        and one.gold == ("no",)
        and one.answered
    )
    assert sorted(drop_reasons(found)) == [
        "answer_not_in_choices",
        "empty_question",
        "question_without_images",
    ] and "ZZ" not in repr(found)
    questions.write_text("question,answer\nWhose?,nobody\n")
    with pytest.raises(InputError, match="none of the columns series, study, accession, patient"):
        list(dicom_folder.read(root, questions=questions, key=KEY))


@pytest.mark.parametrize("per", ["image", "series", "study"])
def test_names_of_the_header_are_taken_out_of_reports_and_questions(
    tmp_path: Path, per: dicom_folder.SampleUnit
) -> None:
    (tmp_path / "in").mkdir()
    people = {
        "PatientName": "White^Ada",
        "ReferringPhysicianName": "van der Ploeg^Q",
        "OperatorsName": ["Oper^One", "王^小明"],
    }
    root = write_folder(
        tmp_path / "in",
        image(
            1,
            patient="ZZP-0815",
            AccessionNumber="ZZ1",
            SpecificCharacterSet="ISO_IR 192",
            **people,
        ),
    )
    questions, reports = tmp_path / "questions.csv", tmp_path / "reports.csv"
    reports.write_text(
        'accession,report\nZZ1,"Ada WHITE, ZZP-0815, sent by Ploeg: white matter intact. 王小明'
        ' checked. Adaptive."\n'
    )
    questions.write_text(
        "accession,question,answer\nZZ1,Does Mrs White have a lesion?,Ada has none.\n"
    )
    report, question = dicom_folder.read(
        root, per=per, reports=reports, questions=questions, key=KEY
    )
    assert isinstance(report, Sample) and isinstance(question, Sample)
    assert (
        report.messages[-1].text
        == "[NAME], [ID], sent by [NAME]: white matter intact. [NAME] checked. Adaptive."
    )
    assert question.question == "Does Mrs [NAME] have a lesion?" and question.gold == (
        "[NAME] has none.",
    )


def test_wrong_options_are_named(tmp_path: Path) -> None:
    table = tmp_path / "reports.csv"
    table.write_text("acc,text\n")
    for options, words in (
        ({"reports": table}, "no column 'accession'"),
        ({"reports": table, "columns": {"report": "text"}}, "joined by columns"),
        ({"reports": tmp_path / "none.csv"}, "cannot be read"),
        ({"per": "patient"}, "choose image, series or study"),
        ({"key": b"short"}, "at least 16"),
    ):
        with pytest.raises(InputError, match=words):
            list(dicom_folder.read(tmp_path, **options))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not a folder"):
        list(dicom_folder.read(tmp_path / "none"))


def test_what_cannot_be_used_is_a_drop_and_the_rest_is_read(tmp_path: Path) -> None:
    good, other = image(1, SOPInstanceUID="1.9"), image(2, z=1)
    truncated, with_false_count = (
        image(3, z=2)[:-10],
        image(4, z=3).replace(b"\x28\0\x10\0US\2\0\4\0", b"\x28\0\x10\0US\2\0\xff\xff"),
    )
    root = write_folder(
        tmp_path,
        good,
        other,
        truncated,
        with_false_count,
        PNG,
        b"",
        good,
        image(5, NumberOfFrames="9"),
    )
    (root / "link").symlink_to(root / "000")
    found = list(dicom_folder.read(root, slices=None, key=KEY))
    (sample,) = [f for f in found if isinstance(f, Sample)]
    assert sorted(drop_reasons(found)) == [
        "bad_dicom",
        "bad_dicom",
        "bad_dicom",
        "duplicate_id",
        "link",
        "not_dicom",
        "not_dicom",
    ]
    assert first_pixels(sample) == [1, 2]
    assert sum(isinstance(f, Sample) for f in dicom_folder.read(root, per="image", key=KEY)) == 2


def test_a_false_number_of_frames_costs_nothing(tmp_path: Path) -> None:
    root = write_folder(tmp_path, image(1, NumberOfFrames="999999999"), image(2, z=1))
    found = list(dicom_folder.read(root, key=KEY))
    assert drop_reasons(found) and set(drop_reasons(found)) == {"bad_dicom"}


def test_pseudonyms_are_stable_under_a_key_and_random_without_one(tmp_path: Path) -> None:
    root = write_folder(tmp_path, image(1))
    ids = [
        only_samples(dicom_folder.read(root, key=key))[0].meta.group
        for key in (KEY, KEY, None, None)
    ]
    assert ids[0] == ids[1] and len(set(ids)) == 3


def pixels_of(sample: Sample) -> list[bytes]:
    """Image files with their metadata, if there were any."""
    return [one.data or b"" for one in sample.images] + [
        repr(PIL.Image.open(io.BytesIO(one.data or b"")).info).encode() for one in sample.images
    ]


@pytest.mark.parametrize("per", ["image", "series", "study"])
def test_planted_identities_appear_nowhere(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
    per: dicom_folder.SampleUnit,
) -> None:
    caplog.set_level(logging.DEBUG)
    base = tmp_path / "ZZHOSPITAL" / "ZZQUX_PLANTED_19010203"
    base.mkdir(parents=True)
    complete = dicom_with_identifiers(np.arange(64, dtype=np.uint16).reshape(8, 8))
    broken = [
        complete[:300],
        complete[:-40],
        complete.replace(b"MONOCHROME2", b"ZZCHROME_2 "),
        complete.replace(b"\x08\0\x60\0CS", b"\x08\0\x60\0UI"),
    ]
    for number, file in enumerate([complete, *broken, b"ZZ"]):
        (base / f"ZZMRN-4711-{number}.dcm").write_bytes(file)
    (base / "ZZlink.dcm").symlink_to(base / "ZZMRN-4711-0.dcm")
    outputs: list[bytes] = []
    count = 0
    try:
        for found in dicom_folder.read(tmp_path / "ZZHOSPITAL", per=per, key=KEY):
            outputs.append(repr(found).encode())
            if isinstance(found, Sample):
                count += 1
                outputs += pixels_of(found)
            else:
                assert isinstance(found, Drop) and found.detail
    except Exception:
        outputs.append(traceback.format_exc().encode())
    out = capfd.readouterr()
    output_text = b"\n".join(
        [
            *outputs,
            caplog.text.encode(),
            out.out.encode(),
            out.err.encode(),
            *(str(w.message).encode() for w in recwarn),
        ]
    )
    assert count >= 1 and [secret for secret in SECRETS if secret.encode() in output_text] == []


def test_a_real_mixture_is_read_to_its_end(shared_data: Path) -> None:
    found = list(
        dicom_folder.read(
            shared_data / "dicom_odd_files" / "pydicom" / "test_files" / "dicomdirtests", key=KEY
        )
    )
    assert sum(isinstance(f, Sample) for f in found) == 6 and set(drop_reasons(found)) == {
        "no_pixels"
    }


def test_text_in_any_image_of_a_sample_is_reported(tmp_path: Path) -> None:
    capture = image(90, series="1.1.2", Modality="OT")
    (complete,) = only_samples(
        dicom_folder.read(write_folder(tmp_path, image(10, z=1), image(20, z=2), capture), key=KEY)
    )
    assert len(complete.images) == 3 and complete.meta.extra["burned_in_risk"] == "likely"
    write_folder(
        tmp_path,
        image(10, z=1),
        image(20, z=2, BurnedInAnnotation="YES", RecognizableVisualFeatures="YES"),
        image(30, z=3),
    )
    (complete,) = only_samples(dicom_folder.read(tmp_path, key=KEY))
    assert [
        complete.meta.extra[name] for name in ("burned_in_risk", "burned_in", "recognizable")
    ] == [
        "stated",
        "yes",
        "yes",
    ]
    assert (
        only_samples(dicom_folder.read(tmp_path, slices=1, key=KEY))[0].meta.extra["burned_in_risk"]
        == "stated"
    )
