"""Images that a client names: inline data, files below one allowed folder, and the studies there.

An item is a data URI, plain base64, `lingshu://study/ID`, or the name of a file or folder below the
root. Web addresses are never fetched, and no error repeats what the client sent.
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
from lingshu.imaging.dicom.metadata import highest_risk
from lingshu.imaging.dicom.study import NamedSource, Study, read_study, select_series
from lingshu.imaging.files import iter_files
from lingshu.imaging.read import MAX_BYTES
from lingshu.inference.inputs import MAX_IMAGES, ModelInput, ViewOptions, load_inputs

STUDY_URI_PREFIX = "lingshu://study/"
MAX_FILES = 20_000
MAX_NAME_CHARS = 4096
_MIN_BASE64_CHARS = 64
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_BLOCK_CHARS = 1 << 20  # whole groups of four base64 digits


@dataclass(frozen=True)
class StudyIndex:
    """The DICOM files below the allowed folder by the keyed hash of their study."""

    studies: Mapping[str, tuple[Path, ...]]
    n_other_files: int
    is_complete: bool


class MediaResolver:
    """Finds and reads what clients name; caches the study of each file while the file is unchanged."""

    def __init__(self, root: SafeFolder | None) -> None:
        self.root, self.key = root, new_key()
        self._lock = threading.Lock()
        self._study_cache: dict[tuple[str, int, int], str | None] = {}

    def load_inputs(
        self, items: Sequence[str], view_options: ViewOptions, *, label: str = "image"
    ) -> ModelInput:
        """The images of all items in order; `item` of their provenance counts the items from 1.

        Raises:
            InputError, ImageError: an item cannot be shown; the message gives only its number.
        """
        inputs: list[ModelInput] = []
        for n, item in enumerate(items, 1):
            try:
                source = self._resolve(item)
                if isinstance(source, list):
                    inputs.append(load_inputs(source, self._with_series(source, view_options)))
                else:
                    inputs.append(load_inputs([source], view_options))
            except InputError as error:
                raise type(error)(_relabel_error(error, f"{label} {n}")) from None
            if sum(len(entry.images) for entry in inputs) > MAX_IMAGES:
                raise InputError(
                    f"that makes more than {MAX_IMAGES} images; show fewer, or request fewer slices"
                    " or windows."
                )
        return self.merge_inputs(inputs)

    def merge_inputs(self, inputs: Sequence[ModelInput]) -> ModelInput:
        """Several inputs as one, with a note if their DICOM files belong to several patients."""
        files = tuple(file for entry in inputs for file in entry.dicom_files)
        patients = {self._patient_id(file) for file in files} - {None}
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
        return ModelInput(
            tuple(image for entry in inputs for image in entry.images),
            image_provenance,
            tuple(notes),
            highest_risk({entry.burned_in_risk for entry in inputs}),
            files,
        )

    def load_study(self, item: str) -> Study:
        """A file, folder or study as its series.

        Raises:
            InputError, ImageError: it cannot be read, or holds no DICOM image.
        """
        try:
            source = self._resolve(item)
            if isinstance(source, Path):
                source = self._list_files(source)
            sources = source if isinstance(source, list) else [source]
            files = [
                NamedSource(entry, "file 1" if len(sources) == 1 else f"file {n} of the study")
                for n, entry in enumerate(sources, 1)
            ]
            return read_study(files, key=self.key, strict=len(files) == 1)
        except InputError as error:
            name = "the study" if item.startswith(STUDY_URI_PREFIX) else "the image"
            raise type(error)(_relabel_error(error, name)) from None

    def build_index(self) -> StudyIndex:
        """Every study below the allowed folder.

        Raises:
            InputError: there is no allowed folder, or it cannot be read.
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
            self._study_cache = cache  # without files that are gone
        return StudyIndex(
            {study: tuple(paths) for study, paths in sorted(studies.items())},
            n_other,
            len(files) <= MAX_FILES,
        )

    def read_series(self, files: Sequence[Path]) -> Study:
        """Files of one study as its series; files that cannot be read are left out."""
        sources = [NamedSource(file, "a file of the study") for file in files]
        return read_study(sources, key=self.key, strict=False)

    def _list_files(self, folder: Path) -> list[Path]:
        """The files below a folder, links left out."""
        try:
            paths = [folder / name for name in iter_files(folder)]
        except InputError:
            raise InputError("the folder cannot be read; check its permissions.") from None
        return [path for path in paths if not path.is_symlink()]

    def _study_id(self, path: Path, cache: dict[tuple[str, int, int], str | None]) -> str | None:
        try:
            stat = path.stat()
            key = (str(path), stat.st_size, stat.st_mtime_ns)
            if key in self._study_cache:
                cache[key] = self._study_cache[key]
            else:
                with open_dicom(path, name="a file") as dicom:
                    metadata = dicom.metadata(self.key)
                cache[key] = metadata.study if metadata.has_pixels else None
            return cache[key]
        except (OSError, ImageError):
            return None

    def _patient_id(self, source: Path | bytes) -> str | None:
        try:
            with open_dicom(source, name="a file") as dicom:
                return dicom.metadata(self.key).patient
        except ImageError:
            return None

    def _with_series(self, files: Sequence[Path], view_options: ViewOptions) -> ViewOptions:
        """The view with the series to show, numbered as in the whole study."""
        if view_options.series:
            return view_options
        series = select_series(self.read_series(files), None)
        return replace(view_options, series=tuple(entry.number for entry in series))

    def _resolve(self, item: str) -> bytes | Path | list[Path]:
        """The content of a file, a folder below the allowed one, or the files of a study."""
        if item.startswith(STUDY_URI_PREFIX):
            files = self.build_index().studies.get(item.removeprefix(STUDY_URI_PREFIX))
            if files is None:
                raise InputError("there is no such study; list_studies lists them.")
            return list(files)
        content = _decode_inline(item)
        # The name of a file may be a hash, which looks like base64.
        if content is not None and not self._is_file_name(item):
            return content
        if re.match(r"(?i)https?:", item):
            raise InputError("web addresses are not fetched; show the image as a data URI.")
        if self.root is None:
            raise InputError(
                "this server reads no files: show an image as a data URI"
                " (data:image/png;base64,...), or start it with --root FOLDER."
            )
        path = self.root.path(item)
        return path if path.is_dir() else self.root.read(item, max_bytes=MAX_BYTES)

    def _is_file_name(self, item: str) -> bool:
        if self.root is None or len(item) > MAX_NAME_CHARS:
            return False
        try:
            self.root.path(item)
        except InputError:
            return False
        return True


def decode_data_uri(uri: str) -> bytes:
    """The bytes in a data URI.

    Raises:
        InputError: it is not base64, or is too large.
    """
    header, separator, body = uri.partition(",")
    if not separator or not header.lower().endswith(";base64"):
        raise InputError("the data URI has no base64 content; write data:image/png;base64,...")
    try:
        return _decode_base64(body)
    except ValueError:
        raise InputError("the data URI is not valid base64; encode the file again.") from None


def _decode_inline(item: str) -> bytes | None:
    """The bytes in a data URI or in plain base64; None for a name."""
    if item[:5].lower() == "data:":
        header, separator, body = item.partition(",")
        return decode_data_uri(f"{header}{separator}{''.join(body.split())}")
    if len(item) < _MIN_BASE64_CHARS or not _BASE64.fullmatch(item):
        return None
    try:
        return _decode_base64("".join(item.split()))
    except ValueError:
        return None


def _decode_base64(text: str) -> bytes:
    if 0 <= text.find("=") < len(text) - 2:
        raise binascii.Error("padding before the end")
    # In blocks: decoding holds Python's lock, and with it every other reply.
    data = b"".join(
        base64.b64decode(text[start : start + _BLOCK_CHARS], validate=True)
        for start in range(0, len(text), _BLOCK_CHARS)
    )
    if len(data) > MAX_BYTES:
        raise InputError(
            f"the image has {len(data) >> 20} MB, more than {MAX_BYTES >> 20} MB; make it smaller."
        )
    return data


def _relabel_error(error: InputError, name: str) -> str:
    """An error about one item, which calls it "file 1" or "folder 1"."""
    message = one_line(error).replace(" of folder 1", " of the folder")
    message = re.sub(r"\b(?:file|folder) 1\b(?! of)", name, message)
    return message if message.startswith(name) else f"{name}: {message}"
