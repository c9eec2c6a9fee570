"""
Assets: the queries of their state, the parser of it, and the receipt of an upload. No I/O happens here.

The service documents the envelope ``{code, msg, data: {items, failedItems}}``, with items of ``assetId`` and ``status``. It does not
document the entries of ``failedItems``. They are shown as text, and nothing depends on their form but the name of the file or
asset in them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._core.bodies import clean_text
from airflow_provider_manxue._core.ids import is_id
from airflow_provider_manxue._core.reasons import is_success_code, reason_in_task
from airflow_provider_manxue._core.responses import (
    error_of_code,
    error_without,
    parse_object,
    parse_retry_after,
    parse_status,
)
from airflow_provider_manxue._core.status_log import elapsed
from airflow_provider_manxue._core.subjects import Query, Subject
from airflow_provider_manxue.exceptions import (
    ManxueAssetFailedError,
    ManxueError,
    ManxueInputError,
    ManxueRefusedError,
    ManxueTimeoutError,
)
from airflow_provider_manxue.models import Asset, AssetType, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ID_FIELDS = ("assetId", "asset_id", "id")
URL_FIELDS = ("originalUrl", "original_url", "sourceUrl", "url")
_TYPE_FIELDS = ("assetType", "asset_type", "type")
_STATUS_FIELDS = ("status", "state")

MAX_REASON = 200
"""Maximum number of characters of the reason for one file in a receipt. Airflow stores the receipt."""

_PUNCTUATION = ".,;:!()[]<>\"'"
"""Characters around a URL or an id in a text."""

_ACTIVE = "active"
"""The only status of an asset that an order may use, lower case."""


# --- URLs of the service --------------------------------------------------------------------------------


def upload_url(base_url: str) -> str:
    """Return the URL for uploads of assets."""
    return f"{base_url}/asset/sd2Manxue/assetUpload"


def query_assets(base_url: str, asset_ids: Sequence[str]) -> Query:
    """Return the request for the state of assets."""
    body = json.dumps({"assetIds": list(asset_ids)}).encode()
    return Query("POST", f"{base_url}/asset/sd2Manxue/assetStatus", body)


# --- responses ------------------------------------------------------------------------------------------


def lists_in(
    payload: Mapping[str, Any], http_status: int, secret: str, pause: float | None
) -> tuple[list[Mapping[str, Any]], list[Any]]:
    """
    Return the items and the failed items of an envelope.

    Items are returned for any ``code``, as the status of a video is. Without any, the code decides.

    :param pause: the ``Retry-After`` of the response, in seconds.
    :raises ManxueError: if there are none.
    """
    data = payload.get("data")
    items, failed = (data.get("items"), data.get("failedItems")) if isinstance(data, dict) else (data, None)
    items = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    failed = failed if isinstance(failed, list) else [failed] if failed else []
    if items or failed:
        return items, failed
    if error := error_of_code(payload, http_status, secret, pause):
        raise error
    reason = "its lists are empty" if isinstance(data, dict) else ""
    raise error_without("assets", payload, http_status, secret, pause, reason)


def text_in(fields: Mapping[str, Any], names: Iterable[str]) -> str:
    """Return the first text or whole number among fields; empty if there is none."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()
    return ""


def asset_id_in(item: Mapping[str, Any]) -> str:
    """Return the id of an asset among fields; empty if there is none, or if it cannot be one."""
    asset_id = text_in(item, ID_FIELDS)
    return asset_id if is_id(asset_id) else ""


def describe_failed_item(entry: Any, secret: str) -> str:
    """Return an entry of ``failedItems`` as text: its reason if it names one, else all of it."""
    if isinstance(entry, dict) and (reason := reason_in_task(entry)):
        text = reason
    else:
        text = entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False)
    return clean_text(text, secret)


def mentions(entry: Any, name: str) -> bool:
    """Return whether an entry of ``failedItems`` is about a file or an asset, by its URL or id."""
    if isinstance(entry, dict):
        return name in {text_in(entry, URL_FIELDS), text_in(entry, ID_FIELDS)}
    return isinstance(entry, str) and any(name in {word, word.strip(_PUNCTUATION)} for word in entry.split())


def parse_asset_status(word: str) -> TaskStatus:
    """Return the status that a word means. Only *Active* is completed, whatever other words of success there are."""
    if word.strip().lower() == _ACTIVE:
        return TaskStatus.COMPLETED
    status = parse_status(word)
    return TaskStatus.UNKNOWN if status is TaskStatus.COMPLETED else status


def parse_item(item: Mapping[str, Any], secret: str, *, asset_id: str = "", reason: str = "") -> Asset:
    """
    Parse an item of a response.

    :param asset_id: the requested id; empty to read it.
    :param reason: a reason for a failure, if the item itself has none.
    """
    word = text_in(item, _STATUS_FIELDS)
    status = parse_asset_status(word)
    error = None
    if status not in {TaskStatus.COMPLETED, TaskStatus.QUEUED, TaskStatus.PROCESSING}:
        error = clean_text(reason_in_task(item) or reason, secret) or None
    return Asset(
        asset_id or asset_id_in(item),
        status,
        status_word=clean_text(word, secret),
        asset_type=_type_of(text_in(item, _TYPE_FIELDS)),
        original_url=text_in(item, URL_FIELDS) or None,
        error=error,
    )


def _type_of(word: str) -> AssetType | None:
    """Return the type that a word begins with, in any case: ``image`` for ``IMAGE`` and ``imageUrl``."""
    return next((kind for kind in AssetType if word.lower().startswith(kind.value)), None)


def parse_assets(
    http_status: int,
    body: bytes,
    asset_ids: Sequence[str],
    *,
    retry_after: Sequence[str] = (),
    now: float = 0.0,
    secret: str = "",
) -> list[Asset]:
    """
    Parse a response to a query of assets, in the order of the ids. For the other parameters see ``parse_task``.

    An asset of which the response has no state gets the status ``unknown`` and an empty ``status_word``.

    :raises ManxueError: if the response describes no assets.
    """
    payload = parse_object(http_status, body, retry_after=retry_after, now=now, secret=secret)
    items, failed = lists_in(payload, http_status, secret, parse_retry_after(retry_after, now))
    by_id = {asset_id_in(item): item for item in reversed(items)}
    if len(asset_ids) == 1 and len(items) == 1 and not text_in(items[0], ID_FIELDS):
        by_id = {asset_ids[0]: items[0]}
    reason = str(payload.get("msg") or "") if not is_success_code(payload.get("code")) else ""
    is_only = len(asset_ids) == 1
    return [
        parse_item(by_id[asset_id], secret, asset_id=asset_id, reason=reason)
        if asset_id in by_id
        else _from_failed_items(asset_id, failed, secret, is_only=is_only)
        for asset_id in asset_ids
    ]


def _from_failed_items(asset_id: str, failed: Sequence[Any], secret: str, *, is_only: bool) -> Asset:
    """
    Return an asset without an item.

    ``failedItems`` may mean that the review failed, or that the query did. So only the status *Failed* ends a review at once.
    """
    entry = next((entry for entry in failed if mentions(entry, asset_id)), None)
    if entry is None and is_only and failed:
        entry = failed[0]
    if entry is None:
        return Asset(asset_id, TaskStatus.UNKNOWN, error="the response has no state of it")
    reason = describe_failed_item(entry, secret)
    if isinstance(entry, dict):
        asset = parse_item(entry, secret, asset_id=asset_id, reason=reason)
        if asset.status is TaskStatus.FAILED:
            return asset
    return Asset(asset_id, TaskStatus.UNKNOWN, error=f"it is among the failed items: {reason}")


# --- the subject of a wait ------------------------------------------------------------------------------


class _AssetSubject(Subject):
    """Assets in their review. One request polls one asset, so that an unknown one does not hide the state of the others."""

    noun = "asset"
    failure = ManxueAssetFailedError

    def query(self, base_url: str, item_id: str) -> Query:
        return query_assets(base_url, [item_id])

    def parse(
        self,
        http_status: int,
        body: bytes,
        item_id: str,
        *,
        retry_after: Sequence[str],
        now: float,
        secret: str,
    ) -> Asset:
        [asset] = parse_assets(http_status, body, [item_id], retry_after=retry_after, now=now, secret=secret)
        if not asset.status_word:
            raise ManxueRefusedError(
                f"HTTP {http_status} without the state of the asset: {asset.error}",
                parse_retry_after(retry_after, now),
            )
        return asset

    def load(self, fields: Mapping[str, Any]) -> Asset:
        return Asset.from_dict(fields)

    def failed(self, item_id: str, reason: str) -> ManxueAssetFailedError:
        return ManxueAssetFailedError(
            f"The review of the asset {item_id!r} failed: {reason.removesuffix('.')}. Usual causes are content that is not allowed, "
            f"and images with another ratio than 0.4 to 2.5 or sides out of 300 to 6,000 pixels. Upload another file."
        )

    def timed_out(self, item_id: str, waited: float, status: str, trouble: str) -> ManxueTimeoutError:
        last_error = f" Last error: {trouble.removesuffix('.')}." if trouble else ""
        return ManxueTimeoutError(
            f"The asset {item_id!r} was not ready after {elapsed(waited)}. Last status from the service: "
            f"{status or 'none'}.{last_error} Its review may still end: increase 'timeout', and clear the task."
        )

    def result_missing(self, item_id: str, reason: str | None) -> ManxueError:
        raise NotImplementedError("an active asset needs no URL")

    def with_likely_causes(self, error: ManxueError, item_id: str) -> ManxueError:
        if not isinstance(error, ManxueRefusedError):
            return error
        return type(error)(
            f"The service does not return the asset {item_id!r}: {str(error).removesuffix('.')}. Likely causes: the id is not "
            f"one that an upload returned, it belongs to another API key, or the connection's base URL has a wrong path."
        )


ASSET = _AssetSubject()


# --- receipts -------------------------------------------------------------------------------------------


def to_receipt(assets: Iterable[Asset]) -> list[str | dict[str, str]]:
    """Serialize the assets of an upload for the record: an id, or an object with the reason why there is none."""
    return [asset.id or {"error": (asset.error or "")[:MAX_REASON]} for asset in assets]


def parse_receipt(value: Any) -> list[str | dict[str, str]]:
    """
    Parse a receipt: from the record, or the list of ids that a person has written there.

    :raises ValueError: if it is not one.
    """
    if not isinstance(value, list) or not value:
        raise ValueError("it has no list of assets")
    return [_parse_entry(entry) for entry in value]


def _parse_entry(entry: Any) -> str | dict[str, str]:
    if isinstance(entry, str) and is_id(entry.strip().removeprefix("asset://")):
        return entry.strip().removeprefix("asset://")
    if isinstance(entry, dict) and isinstance(entry.get("error"), str):
        return {"error": clean_text(entry["error"])[:MAX_REASON]}
    raise ValueError("one of its assets is not an id")


def name_receipt(receipt: Iterable[str | dict[str, str]]) -> str:
    """Name the assets of a receipt in a text."""
    return ", ".join(repr(entry) for entry in receipt if isinstance(entry, str)) or "(none)"


def parse_asset_ids(asset_ids: Any) -> list[str]:
    """
    Parse ids of assets from an argument. ``asset://`` URLs are accepted, too.

    :raises ManxueInputError: if there is none, or one is not usable.
    """
    try:
        ids = [asset_ids] if isinstance(asset_ids, str) else list(asset_ids)
        parsed = [entry for entry in parse_receipt(ids) if isinstance(entry, str)]
    except (ValueError, TypeError) as error:
        raise ManxueInputError(f"The ids of assets cannot be used: {error}. Pass a list of ids.") from None
    if len(parsed) != len(ids):
        raise ManxueInputError(
            "The ids of assets cannot be used: an upload made no asset of a file. Leave it out."
        )
    return parsed
