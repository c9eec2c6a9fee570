"""
Uploads of assets: validation, the parser of the response, and the results of a review. No I/O happens here.

Theory of operation: each distinct file is uploaded once. The response is matched to the files by type and URL. A file without an item
in the response has failed, for the reason in ``failedItems`` if one of them mentions it. A receipt has one entry for each distinct
file, in the order of the request, so that it needs no URLs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from airflow_provider_manxue._core.assets import ID_FIELDS as ASSET_ID_FIELDS
from airflow_provider_manxue._core.assets import (
    describe_failed_item,
    lists_in,
    mentions,
    parse_item,
)
from airflow_provider_manxue._core.bodies import clean_text, excerpt_of
from airflow_provider_manxue._core.ids import ID_FIELDS
from airflow_provider_manxue._core.order_kinds import ASSET_UPLOAD
from airflow_provider_manxue._core.order_outcomes import OrderOutcome, classify_response, order_error
from airflow_provider_manxue._core.orders import UPLOAD_FIELDS, OrderRequest, Reader, parameter_of, refusal
from airflow_provider_manxue._core.responses import error_of_code, parse_object, parse_retry_after
from airflow_provider_manxue._core.signed_urls import without_query
from airflow_provider_manxue.exceptions import (
    ManxueAssetFailedError,
    ManxueError,
    ManxueFailedError,
    ManxueInputError,
    ManxueTransientError,
)
from airflow_provider_manxue.models import Asset, AssetType, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from airflow_provider_manxue._core.poller import Outcome

_FIELDS = dict(zip(AssetType, UPLOAD_FIELDS, strict=True))

URL_LISTS = tuple(map(parameter_of, UPLOAD_FIELDS))
"""The author's arguments, and the lists of a result."""

# --- the request ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class File:
    """
    A file of an upload.

    :param parameter: the author's argument and the first position in it, such as ``image_urls[0]``.
    """

    asset_type: AssetType
    url: str
    parameter: str


@dataclass(frozen=True, slots=True)
class UploadRequest(OrderRequest):
    """
    A valid upload.

    :param lists: the URLs as the author gave them, by the field. ``fields`` has each of them once.
    """

    kind = ASSET_UPLOAD

    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def files(self) -> list[File]:
        """The distinct files, in the order of a receipt: images, videos, audios."""
        return [
            File(kind, url, f"{parameter_of(name)}[{self.lists[name].index(url)}]")
            for kind, name in _FIELDS.items()
            for url in self.fields.get(name, ())
        ]

    def for_each_url(self, assets: Sequence[Asset]) -> dict[str, list[Asset]]:
        """Return the assets for the URLs of the author, with duplicates, by the author's argument."""
        by_file = {(file.asset_type, file.url): asset for file, asset in zip(self.files, assets, strict=True)}
        return {
            parameter_of(name): [by_file[kind, url] for url in self.lists.get(name, ())]
            for kind, name in _FIELDS.items()
        }


def parse_upload_request(
    *, image_urls: Any = None, video_urls: Any = None, audio_urls: Any = None
) -> UploadRequest:
    """
    Validate the parameters of an upload.

    None and an empty list leave a parameter out. The service documents no maximum number of files.

    :raises ManxueInputError: naming each broken rule.
    """
    reader = Reader(("http", "https"), "(https://)")
    given = zip(UPLOAD_FIELDS, (image_urls, video_urls, audio_urls), strict=True)
    read = {name: reader.urls(parameter_of(name), value) for name, value in given}
    lists = {name: urls for name, urls in read.items() if urls}
    broken = list(reader.broken)
    if not lists and not broken:
        broken.append("image_urls, video_urls and audio_urls are all empty: give at least one URL")
    if broken:
        raise ManxueInputError(refusal(ASSET_UPLOAD, broken))
    return UploadRequest({name: list(dict.fromkeys(urls)) for name, urls in lists.items()}, lists)


# --- the response ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Upload:
    """
    An accepted upload.

    :param assets: one for each distinct file, in the order of the request. A file that the service did not accept has one without
        an id and with the status ``failed``.
    :param unexpected: the items of the response that belong to no file, as text.
    """

    assets: tuple[Asset, ...]
    unexpected: tuple[str, ...] = ()


def parse_upload_response(
    request: UploadRequest,
    http_status: int,
    body: bytes,
    *,
    retry_after: Sequence[str],
    now: float,
    secret: str,
    busy_codes: Collection[str] = (),
    failure: ManxueError | None = None,
) -> Upload:
    """
    Parse the response to an upload. For the parameters see ``parse_order_response``.

    :raises ManxueOrderNotAcceptedError: if the upload may be sent again.
    :raises ManxueOrderRejectedError: if it was rejected.
    :raises ManxueOrderUnknownError: if it may have been accepted.
    """
    try:
        payload = parse_object(http_status, body, retry_after=retry_after, now=now, secret=secret)
        upload = _parse_upload(request, payload, http_status, secret, parse_retry_after(retry_after, now))
    except ManxueError as error:
        outcome = classify_response(http_status, body, busy_codes, (*ASSET_ID_FIELDS, *ID_FIELDS))
        quote = excerpt_of(body, secret)
        raise order_error(outcome, failure or error, quote, error.retry_after, ASSET_UPLOAD) from None
    if failure is not None:
        raise order_error(OrderOutcome.UNKNOWN, failure, excerpt_of(body, secret), kind=ASSET_UPLOAD)
    return upload


def _parse_upload(
    request: UploadRequest, payload: Mapping[str, Any], http_status: int, secret: str, pause: float | None
) -> Upload:
    items, failed = lists_in(payload, http_status, secret, pause)
    if error := error_of_code(payload, http_status, secret, pause):
        raise error
    parsed = [parse_item(item, secret) for item in items]
    if not failed and not any(asset.id or asset.status is TaskStatus.FAILED for asset in parsed):
        raise ManxueTransientError(f"HTTP {http_status} with assets without ids")
    return _match(request.files, parsed, failed, secret)


def _match(files: Sequence[File], items: list[Asset], failed: Sequence[Any], secret: str) -> Upload:
    """Assign the items of a response to files, by type and URL."""
    left = list(items)
    found: dict[File, Asset] = {}
    for as_written in (True, False):
        for file in files:
            item = None if file in found else _take(left, file, as_written=as_written)
            if item is not None:
                found[file] = item
    unexpected = tuple(_describe_item(item) for item in left)
    failures = [file for file in files if file not in found or not found[file].id]
    spare = [entry for entry in failed if not any(mentions(entry, file.url) for file in failures)]
    return Upload(
        tuple(
            _uploaded(file, found.get(file), failed, [*unexpected, *_texts(spare, secret)], secret)
            for file in files
        ),
        unexpected,
    )


def _take(left: list[Asset], file: File, *, as_written: bool) -> Asset | None:
    """
    Remove the item of a file and return it, if there is one.

    :param as_written: whether the spelling of the URL must be the same. A service may change its percent-encoding.
    """
    for item in left:
        url = item.original_url or ""
        is_same = url == file.url if as_written else unquote(url) == unquote(file.url)
        if is_same and item.asset_type in {None, file.asset_type}:
            left.remove(item)
            return item
    return None


def _describe_item(item: Asset) -> str:
    url = f" of {without_query(item.original_url)}" if item.original_url else ""
    return clean_text(f"{item.id or 'an asset without an id'}{url}")


def _texts(entries: Sequence[Any], secret: str) -> Iterator[str]:
    for entry in entries:
        yield describe_failed_item(entry, secret)


def _uploaded(
    file: File, item: Asset | None, failed: Sequence[Any], others: Sequence[str], secret: str
) -> Asset:
    """Return the asset of a file, with the reason if there is none."""
    if item is not None and item.id:
        return replace(item, asset_type=file.asset_type, original_url=file.url)
    reasons = [describe_failed_item(entry, secret) for entry in failed if mentions(entry, file.url)]
    reason = item.error if item is not None and item.error else "; ".join(reasons)
    if not reason:
        reason = "the response has no asset of it"
        if others:
            reason = f"{reason}, but: {', '.join(others)}"
    return Asset(
        "", TaskStatus.FAILED, asset_type=file.asset_type, original_url=file.url, error=clean_text(reason)
    )


# --- results --------------------------------------------------------------------------------------------


def from_receipt(request: UploadRequest, receipt: Sequence[Any]) -> list[Asset]:
    """
    Return the assets of a receipt, as uploaded.

    :raises ManxueInputError: if it has another number of entries than the request has files.
    """
    files = request.files
    if len(receipt) != len(files):
        raise ManxueInputError(
            f"The upload of this task is recorded with {len(receipt)} assets, but it has {len(files)} files. Nothing was sent. "
            f"Store one asset id for each distinct URL in the key {ASSET_UPLOAD.key!r}, in the order of the URLs, or delete the "
            f"key to upload again; then clear the task."
        )
    return [
        Asset(entry, TaskStatus.QUEUED, asset_type=file.asset_type, original_url=file.url)
        if isinstance(entry, str)
        else Asset(
            "",
            TaskStatus.FAILED,
            asset_type=file.asset_type,
            original_url=file.url,
            error=entry["error"],
        )
        for file, entry in zip(files, receipt, strict=True)
    ]


def errors_of(
    request: UploadRequest, assets: Sequence[Asset], outcomes: Mapping[str, Outcome]
) -> dict[str, ManxueError]:
    """Return the errors of the files that have no active asset, by the author's argument and the URL without its query."""
    errors: dict[str, ManxueError] = {}
    for file, asset in zip(request.files, assets, strict=True):
        error = _error_of(asset, outcomes)
        if error is not None:
            errors[f"{file.parameter} ({clean_text(without_query(file.url))})"] = error
    return errors


_NOT_READ = ManxueError("The task ended before this asset was read.")


def _error_of(asset: Asset, outcomes: Mapping[str, Outcome]) -> ManxueError | None:
    if not asset.id:
        return ManxueAssetFailedError(f"The service made no asset of it: {asset.error or 'no reason given'}")
    outcome = outcomes.get(asset.id, _NOT_READ)
    return outcome if isinstance(outcome, ManxueError) else None


def to_results(
    request: UploadRequest, assets: Sequence[Asset], outcomes: Mapping[str, Outcome]
) -> dict[str, list[Any]]:
    """
    Return the result of a review.

    :return: ``image_urls``, ``video_urls`` and ``audio_urls`` with the ``asset://`` URLs of the active assets in the order of the
        author's URLs, and ``assets`` with one entry for each of these, also without an asset.
    """
    ended = request.for_each_url([_ended(asset, outcomes) for asset in assets])
    urls = {name: [asset.url for asset in row if asset.has_result] for name, row in ended.items()}
    return {**urls, "assets": [_described(asset) for row in ended.values() for asset in row]}


def _ended(asset: Asset, outcomes: Mapping[str, Outcome]) -> Asset:
    error = _error_of(asset, outcomes)
    if error is None:
        return replace(asset, status=TaskStatus.COMPLETED)
    status = TaskStatus.FAILED if isinstance(error, ManxueFailedError) else TaskStatus.UNKNOWN
    return replace(asset, status=status, error=str(error))


def _described(asset: Asset) -> dict[str, Any]:
    """Return the fields of an asset for XCom. The query of its URL is left out, since that may be a signature."""
    return {
        "assetType": asset.asset_type and asset.asset_type.value,
        "originalUrl": without_query(asset.original_url or ""),
        "assetId": asset.id or None,
        "status": asset.status.value,
        "error": asset.error,
    }
