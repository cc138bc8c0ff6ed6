"""DICOMweb: find the studies of a PACS, retrieve the files of one, and store a report next to them.

Only the configured address is contacted: redirects are not followed and proxies of the environment
are not used. Responses are bounded in files and bytes, and none of their content appears in a log
or an error. Source: DICOM PS3.18, sections 10.4 (retrieve), 10.5 (store), 10.6 (search).
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
from lingshu.imaging.dicom.elements import UID_PATTERN

if TYPE_CHECKING:
    import requests
    from dicomweb_client.web import DICOMwebClient

MAX_INSTANCES = 4000
MAX_INSTANCE_BYTES = 512 << 20
MAX_TOTAL_BYTES = 4 << 30
PAGE_SIZE = 500
_STUDY, _SERIES, _INSTANCE = "0020000D", "0020000E", "00080018"
_MODALITIES, _MODALITY = "00080061", "00080060"
_NOISY_LOGGERS = ("dicomweb_client", "urllib3", "requests", "pydicom")


@dataclass(frozen=True)
class DicomWebServer:
    """A DICOMweb address, such as https://pacs.example/dicom-web.

    `auth` is user:password, or a bearer token.

    Raises:
        InputError: not an http(s) address, one with a password, or a password sent unencrypted.
    """

    url: str
    auth: str | None = field(default=None, repr=False)
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        parts, problem = urlsplit(self.url), None
        # No message repeats the address: it may hold the password.
        if parts.scheme not in ("http", "https") or not parts.hostname:
            problem = "a DICOMweb server is written http(s)://host[:port]/path"
        elif parts.username or parts.password or parts.query:
            remedy = "use DICOMWEB_AUTH or --auth"
            problem = f"the address of {parts.hostname} holds a query or password; {remedy}"
        elif self.auth is not None and not re.fullmatch(r"[ -~]+", self.auth):
            problem = "the DICOMweb password or token is empty or damaged; copy it again"
        elif self.auth is not None and parts.scheme == "http" and not is_local(self.url):
            problem = f"a password for {parts.hostname} would be sent unencrypted; use https"
        if problem:
            raise InputError(f"{problem}.")

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


@dataclass(frozen=True, slots=True)
class StudyEntry:
    """A study of the server; the numbers of series and images are None if not reported."""

    uid: str
    modalities: tuple[str, ...]
    n_series: int | None
    n_images: int | None


def find_studies(
    server: DicomWebServer, *, filters: Mapping[str, str] | None = None, limit: int = 100
) -> list[StudyEntry]:
    """Studies that match `filters`, values by DICOM keyword (`{"PatientID": "..."}`).

    No name is returned.

    Raises:
        InputError: the server does not respond, refuses, or is not a DICOMweb server.
        MissingExtraError: dicomweb-client is not installed.
    """
    with _client(server) as client:
        records = client.search_for_studies(search_filters=dict(filters or {}), limit=limit)
        return [
            StudyEntry(
                uid,
                tuple(_values(record, _MODALITIES)),
                _count(record, "00201206"),
                _count(record, "00201208"),
            )
            for record in records[:limit]
            if (uid := _uid(record, _STUDY))
        ]


def retrieve_study(server: DicomWebServer, study_uid: str) -> Iterator[bytes]:
    """The DICOM files of a study one by one, without series that hold no pixels (SR, PR, KO).

    Raises:
        InputError: no such study, more than 4,000 files or 4 GB, or as `find_studies`.
    """
    check_uid(study_uid)
    remedy = "retrieve it by other means"
    with _client(server) as client:
        n_files = total_bytes = 0
        for path in _instance_paths(client, study_uid):
            n_files += 1
            if n_files > MAX_INSTANCES:
                raise InputError(f"the study has more than {MAX_INSTANCES} files; {remedy}.")
            for file in _retrieve(client, server, path):
                total_bytes += len(file)
                if total_bytes > MAX_TOTAL_BYTES:
                    problem = f"the study has more than {MAX_TOTAL_BYTES >> 30} GB"
                    raise InputError(f"{problem}; {remedy}.")
                yield file
        if not n_files:
            problem = "has no study of that UID with images"
            raise InputError(f"{server.host} {problem}; check the StudyInstanceUID.")


def _instance_paths(client: DICOMwebClient, study_uid: str) -> Iterator[str]:
    for series in _paginate(client.search_for_series, _SERIES, study_instance_uid=study_uid):
        if _first(series, _MODALITY) in ("SR", "PR", "KO", "REG", "DOC"):
            continue
        ids = {"study_instance_uid": study_uid, "series_instance_uid": _uid(series, _SERIES)}
        path = f"studies/{study_uid}/series/{ids['series_instance_uid']}"
        for instance in _paginate(client.search_for_instances, _INSTANCE, **ids):
            yield f"{path}/instances/{_uid(instance, _INSTANCE)}"


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
            problem = f"{len(failed)} of {len(files)} files (reason {reason})"
            raise InputError(f"{server.host} refused to store {problem}; see its log.")


def check_uid(uid: str) -> str:
    """`uid` itself.

    Raises:
        InputError: it is not a UID; the value is not repeated.
    """
    if not UID_PATTERN.fullmatch(uid):
        problem = "the StudyInstanceUID must be at most 64 digits and dots"
        raise InputError(f"{problem}; copy it again.")
    return uid


@contextlib.contextmanager
def _client(server: DicomWebServer) -> Iterator[DICOMwebClient]:
    """A client whose every failure is one InputError and that logs nothing: logs hold UIDs."""
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
            url = server.url.rstrip("/")
            client = DICOMwebClient(
                url, session=session, timeout=server.timeout_s, permissive_uid=True
            )
            client.set_http_retry_params(retry=False)
            yield client
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        auth_remedy = "set DICOMWEB_AUTH or give --auth"
        remedies = {401: auth_remedy, 403: auth_remedy, 404: "check the address and the study"}
        remedy = remedies.get(status, "see its log")
        problem = f"returned HTTP status {status or 'unknown'}"
        raise InputError(f"{server.host} {problem}; {remedy}.") from None
    except (requests.RequestException, ValueError, LookupError, TypeError, AttributeError) as error:
        # The client parses a response without checking what it is.
        problem = f"does not respond as a DICOMweb server ({type(error).__name__})"
        raise InputError(f"{server.host} {problem}; check the address.") from None
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _session(server: DicomWebServer) -> requests.Session:
    import requests

    class BoundedSession(requests.Session):
        """Bounds the size of responses and follows no redirect."""

        def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
            request.headers.pop("Host", None)  # the client writes it without the port
            options |= {"stream": True, "allow_redirects": False}
            response = super().send(request, **options)
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
        token = f"Bearer {server.auth.removeprefix('Bearer ')}"
        if ":" in server.auth:
            token = f"Basic {base64.b64encode(server.auth.encode()).decode()}"
        session.headers["Authorization"] = token
    return session


def _paginate(search: Any, key: str, **query: str | None) -> Iterator[Mapping[str, Any]]:
    """Every record of a search, up to a page with nothing new: servers may return short pages."""
    seen_uids, offset = set[str](), 0
    while len(seen_uids) <= MAX_INSTANCES:
        results = search(**query, limit=PAGE_SIZE, offset=offset)
        offset += len(results)
        by_uid = {_uid(record, key): record for record in results}
        new_uids = by_uid.keys() - seen_uids - {None}
        if not new_uids:
            return
        seen_uids |= new_uids
        yield from (record for uid, record in by_uid.items() if uid in new_uids)


def _retrieve(client: DICOMwebClient, server: DicomWebServer, path: str) -> list[bytes]:
    """The files of one address in their stored transfer syntax."""
    accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    response = client._session.get(
        f"{client.base_url}/{path}", headers={"Accept": accept}, timeout=server.timeout_s
    )
    response.raise_for_status()
    return split_multipart(response.headers.get("Content-Type", ""), response.content)


def split_multipart(content_type: str, body: bytes) -> list[bytes]:
    """The files in the body of a response: one, or several between boundaries (RFC 2046, 5.1)."""
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
    values = record.get(tag, {}).get("Value", ())
    return [str(value) for value in values if isinstance(value, str | int)]


def _first(record: Mapping[str, Any], tag: str) -> str | None:
    return next(iter(_values(record, tag)), None)


def _uid(record: Mapping[str, Any], tag: str) -> str | None:
    value = _first(record, tag)
    return value if value and UID_PATTERN.fullmatch(value) else None


def _count(record: Mapping[str, Any], tag: str) -> int | None:
    value = _first(record, tag)
    return int(value) if value and value.isdecimal() and len(value) < 10 else None
