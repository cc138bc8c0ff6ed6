"""Archives: images out of zip and tar, and every hostile member refused for its own reason, with
nothing written.
"""

from __future__ import annotations

import bz2
import gzip
import io
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from lingshu.core.errors import InputError
from lingshu.core.types import Drop, Sample
from lingshu.imaging.read import open_image
from lingshu.sources import archives
from tests.support.source_files import JPEG, KEY, PNG, drop_reasons, only_samples


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def make_tar(
    path: Path, members: dict[str, bytes], *others: tarfile.TarInfo, mode: str = "w"
) -> Path:
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        for info in others:
            file.addfile(info)
    return path


def special_entry(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


MEMBERS = {"normal/a.png": PNG, "ill/b.jpg": JPEG}


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tgz", "x.tar.bz2"])
def test_members_become_samples_with_their_images(tmp_path: Path, name: str) -> None:
    mode = "w:gz" if name.endswith("gz") else "w:bz2" if name.endswith("bz2") else "w"
    path = (
        make_zip(tmp_path / name, MEMBERS)
        if name.endswith("zip")
        else make_tar(tmp_path / name, MEMBERS, mode=mode)
    )
    found = only_samples(archives.read(path))
    assert [(s.id, s.meta.extra["label"]) for s in found] == [
        ("normal/a.png", "normal"),
        ("ill/b.jpg", "ill"),
    ]
    assert all(open_image(s.images[0]).size == (4, 3) for s in found)


def test_every_archive_below_a_folder_is_read(tmp_path: Path) -> None:
    make_zip(tmp_path / "one.zip", {"a.png": PNG})
    make_zip(tmp_path / "two.zip", {"a.png": PNG})
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    found = list(archives.read(tmp_path))
    assert [f.id for f in found if isinstance(f, Sample)] == [
        "one/a.png",
        "two/a.png",
    ] and drop_reasons(found) == ["bad_archive"]


HOSTILE = [
    "../up.png",
    "/etc/abs.png",
    "a/../../up.png",
    "C:/drive.png",
    "..\\win.png",
    "\\\\?\\x.png",
]


def test_names_that_lead_out_are_refused(tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    in_zip = list(
        archives.read(
            make_zip(tmp_path / "x.zip", {**dict.fromkeys(HOSTILE, PNG), "good.png": PNG})
        )
    )
    in_tar = list(
        archives.read(
            make_tar(tmp_path / "x.tar", {**dict.fromkeys(HOSTILE, PNG), "good.png": PNG})
        )
    )
    for found in (in_zip, in_tar):
        assert drop_reasons(found) == ["unsafe_name"] * len(HOSTILE) and [
            f.id for f in found if isinstance(f, Sample)
        ] == ["good.png"]
    assert sorted(tmp_path.rglob("*")) == [*before, tmp_path / "x.tar", tmp_path / "x.zip"]


def test_a_name_that_ends_at_a_null_byte_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"a.pngX.png": PNG})
    path.write_bytes(path.read_bytes().replace(b"a.pngX.png", b"a.png\0.png"))
    assert drop_reasons(archives.read(path)) == ["unsafe_name"]


def test_links_devices_and_pipes_are_refused(tmp_path: Path) -> None:
    others = [
        special_entry("soft.png", tarfile.SYMTYPE, "/etc/passwd"), special_entry("hard.png", tarfile.LNKTYPE, "normal/a.png"),
        special_entry("device.png", tarfile.CHRTYPE), special_entry("block.png", tarfile.BLKTYPE), special_entry("pipe.png", tarfile.FIFOTYPE),
        special_entry("folder.png", tarfile.DIRTYPE),
    ]  # fmt: skip
    assert drop_reasons(archives.read(make_tar(tmp_path / "x.tar", MEMBERS, *others))) == [
        "link",
        "link",
        *["special_entry"] * 3,
    ]
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name, kind in (
            ("soft.png", 0o120777),
            ("device.png", 0o020666),
            ("plain.png", 0o100644),
        ):
            info = zipfile.ZipInfo(name)
            info.external_attr = kind << 16
            file.writestr(info, PNG)
    found = list(archives.read(path))
    assert drop_reasons(found) == ["link", "special_entry"] and isinstance(found[-1], Sample)


def test_bombs_are_refused_by_ratio_by_size_and_in_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_BYTES", 4 << 20)
    assert drop_reasons(
        archives.read(make_zip(tmp_path / "ratio.zip", {"a.png": bytes(3 << 20)}))
    ) == ["bomb"]
    assert drop_reasons(
        archives.read(make_zip(tmp_path / "size.zip", {"a.png": bytes((4 << 20) + 1)}))
    ) == ["too_large"]
    small = dict.fromkeys((f"{i}.png" for i in range(20)), bytes(1 << 20))
    assert drop_reasons(archives.read(make_zip(tmp_path / "sum.zip", small)))[-1] == "bomb"
    stated_size = tarfile.TarInfo("a.txt")
    stated_size.size = 1 << 33
    for name, pack_archive in (("x.tar.gz", gzip.compress), ("x.tar.bz2", bz2.compress)):
        (tmp_path / name).write_bytes(
            pack_archive(stated_size.tobuf(tarfile.GNU_FORMAT) + bytes(12 << 20))
        )
        assert drop_reasons(archives.read(tmp_path / name))[-1] == "bomb"


def test_a_header_that_claims_gigabytes_is_a_bomb(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 1 << 33
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    assert drop_reasons(archives.read(tmp_path / "x.tar")) == ["bomb"]


def test_damaged_and_encrypted_members_cost_themselves_alone(tmp_path: Path) -> None:
    path = make_zip(
        tmp_path / "x.zip", {"a.png": PNG * 3, "b.png": PNG, "c.png": b"no image", "d.txt": b"x"}
    )
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    offset = data.rindex(b"PK\x01\x02", 0, data.rindex(b"b.png"))
    data[offset + 8] |= 1
    path.write_bytes(bytes(data))
    assert drop_reasons(archives.read(path)) == [
        "bad_entry",
        "encrypted",
        "bad_image",
        "not_an_image",
    ]


def test_a_cut_archive_gives_what_is_complete_and_one_error(tmp_path: Path) -> None:
    for name, mode in (("x.tar", "w"), ("x.tar.gz", "w:gz")):
        path = make_tar(
            tmp_path / name,
            {f"{i}.png": PNG + random.Random(i).randbytes(100_000) for i in range(4)},
            mode=mode,
        )
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 5 // 8])
        found = list(archives.read(path))
        assert (
            isinstance(found[0], Sample)
            and drop_reasons(found)[-1] in ("bad_archive", "bad_entry")
            and len(drop_reasons(found)) == 1
        )
    zip_path = make_zip(tmp_path / "x.zip", MEMBERS)
    zip_path.write_bytes(zip_path.read_bytes()[:-30])
    assert drop_reasons(archives.read(zip_path)) == ["bad_archive"]


def test_false_headers_are_errors_not_crashes(tmp_path: Path) -> None:
    complete = make_zip(tmp_path / "x.zip", MEMBERS).read_bytes()
    for offset in range(0, len(complete), 3):
        for value in (0, 0xFF):
            (tmp_path / "y.zip").write_bytes(
                complete[:offset] + bytes([value]) + complete[offset + 1 :]
            )
            assert all(isinstance(f, Sample | Drop) for f in archives.read(tmp_path / "y.zip"))
    tar = make_tar(tmp_path / "x.tar", MEMBERS).read_bytes()
    for offset in range(0, 1200, 3):
        (tmp_path / "y.tar").write_bytes(tar[:offset] + b"\xff" + tar[offset + 1 :])
        assert all(isinstance(f, Sample | Drop) for f in archives.read(tmp_path / "y.tar"))


def test_names_need_not_be_carried(tmp_path: Path) -> None:
    path = make_zip(
        tmp_path / "x.zip",
        {"ZZNAME/ZZa.png": PNG, "../ZZup.png": PNG, "ZZ.txt": b"", "ZZbad.png": b"x"},
    )
    found = list(archives.read(path, names="hash", labels=False, key=KEY))
    assert "ZZ" not in repr(found) and len(found) == 4


def test_another_file_is_not_an_archive(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(InputError, match="not a zip or tar archive"):
        list(archives.read(tmp_path / "x.txt"))
