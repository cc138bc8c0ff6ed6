"""Files, folders or bytes as the images that a model sees, with the provenance of each.

Image files, DICOM files and folders, and volumes (NIfTI and others of nibabel). Nothing in the result
is a name, an id, a path or a date; errors call an input "file 2", or "file 17 of folder 1".
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from lingshu.core.errors import ConfigError, ImageError, InputError
from lingshu.core.pseudonyms import new_key
from lingshu.core.types import Image
from lingshu.imaging.dicom.file import open_file
from lingshu.imaging.dicom.metadata import highest_risk
from lingshu.imaging.dicom.study import (
    DicomSeries,
    NamedSource,
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
# More than a model's context, and each image is a file in memory.
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
    """The images, the provenance of each, notes for a reader, and the DICOM files of the images.

    `burned_in_risk` is the highest risk of text in the pixels that a DICOM file states or suggests:
    stated, likely or low.
    """

    images: tuple[Image, ...] = ()
    image_provenance: tuple[ImageProvenance, ...] = ()
    notes: tuple[str, ...] = ()
    burned_in_risk: str | None = None
    dicom_files: tuple[Source, ...] = field(default=(), repr=False)


def load_inputs(items: Sequence[Path | bytes], view: ViewOptions | None = None) -> ModelInput:
    """The images of files, folders and bytes, in the given order.

    Consecutive DICOM files are grouped into series, like a folder. A folder is the study of one
    patient; other files in it are left out and counted in `notes`.

    Raises:
        ImageError: a given file without pixels.
        InputError: a folder of several studies or without images, or more than 64 images.
        MissingExtraError: pydicom or nibabel is not installed.
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
    """folder, dicom, volume or picture, by the first bytes or by a suffix of nibabel."""
    if isinstance(item, Path) and item.is_dir():
        return "folder"
    if isinstance(item, bytes):
        header, name = item[:_HEADER_BYTES], ""
    else:
        with open_file(item, f"file {index}") as file:
            header, name = file.read(_HEADER_BYTES), item.name.lower()
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


class _InputCollector:
    """Collects images in order, with one key for the ids of all patients."""

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
        return ModelInput(
            tuple(Image(data=png) for png, _ in self.png_images),
            tuple(provenance for _, provenance in self.png_images),
            tuple(self.notes),
            highest_risk(self.risks),
            tuple(series_file.file.source for series_file in self.series_files.values()),
        )

    def add_image(self, png: bytes, provenance: ImageProvenance) -> None:
        self._check_limit(1, n_windows=1)
        self.png_images.append((png, provenance))

    def add_dicom(self, files: Sequence[NamedSource], item: int) -> None:
        """Given DICOM files: each must be valid, and every series is shown unless some are selected."""
        study = read_study(files, key=self.key, strict=True)
        self.patients |= study.patients
        series = select_series(study, self.view.series) if self.view.series else study.series
        self._add_series(series, item)

    def _add_series(
        self, series: Sequence[DicomSeries], item: int, left_out: Counter[str] | None = None
    ) -> None:
        max_slices, windows = self.view.max_slices, self.view.window
        # Before the first is decoded, so that too many are refused at once.
        self._check_limit(sum(min(entry.n_images, max_slices) for entry in series))
        for entry in series:
            for rendered in render_slices(
                entry, item=item, slices=max_slices, windows=windows, left_out=left_out
            ):
                self.add_image(rendered.png, rendered.provenance)
                # Kept by identity, which stays unique while the file is referenced.
                self.series_files[id(rendered.file)] = rendered.file
                self.risks.add(rendered.file.metadata.burned_in_risk)

    def _check_limit(self, n_images: int, *, n_windows: int | None = None) -> None:
        n_windows = n_windows or len(self.view.window)
        if len(self.png_images) + n_images * n_windows > MAX_IMAGES:
            raise InputError(
                f"these are more than {MAX_IMAGES} images; show fewer slices, windows or series."
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
        n_studies, n_patients = len(study.studies), len(study.patients)
        if n_studies > 1 or n_patients > 1:
            contents = f"{n_studies} studies" if n_studies > 1 else "a study"
            contents += f" of {n_patients} patients" if n_patients > 1 else ""
            raise InputError(
                f"{name} has {contents}; give the folder of one study, or one after the other."
            )
        self.patients |= study.patients
        selected_series = select_series(study, self.view.series or None)
        left_out = Counter(study.left_out)
        left_out["links"] += len(paths) - len(files)
        left_out["volumes"] += sum(_is_volume(entry.source) for entry in files)
        n_before = len(self.png_images)
        self._add_series(selected_series, item, left_out)
        if len(self.png_images) == n_before:
            raise ImageError(
                f"{name}: no image of the selected series can be read ({left_out['damaged']} are"
                " damaged); export the study again."
            )
        if len(selected_series) < len(study.series):
            self.notes.append(
                f"{name} has {len(study.series)} series ({format_series_list(study)}); shown:"
                f" {', '.join(str(s.number) for s in selected_series)}."
            )
        if n_left_out := left_out.total():
            self.notes.append(
                f"{name}: {n_left_out} of {len(paths)} files were left out"
                f" ({_format_counts(+left_out)})."
            )

    def _add_plain_images(
        self, files: Sequence[NamedSource], name: str, item: int, study: Study
    ) -> None:
        """A folder without DICOM images: its image files and volumes, in the order of names."""
        suffixes = (*VOLUME_SUFFIXES, *IMAGE_SUFFIXES)
        readable = [file for file in files if str(file.source).lower().endswith(suffixes)]
        if not readable:
            reasons = _format_counts(study.left_out) or "it is empty"
            raise ImageError(f"{name} has no image ({reasons}); give a folder with images.")
        if len(readable) > MAX_IMAGES:
            raise InputError(
                f"{name} has {len(readable)} images, more than {MAX_IMAGES}; give some of them."
            )
        for file in readable:
            self.add_file(file, item, "volume" if _is_volume(file.source) else "picture")
        if n_others := len(files) - len(readable):
            self.notes.append(
                f"{name}: {n_others} of {len(files)} files are not images and were left out."
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
                self.notes.append(f"{file.name} has {volume.n_times} volumes; the first is shown.")
            for rendered in volume.render(slices=slice_indices, windows=self.view.window):
                window = rendered.window
                provenance = ImageProvenance(
                    item,
                    "volume",
                    rendered.pixels.shape[0],
                    rendered.pixels.shape[1],
                    index=rendered.z + 1,
                    total=volume.shape[2],
                    window=window.name,
                    center=window.center,
                    width=window.width,
                    spacing=(volume.spacing[1], volume.spacing[0]),
                )
                self.add_image(encode_png(rendered.pixels), provenance)


def _format_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def _files_below(path: Path, name: str) -> list[Path]:
    try:
        return list(iter_files(path))
    except InputError:
        # The original message has the path.
        raise InputError(f"{name} cannot be read; check its permissions.") from None


def _is_paired_with_link(path: Path, links: Sequence[Path]) -> bool:
    """Whether it is a volume of two files whose other file may be a link, which nibabel follows."""
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
    """The path of a file; bytes are written to a temporary one, as nibabel opens paths."""
    if isinstance(file.source, Path):
        yield file.source
        return
    suffix = ".nii.gz" if file.source.startswith(b"\x1f\x8b") else ".nii"
    with tempfile.NamedTemporaryFile(suffix=suffix) as temp_file:
        temp_file.write(_read_bytes(file))
        temp_file.flush()
        yield Path(temp_file.name)
