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

from lingshu.core.errors import ImageError, InputError, one_line
from lingshu.core.pseudonyms import new_key
from lingshu.core.safe_folder import SafeFolder
from lingshu.imaging.dicom.file import open_dicom
from lingshu.imaging.dicom.study import NamedSource, Study, read_study, select_series
from lingshu.imaging.files import iter_files
from lingshu.imaging.read import MAX_BYTES
from lingshu.inference.inputs import MAX_IMAGES, ModelInput, ViewOptions, load_inputs

STUDY_URI_PREFIX = "lingshu://study/"
MAX_FILES = 20_000
MAX_ITEMS = 16
# The longest text that an image can be, as base64 with its head.
MAX_IMAGE_TEXT_CHARS = MAX_BYTES * 4 // 3 + 256
_MIN_BASE64_CHARS = 64
MAX_NAME_CHARS = 4096
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_NO_ROOT_MESSAGE = (
    "this server reads no files: show an image as a data URI (data:image/png;base64,...), or start"
    " it with --root FOLDER."
)


@dataclass(frozen=True)
class StudyIndex:
    """The DICOM files below the allowed folder by the keyed hash of their study."""

    studies: Mapping[str, tuple[Path, ...]]
    n_other_files: int
    is_complete: bool


class MediaResolver:
    """Finds and reads what clients name.

    It remembers which study each file is of, as long as the file stays as it is.
    """

    def __init__(self, root: SafeFolder | None) -> None:
        self.root, self.key = root, new_key()
        self._lock = threading.Lock()
        self._study_cache: dict[tuple[str, int, int], str | None] = {}

    def load_inputs(
        self, items: Sequence[str], view_options: ViewOptions, *, label: str = "image"
    ) -> ModelInput:
        """The images of all items in their order; what is seen of each says which item it is of.

        Raises:
            InputError, BadImage: an item that cannot be shown, named by its place alone.
        """
        inputs: list[ModelInput] = []
        for index, item in enumerate(items, 1):
            try:
                resolved = self._resolve(item)
                inputs.append(
                    load_inputs(resolved, self._with_series(resolved, view_options))
                    if isinstance(resolved, list)
                    else load_inputs([resolved], view_options)
                )
            except InputError as error:
                raise type(error)(_relabel_error(error, f"{label} {index}")) from None
            if sum(len(resolved.images) for resolved in inputs) > MAX_IMAGES:
                raise InputError(
                    f"that makes more than {MAX_IMAGES} images; show fewer, or ask for fewer slices"
                    " or windows."
                )
        return self.merge_inputs(inputs)

    def merge_inputs(self, inputs: Sequence[ModelInput]) -> ModelInput:
        """Several looks as one.

        Says so where the DICOM files behind them are of more than one patient.
        """
        files = tuple(file for entry in inputs for file in entry.dicom_files)
        patients = {patient for file in files if (patient := self._patient_id(file)) is not None}
        notes = [
            f"item {n}: {note}" if len(inputs) > 1 else note
            for n, entry in enumerate(inputs, 1)
            for note in entry.notes
        ]
        if len(patients) > 1 and not any("patients" in note for note in notes):
            notes.append(f"the images are of {len(patients)} patients.")
        image_provenance = tuple(
            replace(provenance, item=n)
            for n, entry in enumerate(inputs, 1)
            for provenance in entry.image_provenance
        )
        risk = next(
            (
                risk
                for risk in ("stated", "likely", "low")
                if any(entry.burned_in_risk == risk for entry in inputs)
            ),
            None,
        )
        return ModelInput(
            tuple(image for entry in inputs for image in entry.images),
            image_provenance,
            tuple(notes),
            risk,
            files,
        )

    def load_study(self, item: str) -> Study:
        """A file, folder or study as its series, for their facts alone.

        Raises:
            InputError, BadImage: it cannot be read, or holds no DICOM image.
        """
        try:
            resolved = self._resolve(item)
            sources: list[Path | bytes] = (
                [*self._list_files(resolved)]
                if isinstance(resolved, Path)
                else [*resolved]
                if isinstance(resolved, list)
                else [resolved]
            )
            files = [
                NamedSource(source, "file 1" if len(sources) == 1 else f"file {n} of the study")
                for n, source in enumerate(sources, 1)
            ]
            return read_study(files, key=self.key, strict=len(files) == 1)
        except InputError as error:
            raise type(error)(
                _relabel_error(
                    error, "the study" if item.startswith(STUDY_URI_PREFIX) else "the image"
                )
            ) from None

    def build_index(self) -> StudyIndex:
        """Every study below the allowed folder.

        Raises:
            InputError: there is no such folder, or it cannot be read.
        """
        if self.root is None:
            raise InputError("this server lists no studies; start it with --root FOLDER.")
        studies: dict[str, list[Path]] = {}
        n_other = 0
        files = self._list_files(self.root.folder)
        cache: dict[tuple[str, int, int], str | None] = {}
        with self._lock:
            for path in files[:MAX_FILES]:
                study = self._study_id(path, cache)
                if study is None:
                    n_other += 1
                else:
                    studies.setdefault(study, []).append(path)
            self._study_cache = cache  # nothing of files that have gone
        return StudyIndex(
            {study: tuple(paths) for study, paths in sorted(studies.items())},
            n_other,
            len(files) <= MAX_FILES,
        )

    def _list_files(self, folder: Path) -> list[Path]:
        """The files below a folder, links left out."""
        try:
            return [
                path
                for path in (folder / relative for relative in iter_files(folder))
                if not path.is_symlink()
            ]
        except InputError:
            raise InputError("the folder cannot be read; check its permissions.") from None

    def _study_id(self, path: Path, cache: dict[tuple[str, int, int], str | None]) -> str | None:
        """The study of a file, remembered in `known`."""
        try:
            stat = path.stat()
            cache_key = (str(path), stat.st_size, stat.st_mtime_ns)
            if cache_key in self._study_cache:
                cache[cache_key] = self._study_cache[cache_key]
            else:
                with open_dicom(path, name="a file") as dicom:
                    metadata = dicom.metadata(self.key)
                cache[cache_key] = metadata.study if metadata.has_pixels else None
            return cache[cache_key]
        except (OSError, ImageError):
            return None

    def _patient_id(self, source: Path | bytes) -> str | None:
        try:
            with open_dicom(source, name="a file") as dicom:
                return dicom.metadata(self.key).patient
        except ImageError:
            return None

    def _with_series(self, files: Sequence[Path], view_options: ViewOptions) -> ViewOptions:
        """The view with the numbers of the series that are to be shown: those of the whole study,
        as describe_dicom tells them.
        """
        if view_options.series:
            return view_options
        study = read_study(
            [NamedSource(file, "a file of the study") for file in files], key=self.key, strict=False
        )
        return replace(
            view_options, series=tuple(series.number for series in select_series(study, None))
        )

    def _resolve(self, item: str) -> bytes | Path | list[Path]:
        """What an item is: the content of a file, a folder below the allowed one, or the files of a
        study.

        Raises:
            InputError: none of these, or it may not be read.
        """
        if item.startswith(STUDY_URI_PREFIX):
            files = self.build_index().studies.get(item.removeprefix(STUDY_URI_PREFIX))
            if files is None:
                raise InputError("there is no such study; list_studies tells which there are.")
            return list(files)
        content = _decode_inline(item)
        if content is not None and not self._is_file_name(item):
            return content
        if re.match(r"(?i)https?:", item):
            raise InputError("web addresses are not fetched; show the image as a data URI.")
        if self.root is None:
            raise InputError(_NO_ROOT_MESSAGE)
        path = self.root.path(item)
        return path if path.is_dir() else self.root.read(item, max_bytes=MAX_BYTES)

    def _is_file_name(self, item: str) -> bool:
        """Whether it is the name of a file or folder that lies there: hashes are names too, and
        look like base64.
        """
        if self.root is None or len(item) > MAX_NAME_CHARS:
            return False
        try:
            self.root.path(item)
        except InputError:
            return False
        return True


def _decode_inline(item: str) -> bytes | None:
    """The bytes in a data URI or in plain base64; None for what is a name.

    Raises:
        InputError: a data URI that is none, or too large.
    """
    header, body = "", item
    if item[:5].lower() == "data:":
        header, separator, body = item.partition(",")
        if not separator or not header.lower().endswith(";base64"):
            raise InputError("the data URI has no base64 content; write data:image/png;base64,...")
    elif len(item) < _MIN_BASE64_CHARS or not _BASE64.fullmatch(item):
        return None
    try:
        data = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        if not header:
            return None
        raise InputError("the data URI is no valid base64; encode the file anew.") from None
    if len(data) > MAX_BYTES:
        raise InputError(
            f"it has {len(data) >> 20} MB, more than {MAX_BYTES >> 20} MB; make it smaller."
        )
    return data


def _relabel_error(error: InputError, name: str) -> str:
    """An error of looking at one item, which calls it "file 1" or "folder 1"."""
    message = one_line(error).replace(" of folder 1", " of the folder")
    message = re.sub(r"\b(?:file|folder) 1\b(?! of)", name, message)
    return message if message.startswith(name) else f"{name}: {message}"
