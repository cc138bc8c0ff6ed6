"""What clients of `lingshu mcp` may show: images inside the call, files below the allowed folder,
and studies found there.

An image is a data URI, the plain base64 of a file, `lingshu://study/ID`, or a file's or folder's
name below the folder. Web addresses are never fetched. What a client named is repeated in no error.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lingshu.apps._looking import MAX_IMAGES, Looked, View, look
from lingshu.core.errors import BadImage, InputError, one_line
from lingshu.core.rooted import Rooted
from lingshu.imaging.dicom import open_dicom
from lingshu.imaging.pseudonyms import new_key
from lingshu.imaging.read import MAX_BYTES
from lingshu.imaging.study import Named, Study, choose, read_study
from lingshu.imaging.walk import files_below

STUDY = "lingshu://study/"
MAX_FILES = 20_000
MAX_ITEMS = 16
# The longest text that an image can be, as base64 with its head.
MAX_TEXT = MAX_BYTES * 4 // 3 + 256
_HEAD = 64
MAX_NAME = 4096
_CONTENT = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_NO_ROOT = (
    "this server reads no files: show an image as a data URI (data:image/png;base64,...), or start"
    " it with --root FOLDER."
)


@dataclass(frozen=True)
class Index:
    """The DICOM files below the allowed folder by the keyed hash of their study."""

    studies: Mapping[str, tuple[Path, ...]]
    other_files: int
    complete: bool


class Shown:
    """Finds and reads what clients name.

    It remembers which study each file is of, as long as the file stays as it is.
    """

    def __init__(self, root: Rooted | None) -> None:
        self.root, self.key = root, new_key()
        self._turn = threading.Lock()
        self._known: dict[tuple[str, int, int], str | None] = {}

    def look(self, items: Sequence[str], view: View, *, called: str = "image") -> Looked:
        """The images of all items in their order; what is seen of each says which item it is of.

        Raises:
            InputError, BadImage: an item that cannot be shown, named by its place alone.
        """
        found: list[Looked] = []
        for number, item in enumerate(items, 1):
            try:
                one = self._found(item)
                found.append(
                    look(one, self._choosing(one, view))
                    if isinstance(one, list)
                    else look([one], view)
                )
            except InputError as error:
                raise type(error)(_told(error, f"{called} {number}")) from None
            if sum(len(one.images) for one in found) > MAX_IMAGES:
                raise InputError(
                    f"that makes more than {MAX_IMAGES} images; show fewer, or ask for fewer slices"
                    " or windows."
                )
        return self.together(found)

    def together(self, found: Sequence[Looked]) -> Looked:
        """Several looks as one.

        Says so where the DICOM files behind them are of more than one patient.
        """
        files = tuple(file for one in found for file in one.files)
        patients = {patient for file in files if (patient := self._patient(file)) is not None}
        notes = [
            f"item {n}: {note}" if len(found) > 1 else note
            for n, one in enumerate(found, 1)
            for note in one.notes
        ]
        if len(patients) > 1 and not any("patients" in note for note in notes):
            notes.append(f"the images are of {len(patients)} patients.")
        seen = tuple(replace(see, item=n) for n, one in enumerate(found, 1) for see in one.seen)
        risk = next(
            (
                risk
                for risk in ("stated", "likely", "low")
                if any(one.risk == risk for one in found)
            ),
            None,
        )
        return Looked(
            tuple(image for one in found for image in one.images), seen, tuple(notes), risk, files
        )

    def study(self, item: str) -> Study:
        """A file, folder or study as its series, for their facts alone.

        Raises:
            InputError, BadImage: it cannot be read, or holds no DICOM image.
        """
        try:
            found = self._found(item)
            several: list[Path | bytes] = (
                [*self._plain(found)]
                if isinstance(found, Path)
                else [*found]
                if isinstance(found, list)
                else [found]
            )
            files = [
                Named(one, "file 1" if len(several) == 1 else f"file {n} of the study")
                for n, one in enumerate(several, 1)
            ]
            return read_study(files, key=self.key, strict=len(files) == 1)
        except InputError as error:
            raise type(error)(
                _told(error, "the study" if item.startswith(STUDY) else "the image")
            ) from None

    def index(self) -> Index:
        """Every study below the allowed folder.

        Raises:
            InputError: there is no such folder, or it cannot be read.
        """
        if self.root is None:
            raise InputError("this server lists no studies; start it with --root FOLDER.")
        studies: dict[str, list[Path]] = {}
        other = 0
        files = self._plain(self.root.folder)
        known: dict[tuple[str, int, int], str | None] = {}
        with self._turn:
            for path in files[:MAX_FILES]:
                study = self._study_of(path, known)
                if study is None:
                    other += 1
                else:
                    studies.setdefault(study, []).append(path)
            self._known = known  # nothing of files that have gone
        return Index(
            {study: tuple(paths) for study, paths in sorted(studies.items())},
            other,
            len(files) <= MAX_FILES,
        )

    def _plain(self, folder: Path) -> list[Path]:
        """The files below a folder, links left out."""
        try:
            return [
                path
                for path in (folder / below for below in files_below(folder))
                if not path.is_symlink()
            ]
        except InputError:
            raise InputError("the folder cannot be read; check its permissions.") from None

    def _study_of(self, path: Path, known: dict[tuple[str, int, int], str | None]) -> str | None:
        """The study of a file, remembered in `known`."""
        try:
            facts = path.stat()
            file = (str(path), facts.st_size, facts.st_mtime_ns)
            if file in self._known:
                known[file] = self._known[file]
            else:
                with open_dicom(path, name="a file") as opened:
                    read = opened.facts(self.key)
                known[file] = read.study if read.has_pixels else None
            return known[file]
        except (OSError, BadImage):
            return None

    def _patient(self, source: Path | bytes) -> str | None:
        try:
            with open_dicom(source, name="a file") as opened:
                return opened.facts(self.key).patient
        except BadImage:
            return None

    def _choosing(self, files: Sequence[Path], view: View) -> View:
        """The view with the numbers of the series that are to be shown: those of the whole study,
        as describe_dicom tells them.
        """
        if view.series:
            return view
        study = read_study(
            [Named(file, "a file of the study") for file in files], key=self.key, strict=False
        )
        return replace(view, series=tuple(series.number for series in choose(study, None)))

    def _found(self, item: str) -> bytes | Path | list[Path]:
        """What an item is: the content of a file, a folder below the allowed one, or the files of a
        study.

        Raises:
            InputError: none of these, or it may not be read.
        """
        if item.startswith(STUDY):
            files = self.index().studies.get(item.removeprefix(STUDY))
            if files is None:
                raise InputError("there is no such study; list_studies tells which there are.")
            return list(files)
        content = _content(item)
        if content is not None and not self._named(item):
            return content
        if re.match(r"(?i)https?:", item):
            raise InputError("web addresses are not fetched; show the image as a data URI.")
        if self.root is None:
            raise InputError(_NO_ROOT)
        path = self.root.path(item)
        return path if path.is_dir() else self.root.read(item, limit=MAX_BYTES)

    def _named(self, item: str) -> bool:
        """Whether it is the name of a file or folder that lies there: hashes are names too, and
        look like base64.
        """
        if self.root is None or len(item) > MAX_NAME:
            return False
        try:
            self.root.path(item)
        except InputError:
            return False
        return True


def _content(item: str) -> bytes | None:
    """The bytes in a data URI or in plain base64; None for what is a name.

    Raises:
        InputError: a data URI that is none, or too large.
    """
    head, body = "", item
    if item[:5].lower() == "data:":
        head, comma, body = item.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise InputError("the data URI has no base64 content; write data:image/png;base64,...")
    elif len(item) < _HEAD or not _CONTENT.fullmatch(item):
        return None
    try:
        data = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        if not head:
            return None
        raise InputError("the data URI is no valid base64; encode the file anew.") from None
    if len(data) > MAX_BYTES:
        raise InputError(
            f"it has {len(data) >> 20} MB, more than {MAX_BYTES >> 20} MB; make it smaller."
        )
    return data


def _told(error: InputError, name: str) -> str:
    """An error of looking at one item, which calls it "file 1" or "folder 1"."""
    told = one_line(error).replace(" of folder 1", " of the folder")
    told = re.sub(r"\b(?:file|folder) 1\b(?! of)", name, told)
    return told if told.startswith(name) else f"{name}: {told}"
