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

from lingshu.core.errors import ConfigError, ImageError, InputError
from lingshu.core.pseudonyms import new_key
from lingshu.core.types import Image
from lingshu.imaging.dicom.file import open_file
from lingshu.imaging.dicom.study import (
    NamedSource,
    RenderedSlice,
    SeriesFile,
    Source,
    Study,
    format_series_list,
    read_study,
    render_slices,
    select_series,
)
from lingshu.imaging.files import IMAGE_SUFFIXES, VOLUME_SUFFIXES, evenly_spaced, iter_files
from lingshu.imaging.nifti import open_volume
from lingshu.imaging.provenance import ImageProvenance
from lingshu.imaging.read import MAX_BYTES, decode, encode_png, png_bytes
from lingshu.imaging.windows import FILE_WINDOW, parse_windows

DEFAULT_SLICES = 8
# A model's window of tokens ends long before, and each picture is held as a file in memory.
MAX_IMAGES = 64
_HEADER_BYTES = 352
_PAIRED_SUFFIXES = (".hdr", ".par", ".head")
_IMAGE_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """Which slices and series of a study a model sees, and in which windows.

    The window `file` is the file's own first window (for CT without one: soft). Without `series`,
    every single image and the longest other series of a folder are shown, localizers left out.
    """

    window: tuple[str, ...] = (FILE_WINDOW,)
    "A window of CT (lung, soft, bone, brain, liver, abdomen, mediastinum), CENTER,WIDTH, or file. Repeatable."
    max_slices: int = DEFAULT_SLICES
    "Maximum number of slices or frames of each series or volume, evenly spaced."
    series: tuple[int, ...] = ()
    "A series of a folder to show, by number from 1. Repeatable."

    def __post_init__(self) -> None:
        parse_windows(self.window)
        if not self.window or not 1 <= self.max_slices <= MAX_IMAGES:
            raise ConfigError(
                f"max_slices is {self.max_slices} and window {list(self.window)}; give 1 to"
                f" {MAX_IMAGES} slices and one window or more."
            )


@dataclass(frozen=True)
class ModelInput:
    """The images, what is seen of each, and what a reader should know besides; `files` are the
    DICOM files behind the images.

    `risk` is the greatest risk of text in the pixels that a DICOM file states or suggests: stated,
    likely or low.
    """

    images: tuple[Image, ...] = ()
    image_provenance: tuple[ImageProvenance, ...] = ()
    notes: tuple[str, ...] = ()
    burned_in_risk: str | None = None
    dicom_files: tuple[Source, ...] = field(default=(), repr=False)


def load_inputs(items: Sequence[Path | bytes], view: ViewOptions | None = None) -> ModelInput:
    """What a model is to see of files, folders and bytes, in the order given.

    DICOM files that follow each other are grouped into series, as a folder is. A folder holds the
    study of one patient; files in it that are no images are left out and counted in `notes`, a file
    that is named itself raises.

    Raises:
        BadImage: a file that gives no pixels. InputError: a folder of several studies or none, or
            more than 64 images.
        MissingExtra: pydicom or nibabel is not installed.
    """
    collector = _InputCollector(view or ViewOptions())
    classified_items = [
        (index, item, _input_kind(item, index)) for index, item in enumerate(items, 1)
    ]
    for kind, group in groupby(classified_items, key=lambda entry: entry[2]):
        group_items = [(index, item) for index, item, _ in group]
        if kind == "dicom":
            collector.add_dicom(
                [NamedSource(item, f"file {index}") for index, item in group_items],
                group_items[0][0],
            )
            continue
        for index, item in group_items:
            if kind == "folder":
                collector.add_folder(Path(str(item)), index)
            else:
                collector.add_file(NamedSource(item, f"file {index}"), index, kind)
    return collector.build()


def _input_kind(item: Path | bytes, index: int) -> str:
    """folder, dicom, volume or picture, by the first bytes; the names of volumes that nibabel knows
    by their names alone.
    """
    if isinstance(item, Path) and item.is_dir():
        return "folder"
    header = (
        item[:_HEADER_BYTES] if isinstance(item, bytes) else _read_header(item, f"file {index}")
    )
    name = "" if isinstance(item, bytes) else item.name.lower()
    if header[128:132] == b"DICM" or name.endswith((".dcm", ".dicom", ".ima")):
        return "dicom"
    if (
        name.endswith(VOLUME_SUFFIXES)
        or header.startswith(b"\x1f\x8b")
        or header[344:348] in (b"n+1\0", b"ni1\0")
    ):
        return "volume"
    if header.startswith(_IMAGE_SIGNATURES) or name.endswith(IMAGE_SUFFIXES):
        return "picture"
    # Without its preamble a DICOM file starts with an element of group 2 or 8
    # (imaging/dicom/elements.py).
    return "dicom" if header[:2] in (b"\x02\0", b"\x08\0", b"\0\x08") else "picture"


def _read_header(path: Path, name: str) -> bytes:
    with open_file(path, name) as file:
        return file.read(_HEADER_BYTES)


class _InputCollector:
    """Gathers images one after the other; it remembers what was gathered, under one key for the ids
    of patients.
    """

    def __init__(self, view: ViewOptions) -> None:
        self.view, self.key = view, new_key()
        self.png_images: list[tuple[bytes, ImageProvenance]] = []
        self.notes: list[str] = []
        self.series_files: dict[int, SeriesFile] = {}
        self.risks: set[str] = set()
        self.patients: set[str] = set()

    def build(self) -> ModelInput:
        if len(self.patients) > 1:
            self.notes.append(f"the images are of {len(self.patients)} patients.")
        risk = next((risk for risk in ("stated", "likely", "low") if risk in self.risks), None)
        images = tuple(Image(data=png) for png, _ in self.png_images)
        return ModelInput(
            images,
            tuple(image_provenance for _, image_provenance in self.png_images),
            tuple(self.notes),
            risk,
            tuple(series_file.file.source for series_file in self.series_files.values()),
        )

    def add_image(self, png: bytes, image_provenance: ImageProvenance) -> None:
        if len(self.png_images) >= MAX_IMAGES:
            raise InputError(
                f"that makes more than {MAX_IMAGES} images; ask for fewer slices, windows or"
                " series."
            )
        self.png_images.append((png, image_provenance))

    def add_dicom(self, files: Sequence[NamedSource], item: int) -> None:
        """DICOM files that were named themselves: each must be good, and every series is shown
        unless some are picked.
        """
        study = read_study(files, key=self.key, strict=True)
        self.patients |= study.patients
        selected_series = (
            select_series(study, self.view.series) if self.view.series else study.series
        )
        self._check_limit(
            sum(min(entry.n_images, self.view.max_slices) for entry in selected_series)
        )
        for series in selected_series:
            for entry in render_slices(
                series, item=item, slices=self.view.max_slices, windows=self.view.window
            ):
                self._add_slice(entry)

    def _add_slice(self, rendered: RenderedSlice) -> None:
        self.add_image(rendered.png, rendered.provenance)
        self.series_files[id(rendered.file)] = (
            rendered.file
        )  # held, so that its identity stays its own
        self.risks.add(rendered.file.metadata.burned_in_risk)

    def _check_limit(self, images: int) -> None:
        # Before the first is decoded: a choice of a thousand must not take minutes to be refused.
        if len(self.png_images) + images * len(self.view.window) > MAX_IMAGES:
            raise InputError(
                f"that makes more than {MAX_IMAGES} images; ask for fewer slices, windows or"
                " series."
            )

    def add_folder(self, path: Path, item: int) -> None:
        name = f"folder {item}"
        paths = [path / entry for entry in _files_below(path, name)]
        links = [entry for entry in paths if entry.is_symlink()]
        files = [
            NamedSource(entry, f"file {n} of {name}")
            for n, entry in enumerate(paths, 1)
            if entry not in links and not _is_paired_with_link(entry, links)
        ]
        study = read_study(
            [entry for entry in files if not _is_volume(entry.source)], key=self.key, strict=False
        )
        if not study.series:
            self._add_plain_images(files, name, item, study)
            return
        if len(study.studies) > 1 or len(study.patients) > 1:
            contents = f"{len(study.studies)} studies" if len(study.studies) > 1 else "a study"
            patients_suffix = (
                f" of {len(study.patients)} patients" if len(study.patients) > 1 else ""
            )
            raise InputError(
                f"{name} holds {contents}{patients_suffix}; give the folder of one study, or one after the other."
            )
        self.patients |= study.patients
        selected_series = select_series(study, self.view.series or None)
        left_out = Counter(study.left_out)
        left_out.update(
            {
                "links": len(paths) - len(files),
                "volumes": sum(_is_volume(entry.source) for entry in files),
            }
        )
        self._check_limit(
            sum(min(entry.n_images, self.view.max_slices) for entry in selected_series)
        )
        n_before = len(self.png_images)
        for series in selected_series:
            for entry in render_slices(
                series,
                item=item,
                slices=self.view.max_slices,
                windows=self.view.window,
                left_out=left_out,
            ):
                self._add_slice(entry)
        if len(self.png_images) == n_before:
            raise ImageError(
                f"{name}: no image of the chosen series can be read ({left_out['damaged']} are"
                " damaged); export the study again."
            )
        if len(selected_series) < len(study.series):
            self.notes.append(
                f"{name} holds {len(study.series)} series ({format_series_list(study)}); shown:"
                f" {', '.join(str(s.number) for s in selected_series)}."
            )
        self._note_left_out(name, +left_out, len(paths))

    def _add_plain_images(
        self, files: Sequence[NamedSource], name: str, item: int, study: Study
    ) -> None:
        """A folder without DICOM images: its pictures and volumes, as many as fit, in the order of
        their names.
        """
        readable_files = [
            file
            for file in files
            if _is_volume(file.source) or str(file.source).lower().endswith(IMAGE_SUFFIXES)
        ]
        if not readable_files:
            reasons = ", ".join(
                f"{count} {reason}" for reason, count in sorted(study.left_out.items())
            )
            raise ImageError(
                f"{name} holds no image ({reasons or 'it is empty'}); give a folder with images."
            )
        if len(readable_files) > MAX_IMAGES:
            raise InputError(
                f"{name} holds {len(readable_files)} pictures, more than {MAX_IMAGES}; name some of them."
            )
        for file in readable_files:
            self.add_file(file, item, "volume" if _is_volume(file.source) else "picture")
        if len(readable_files) < len(files):
            self.notes.append(
                f"{name}: {len(files) - len(readable_files)} of {len(files)} files are no images and were"
                " left out."
            )

    def _note_left_out(self, name: str, left_out: Counter[str], files: int) -> None:
        if left_out:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
            self.notes.append(
                f"{name}: {left_out.total()} of {files} files were left out ({reasons})."
            )

    def add_file(self, file: NamedSource, item: int, kind: str) -> None:
        if kind == "volume":
            self.add_volume(file, item)
            return
        image = decode(_read_bytes(file), name=file.name)
        self.add_image(
            png_bytes(image), ImageProvenance(item, "picture", image.height, image.width)
        )

    def add_volume(self, file: NamedSource, item: int) -> None:
        with _as_path(file) as path, open_volume(path, name=file.name) as volume:
            slice_indices = evenly_spaced(volume.shape[2], self.view.max_slices)
            self._check_limit(len(slice_indices))
            if volume.n_times > 1:
                self.notes.append(
                    f"{file.name} holds {volume.n_times} volumes; the first is shown."
                )
            for rendered in volume.render(slices=slice_indices, windows=self.view.window):
                window, spacing = rendered.window, (volume.spacing[1], volume.spacing[0])
                size = rendered.pixels.shape[0], rendered.pixels.shape[1]
                window_fields = {
                    "window": window.name,
                    "center": window.center,
                    "width": window.width,
                    "spacing": spacing,
                }
                self.add_image(
                    encode_png(rendered.pixels),
                    ImageProvenance(
                        item,
                        "volume",
                        *size,
                        index=rendered.z + 1,
                        total=volume.shape[2],
                        **window_fields,
                    ),
                )


def _files_below(path: Path, name: str) -> list[Path]:
    try:
        return list(iter_files(path))
    except InputError:
        # Its own message names the path.
        raise InputError(f"{name} cannot be read; check its permissions.") from None


def _is_paired_with_link(path: Path, links: Sequence[Path]) -> bool:
    """Whether it is a volume of two files whose other half may be a link: nibabel would follow it."""
    stem_prefix = f"{path.stem}.".lower()
    return path.name.lower().endswith(_PAIRED_SUFFIXES) and any(
        link.parent == path.parent and link.name.lower().startswith(stem_prefix) for link in links
    )


def _is_volume(source: Source) -> bool:
    return isinstance(source, Path) and source.name.lower().endswith(VOLUME_SUFFIXES)


def _read_bytes(file: NamedSource) -> bytes:
    if isinstance(file.source, bytes):
        data = file.source
    else:
        with open_file(file.source, file.name) as stream:
            data = stream.read(MAX_BYTES + 1)
    if not data:
        raise ImageError(f"{file.name} is empty (0 bytes); copy the image again.")
    if len(data) > MAX_BYTES:
        raise ImageError(f"{file.name} has more than {MAX_BYTES >> 20} MB; make it smaller.")
    return data


@contextmanager
def _as_path(file: NamedSource) -> Iterator[Path]:
    """nibabel opens files: bytes lie in a private one meanwhile."""
    if isinstance(file.source, Path):
        yield file.source
        return
    suffix = ".nii.gz" if file.source.startswith(b"\x1f\x8b") else ".nii"
    with tempfile.NamedTemporaryFile(suffix=suffix) as temp_file:
        temp_file.write(_read_bytes(file))
        temp_file.flush()
        yield Path(temp_file.name)
