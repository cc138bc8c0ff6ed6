"""DICOMweb: find the studies of a PACS, pull the files of one, and store a report beside them.

Only the address that the user named is spoken to: no redirect is followed and no proxy of the
environment used. What arrives is bounded in files and bytes, and nothing of it gets into a log or
an error. Source: DICOM PS3.18, sections 10.4 (retrieve), 10.5 (store), 10.6 (search).
"""

from __future__ import annotations

import base64
import contextlib
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lingshu.core.data_policy import is_local
from lingshu.core.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import requests
    from dicomweb_client.web import DICOMwebClient

MAX_INSTANCES = 4000
MAX_INSTANCE_BYTES = 512 << 20
MAX_TOTAL_BYTES = 4 << 30
PAGE_SIZE = 500
_UID = re.compile(r"[0-9.]{1,64}")
_STUDY, _SERIES, _INSTANCE, _MODALITIES, _MODALITY = (
    "0020000D",
    "0020000E",
    "00080018",
    "00080061",
    "00080060",
)
_NOISY_LOGGERS = ("dicomweb_client", "urllib3", "requests", "pydicom")


@dataclass(frozen=True)
class DicomWebServer:
    """A DICOMweb address, such as https://pacs.example/dicom-web; `auth` is user:password, or a
    bearer token.

    Raises:
        InputError: no http(s) address, one that holds a password, or a password that would travel
            unencrypted.
    """

    url: str
    auth: str | None = field(default=None, repr=False)
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        url_parts = urlsplit(self.url)
        # No message repeats the address: it may hold the password.
        if url_parts.scheme not in ("http", "https") or not url_parts.hostname:
            raise InputError("a DICOMweb server is written http(s)://host[:port]/path.")
        if url_parts.username or url_parts.password or url_parts.query:
            raise InputError(
                f"the address of {url_parts.hostname} carries a password or a query; give the password"
                " in DICOMWEB_AUTH or --auth."
            )
        if self.auth is not None and not re.fullmatch(r"[ -~]+", self.auth):
            raise InputError(
                "the password or token for DICOMweb is empty or holds characters that none has;"
                " copy it again."
            )
        if self.auth is not None and url_parts.scheme == "http" and not is_local(self.url):
            raise InputError(
                f"a password for {url_parts.hostname} would travel unencrypted; use https."
            )

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


@dataclass(frozen=True, slots=True)
class StudyEntry:
    """A study of the server: its UID, the modalities of its series, and how many series and images
    it has, where told.
    """

    uid: str
    modalities: tuple[str, ...]
    n_series: int | None
    n_images: int | None


def find_studies(
    server: DicomWebServer, *, filters: Mapping[str, str] | None = None, limit: int = 100
) -> list[StudyEntry]:
    """Studies that match `filters`, DICOM keywords with the values to look for (`{"PatientID":
    "..."}`). No name comes back.

    Raises:
        InputError: the server does not answer, refuses, or answers what is no DICOMweb.
        MissingExtra: dicomweb-client is not installed.
    """
    with _client(server) as client:
        results = client.search_for_studies(search_filters=dict(filters or {}), limit=limit)
        return [
            StudyEntry(
                uid,
                tuple(_values(study, _MODALITIES)),
                _count(study, "00201206"),
                _count(study, "00201208"),
            )
            for study in results[:limit]
            if (uid := _uid(study, _STUDY))
        ]


def retrieve_study(server: DicomWebServer, study_uid: str) -> Iterator[bytes]:
    """The DICOM files of a study, one after the other; objects of modalities without pixels (SR,
    PR, KO) are not asked for.

    Raises:
        InputError: no such study, more than 4,000 files or 4 GB, or as `find_studies`.
    """
    check_uid(study_uid)
    with _client(server) as client:
        n_files = total_bytes = 0
        for series in _paginate(client.search_for_series, _SERIES, study_instance_uid=study_uid):
            if _first(series, _MODALITY) in ("SR", "PR", "KO", "REG", "DOC"):
                continue
            series_uid = _uid(series, _SERIES)
            for instance in _paginate(
                client.search_for_instances,
                _INSTANCE,
                study_instance_uid=study_uid,
                series_instance_uid=series_uid,
            ):
                n_files += 1
                if n_files > MAX_INSTANCES:
                    raise InputError(
                        f"the study has more than {MAX_INSTANCES} files; pull it by other means."
                    )
                for file in _retrieve(
                    client,
                    server,
                    f"studies/{study_uid}/series/{series_uid}/instances/{_uid(instance, _INSTANCE)}",
                ):
                    total_bytes += len(file)
                    if total_bytes > MAX_TOTAL_BYTES:
                        raise InputError(
                            f"the study has more than {MAX_TOTAL_BYTES >> 30} GB; pull it by other"
                            " means."
                        )
                    yield file
        if not n_files:
            raise InputError(
                f"{server.host} has no study of that UID with images; check the StudyInstanceUID."
            )


def store_report_files(server: DicomWebServer, files: Sequence[bytes]) -> None:
    """Store DICOM files.

    Raises:
        InputError: the server refuses one of them, or as `find_studies`.
    """
    with _client(server) as client:
        from pydicom import dcmread

        response = client.store_instances([dcmread(io.BytesIO(file)) for file in files])
        failed = response.get("FailedSOPSequence") or []
        if failed:
            reason = failed[0].get("FailureReason")
            raise InputError(
                f"{server.host} refused to store {len(failed)} of {len(files)} files (reason"
                f" {reason}); see its log."
            )


def check_uid(uid: str) -> str:
    """`uid` itself.

    Raises:
        InputError: it is no UID; the value is not repeated.
    """
    if not _UID.fullmatch(uid):
        raise InputError(
            "the StudyInstanceUID is digits and dots, at most 64 of them; copy it again."
        )
    return uid


@contextlib.contextmanager
def _client(server: DicomWebServer) -> Iterator[DICOMwebClient]:
    """A client whose every failure is one InputError, and that logs nothing: its lines hold UIDs."""
    try:
        import requests
        from dicomweb_client.web import DICOMwebClient
    except ImportError as error:
        raise MissingExtraError.of("dicomweb_client", "dicom") from error
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with _session(server) as session:
            client = DICOMwebClient(
                server.url.rstrip("/"),
                session=session,
                timeout=server.timeout_s,
                permissive_uid=True,
            )
            client.set_http_retry_params(retry=False)
            yield client
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else "an error"
        hints = {
            401: "set DICOMWEB_AUTH or give --auth",
            403: "set DICOMWEB_AUTH or give --auth",
            404: "check the address and the study",
        }
        raise InputError(
            f"{server.host} answered HTTP status {status}; {hints.get(status, 'see its log')}."  # type: ignore[arg-type]
        ) from None
    except requests.RequestException as error:
        raise InputError(
            f"{server.host} does not answer as DICOMweb ({type(error).__name__}); check the"
            " address."
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        # The client takes an answer apart without looking what it is.
        raise InputError(
            f"{server.host} answered something that is no DICOMweb ({type(error).__name__}); check"
            " the address."
        ) from None
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _session(server: DicomWebServer) -> requests.Session:
    import requests

    class BoundedSession(requests.Session):
        """Reads no more of an answer than is allowed, and goes nowhere else."""

        def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
            # The client writes a Host without its port.
            request.headers.pop("Host", None)
            response = super().send(
                request, **{**options, "stream": True, "allow_redirects": False}
            )
            if response.is_redirect:
                raise requests.TooManyRedirects("redirect")
            body = bytearray()
            for chunk in response.iter_content(1 << 20):
                body += chunk
                if len(body) > MAX_INSTANCE_BYTES:
                    response.close()
                    raise requests.RequestException("too large")
            response._content = bytes(body)
            return response

    session = BoundedSession()
    session.trust_env = False
    session.headers.update({"Accept": "application/dicom+json", "User-Agent": "lingshu"})
    if server.auth:
        is_basic = ":" in server.auth
        session.headers["Authorization"] = (
            f"Basic {base64.b64encode(server.auth.encode()).decode()}"
            if is_basic
            else f"Bearer {server.auth.removeprefix('Bearer ')}"
        )
    return session


def _paginate(search: Any, key: str, **query: str | None) -> Iterator[Mapping[str, Any]]:
    """Every result of a search, page by page, to a page with nothing new: a server may give fewer
    at a time than it was asked for.
    """
    seen_uids: set[str] = set()
    offset = 0
    while len(seen_uids) <= MAX_INSTANCES:
        results = search(**query, limit=PAGE_SIZE, offset=offset)
        offset += len(results)
        page = [record for record in results if (uid := _uid(record, key)) and uid not in seen_uids]
        if not page:
            return
        seen_uids.update(uid for record in page if (uid := _uid(record, key)))
        yield from page


def _retrieve(client: DICOMwebClient, server: DicomWebServer, path: str) -> list[bytes]:
    """The files of one address as they lie there: not decoded and not compressed anew."""
    accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    response = client._session.get(
        f"{client.base_url}/{path}", headers={"Accept": accept}, timeout=server.timeout_s
    )
    response.raise_for_status()
    return split_multipart(response.headers.get("Content-Type", ""), response.content)


def split_multipart(content_type: str, body: bytes) -> list[bytes]:
    """The files in the body of an answer whose Content-Type is `kind`: one, or several between
    boundaries (RFC 2046, 5.1).
    """
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if boundary is None:
        return [body]
    files = []
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary.encode())[1:]:
        if part.startswith(b"--"):
            break
        files.append(part.partition(b"\r\n\r\n")[2])
    return files


def _values(record: Mapping[str, Any], tag: str) -> list[str]:
    return [
        str(value) for value in record.get(tag, {}).get("Value", ()) if isinstance(value, str | int)
    ]


def _first(record: Mapping[str, Any], tag: str) -> str | None:
    return next(iter(_values(record, tag)), None)


def _uid(record: Mapping[str, Any], tag: str) -> str | None:
    value = _first(record, tag)
    return value if value and _UID.fullmatch(value) else None


def _count(record: Mapping[str, Any], tag: str) -> int | None:
    value = _first(record, tag)
    return int(value) if value and value.isdecimal() and len(value) < 10 else None
