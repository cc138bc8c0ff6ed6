"""Synthetic DICOM files with invented identities in every element where a hospital writes one."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

# Each is in a separate element; none may be found anywhere afterwards.
IDENTIFIERS = {
    "PatientName": "ZZQUX^PLANTED", "PatientID": "ZZMRN-4711", "PatientBirthDate": "19010203", "PatientAddress": "ZZSTREET",
    "OtherPatientIDs": "ZZOTHER-1", "InstitutionName": "ZZHOSPITAL", "InstitutionAddress": "ZZTOWN",
    "ReferringPhysicianName": "ZZREFER^R", "OperatorsName": "ZZOPER^O", "StationName": "ZZSTATION",
    "DeviceSerialNumber": "ZZSERIAL-77", "AccessionNumber": "ZZACC-99",
    "StudyDate": "19020304", "StudyID": "ZZSTUDY-5", "StudyDescription": "ZZFREETEXT", "BodyPartExamined": "ZZBODY",
    "ViewPosition": "ZZVIEW",
}  # fmt: skip


def dicom(pixels: np.ndarray, **elements: Any) -> bytes:
    """A DICOM file of height x width, or frames x height x width, or height x width x 3 values."""
    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = elements.pop("syntax", ExplicitVRLittleEndian)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = elements.pop(
        "SOPInstanceUID", generate_uid()
    )
    data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = "1.2.3.4", "1.2.3.4.5", "OT"
    is_color = pixels.ndim == 3 and pixels.shape[-1] == 3
    frames = pixels.shape[0] if pixels.ndim == 3 and not is_color else None
    data.Rows, data.Columns = pixels.shape[:2] if frames is None else pixels.shape[1:3]
    if frames is not None:
        data.NumberOfFrames = frames
    data.SamplesPerPixel, data.PhotometricInterpretation = (
        (3, "RGB") if is_color else (1, "MONOCHROME2")
    )
    if is_color:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    for name, value in elements.items():
        setattr(data, name, value)
    data["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    return to_bytes(data)


def to_bytes(data: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def compressed(file: bytes, syntax: str) -> bytes:
    """The same file in a lossless transfer syntax that pydicom can write."""
    data = pydicom.dcmread(io.BytesIO(file))
    data.compress(syntax)
    return to_bytes(data)


def as_jpeg(pixels: np.ndarray) -> bytes:
    """An 8-bit file whose frame is a JPEG (baseline)."""
    import cv2

    code = cv2.imencode(".jpg", pixels)[1].tobytes()
    data = pydicom.dcmread(io.BytesIO(dicom(pixels)))
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.PixelData = encapsulate([code])
    data["PixelData"].is_undefined_length = True
    data["PixelData"].VR = "OB"
    return to_bytes(data)


def dicom_with_identifiers(pixels: np.ndarray, **elements: Any) -> bytes:
    """A file with an identity in every element of IDENTIFIERS, in private elements, a sequence and the
    file's ids.
    """
    data = pydicom.dcmread(io.BytesIO(dicom(pixels, **elements)))
    for name, value in IDENTIFIERS.items():
        setattr(data, name, value)
    block = data.private_block(0x0011, "ZZVENDOR", create=True)
    block.add_new(0x01, "LO", "ZZPRIVATE")
    inner = pydicom.Dataset()
    inner.PatientID = "ZZINNER"
    data.ReferencedStudySequence = [inner]
    data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.826.99001", "1.2.826.99002"
    return to_bytes(data)


SECRETS = ("ZZ", "19010203", "19020304", "1.2.826.99001", "1.2.826.99002", "4711")
