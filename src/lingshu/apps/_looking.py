"""Files, folders or bytes as the images that a model sees, with what was seen of each: the one way
in for every app.

Pictures, DICOM files and folders, and volumes (NIfTI and what else nibabel opens). Nothing that
comes out holds a name, an id, a path or a date; errors call what was handed in "file 2", or "file
17 of folder 1".
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from lingshu.core.errors import BadImage, ConfigError, InputError
from lingshu.core.nouns import Image
from lingshu.imaging.dicom import opened_file
from lingshu.imaging.nifti import open_volume
from lingshu.imaging.pseudonyms import new_key
from lingshu.imaging.read import MAX_BYTES, decode, encode_png, png_bytes
from lingshu.imaging.seen import Seen
from lingshu.imaging.study import (
    Named,
    Part,
    Picture,
    Source,
    Study,
    choose,
    listed,
    pictures,
    read_study,
)
from lingshu.imaging.walk import IMAGE_SUFFIXES, VOLUME_SUFFIXES, evenly, files_below
from lingshu.imaging.windows import OWN, presets

SLICES = 8
# A model's window of tokens ends long before, and each picture is held as a file in memory.
MAX_IMAGES = 64
_HEAD = 352
_PAIRED = (".hdr", ".par", ".head")
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


@dataclass(frozen=True, slots=True)
class View:
    """How a study is looked at.

    `windows` are presets of CT (`lung`), "CENTER,WIDTH", or `file`, the file's own first window
    (for CT without one: soft). At most `slices` slices or frames of each series or volume are
    taken, evenly. `series` picks series of a folder by their number, from 1; without it every
    single image and the longest other series are shown, localizers left out.
    """

    windows: tuple[str, ...] = (OWN,)
    slices: int = SLICES
    series: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        presets(self.windows)
        if not self.windows or not 1 <= self.slices <= MAX_IMAGES:
            raise ConfigError(
                f"slices is {self.slices} and windows {list(self.windows)}; 1 to {MAX_IMAGES}"
                " slices, one window or more."
            )


@dataclass(frozen=True)
class Looked:
    """The images, what is seen of each, and what a reader should know besides; `files` are the
    DICOM files behind the images.

    `risk` is the greatest risk of text in the pixels that a DICOM file states or suggests: stated,
    likely or low.
    """

    images: tuple[Image, ...] = ()
    seen: tuple[Seen, ...] = ()
    notes: tuple[str, ...] = ()
    risk: str | None = None
    files: tuple[Source, ...] = field(default=(), repr=False)


def look(items: Sequence[Path | bytes], view: View | None = None) -> Looked:
    """What a model is to see of files, folders and bytes, in the order given.

    DICOM files that follow each other are grouped into series, as a folder is. A folder holds the
    study of one patient; files in it that are no images are left out and counted in `notes`, a file
    that is named itself raises.

    Raises:
        BadImage: a file that gives no pixels. InputError: a folder of several studies or none, or
            more than 64 images.
        MissingExtra: pydicom or nibabel is not installed.
    """
    looking = _Looking(view or View())
    sorted_in = [(number, item, _kind(item, number)) for number, item in enumerate(items, 1)]
    for kind, run in groupby(sorted_in, key=lambda one: one[2]):
        several = [(number, item) for number, item, _ in run]
        if kind == "dicom":
            looking.dicom(
                [Named(item, f"file {number}") for number, item in several], several[0][0]
            )
            continue
        for number, item in several:
            if kind == "folder":
                looking.folder(Path(str(item)), number)
            else:
                looking.plain(Named(item, f"file {number}"), number, kind)
    return looking.looked()


def _kind(item: Path | bytes, number: int) -> str:
    """folder, dicom, volume or picture, by the first bytes; the names of volumes that nibabel knows
    by their names alone.
    """
    if isinstance(item, Path) and item.is_dir():
        return "folder"
    head = item[:_HEAD] if isinstance(item, bytes) else _head(item, f"file {number}")
    name = "" if isinstance(item, bytes) else item.name.lower()
    if head[128:132] == b"DICM" or name.endswith((".dcm", ".dicom", ".ima")):
        return "dicom"
    if (
        name.endswith(VOLUME_SUFFIXES)
        or head.startswith(b"\x1f\x8b")
        or head[344:348] in (b"n+1\0", b"ni1\0")
    ):
        return "volume"
    if head.startswith(_PICTURES) or name.endswith(IMAGE_SUFFIXES):
        return "picture"
    # Without its preamble a DICOM file starts with an element of group 2 or 8
    # (imaging/_elements.py).
    return "dicom" if head[:2] in (b"\x02\0", b"\x08\0", b"\0\x08") else "picture"


def _head(path: Path, name: str) -> bytes:
    with opened_file(path, name) as file:
        return file.read(_HEAD)


class _Looking:
    """Gathers images one after the other; it remembers what was gathered, under one key for the ids
    of patients.
    """

    def __init__(self, view: View) -> None:
        self.view, self.key = view, new_key()
        self.pictures: list[tuple[bytes, Seen]] = []
        self.notes: list[str] = []
        self.parts: dict[int, Part] = {}
        self.risks: set[str] = set()
        self.patients: set[str] = set()

    def looked(self) -> Looked:
        if len(self.patients) > 1:
            self.notes.append(f"the images are of {len(self.patients)} patients.")
        risk = next((risk for risk in ("stated", "likely", "low") if risk in self.risks), None)
        images = tuple(Image(data=png) for png, _ in self.pictures)
        return Looked(
            images,
            tuple(seen for _, seen in self.pictures),
            tuple(self.notes),
            risk,
            tuple(part.file.source for part in self.parts.values()),
        )

    def add(self, png: bytes, seen: Seen) -> None:
        if len(self.pictures) >= MAX_IMAGES:
            raise InputError(
                f"that makes more than {MAX_IMAGES} images; ask for fewer slices, windows or"
                " series."
            )
        self.pictures.append((png, seen))

    def dicom(self, files: Sequence[Named], item: int) -> None:
        """DICOM files that were named themselves: each must be good, and every series is shown
        unless some are picked.
        """
        study = read_study(files, key=self.key, strict=True)
        self.patients |= study.patients
        chosen = choose(study, self.view.series) if self.view.series else study.series
        self._check_room(sum(min(one.images, self.view.slices) for one in chosen))
        for series in chosen:
            for one in pictures(
                series, item=item, slices=self.view.slices, windows=self.view.windows
            ):
                self._take(one)

    def _take(self, one: Picture) -> None:
        self.add(one.png, one.seen)
        self.parts[id(one.part)] = one.part  # held, so that its identity stays its own
        self.risks.add(one.part.facts.burned_in_risk)

    def _check_room(self, images: int) -> None:
        # Before the first is decoded: a choice of a thousand must not take minutes to be refused.
        if len(self.pictures) + images * len(self.view.windows) > MAX_IMAGES:
            raise InputError(
                f"that makes more than {MAX_IMAGES} images; ask for fewer slices, windows or"
                " series."
            )

    def folder(self, path: Path, item: int) -> None:
        name = f"folder {item}"
        below = [path / one for one in _files_below(path, name)]
        links = [one for one in below if one.is_symlink()]
        files = [
            Named(one, f"file {n} of {name}")
            for n, one in enumerate(below, 1)
            if one not in links and not _half(one, links)
        ]
        study = read_study(
            [one for one in files if not _is_volume(one.source)], key=self.key, strict=False
        )
        if not study.series:
            self._no_study(files, name, item, study)
            return
        if len(study.studies) > 1 or len(study.patients) > 1:
            several = f"{len(study.studies)} studies" if len(study.studies) > 1 else "a study"
            of = f" of {len(study.patients)} patients" if len(study.patients) > 1 else ""
            raise InputError(
                f"{name} holds {several}{of}; give the folder of one study, or one after the other."
            )
        self.patients |= study.patients
        chosen = choose(study, self.view.series)
        left_out = Counter(study.left_out)
        left_out.update(
            {
                "links": len(below) - len(files),
                "volumes": sum(_is_volume(one.source) for one in files),
            }
        )
        self._check_room(sum(min(one.images, self.view.slices) for one in chosen))
        before = len(self.pictures)
        for series in chosen:
            for one in pictures(
                series,
                item=item,
                slices=self.view.slices,
                windows=self.view.windows,
                left_out=left_out,
            ):
                self._take(one)
        if len(self.pictures) == before:
            raise BadImage(
                f"{name}: no image of the chosen series can be read ({left_out['damaged']} are"
                " damaged); export the study again."
            )
        if len(chosen) < len(study.series):
            self.notes.append(
                f"{name} holds {len(study.series)} series ({listed(study)}); shown:"
                f" {', '.join(str(s.number) for s in chosen)}."
            )
        self._note(name, +left_out, len(below))

    def _no_study(self, files: Sequence[Named], name: str, item: int, study: Study) -> None:
        """A folder without DICOM images: its pictures and volumes, as many as fit, in the order of
        their names.
        """
        usable = [
            one
            for one in files
            if _is_volume(one.source) or str(one.source).lower().endswith(IMAGE_SUFFIXES)
        ]
        if not usable:
            reasons = ", ".join(
                f"{count} {reason}" for reason, count in sorted(study.left_out.items())
            )
            raise BadImage(
                f"{name} holds no image ({reasons or 'it is empty'}); give a folder with images."
            )
        if len(usable) > MAX_IMAGES:
            raise InputError(
                f"{name} holds {len(usable)} pictures, more than {MAX_IMAGES}; name some of them."
            )
        for one in usable:
            self.plain(one, item, "volume" if _is_volume(one.source) else "picture")
        if len(usable) < len(files):
            self.notes.append(
                f"{name}: {len(files) - len(usable)} of {len(files)} files are no images and were"
                " left out."
            )

    def _note(self, name: str, left_out: Counter[str], files: int) -> None:
        if left_out:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
            self.notes.append(
                f"{name}: {left_out.total()} of {files} files were left out ({reasons})."
            )

    def plain(self, file: Named, item: int, kind: str) -> None:
        if kind == "volume":
            self.volume(file, item)
            return
        picture = decode(_bytes(file), name=file.name)
        self.add(png_bytes(picture), Seen(item, "picture", picture.height, picture.width))

    def volume(self, file: Named, item: int) -> None:
        with _as_path(file) as path, open_volume(path, name=file.name) as volume:
            chosen = evenly(volume.shape[2], self.view.slices)
            self._check_room(len(chosen))
            if volume.times > 1:
                self.notes.append(f"{file.name} holds {volume.times} volumes; the first is shown.")
            for one in volume.render(slices=chosen, windows=self.view.windows):
                window, spacing = one.shown_in, (volume.spacing[1], volume.spacing[0])
                size = one.pixels.shape[0], one.pixels.shape[1]
                record = {
                    "window": window.name,
                    "center": window.center,
                    "width": window.width,
                    "spacing": spacing,
                }
                self.add(
                    encode_png(one.pixels),
                    Seen(item, "volume", *size, place=one.z + 1, of=volume.shape[2], **record),
                )


def _files_below(path: Path, name: str) -> list[Path]:
    try:
        return list(files_below(path))
    except InputError:
        # Its own message names the path.
        raise InputError(f"{name} cannot be read; check its permissions.") from None


def _half(path: Path, links: Sequence[Path]) -> bool:
    """Whether it is a volume of two files whose other half may be a link: nibabel would follow it."""
    beside = f"{path.stem}.".lower()
    return path.name.lower().endswith(_PAIRED) and any(
        one.parent == path.parent and one.name.lower().startswith(beside) for one in links
    )


def _is_volume(source: Source) -> bool:
    return isinstance(source, Path) and source.name.lower().endswith(VOLUME_SUFFIXES)


def _bytes(file: Named) -> bytes:
    if isinstance(file.source, bytes):
        data = file.source
    else:
        with opened_file(file.source, file.name) as opened:
            data = opened.read(MAX_BYTES + 1)
    if not data:
        raise BadImage(f"{file.name} is empty (0 bytes); copy the image again.")
    if len(data) > MAX_BYTES:
        raise BadImage(f"{file.name} has more than {MAX_BYTES >> 20} MB; make it smaller.")
    return data


@contextmanager
def _as_path(file: Named) -> Iterator[Path]:
    """nibabel opens files: bytes lie in a private one meanwhile."""
    if isinstance(file.source, Path):
        yield file.source
        return
    suffix = ".nii.gz" if file.source.startswith(b"\x1f\x8b") else ".nii"
    with tempfile.NamedTemporaryFile(suffix=suffix) as opened:
        opened.write(_bytes(file))
        opened.flush()
        yield Path(opened.name)
