"""Assets in their review: uploads, and the states of the assets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue.testing._ledger import Upload
from airflow_provider_manxue.testing._progress import Scripted
from airflow_provider_manxue.testing._reply import Reply
from airflow_provider_manxue.testing._script import Script

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_provider_manxue.testing._clock import Clock
    from airflow_provider_manxue.testing._response import Response

_FIELDS = {"imageUrls": "image", "videoUrls": "video", "audioUrls": "audio"}
_REFERENCES = ("referenceImages", "referenceVideos", "referenceAudios")
_FRAMES = ("first_image", "image", "last_image", "lastFrameImage")
_SCHEMES = ("https://", "http://")

WORDS = {"queued": "submitted", "processing": "Processing", "completed": "Active", "failed": "Failed"}
"""The service's word for each status of a script."""


class Asset(Scripted):
    """
    An asset.

    :param asset_id: id of the asset.
    :param kind: ``image``, ``video`` or ``audio``.
    :param url: URL of its file.
    :param clock: the emulator's clock.
    :param script: its script, which starts now.
    """

    def __init__(self, asset_id: str, kind: str, url: str, *, clock: Clock, script: Script) -> None:
        super().__init__(clock, script)
        self.id, self.kind, self.url = asset_id, kind, url

    @property
    def word(self) -> str:
        """The status in the service's word."""
        return WORDS[self.status]


class Review:
    """
    All assets of the service.

    :param clock: the emulator's clock.
    """

    def __init__(self, clock: Clock) -> None:
        self.assets: dict[str, Asset] = {}
        self.uploads: list[Upload] = []
        self.default_script = Script.timed(queued=1, processing=4)
        self.refusals: dict[str, Any] = {}
        """Entries of ``failedItems``, by the URL of the file that an upload refuses."""
        self._clock = clock
        self._ids = 0

    def add(self, kind: str, url: str, script: Script, asset_id: str | None = None) -> Asset:
        """
        Add an asset, by default with a new id.

        :raises ValueError: if the id exists already, or the kind is unknown.
        """
        if kind not in _FIELDS.values():
            raise ValueError(f"kind is {kind!r}. Set 'image', 'video' or 'audio'.")
        self._ids += 1
        asset_id = asset_id or f"asset_sd2manxue_{self._ids}"
        if asset_id in self.assets:
            raise ValueError(f"Asset {asset_id!r} exists already. Set another id.")
        asset = self.assets[asset_id] = Asset(asset_id, kind, url, clock=self._clock, script=script)
        return asset

    def upload(self, body: bytes, time: float, response: Response | None) -> Reply:
        """
        Accept an upload.

        :param response: the fault that changes the response; it may set whether the upload is billed.
        :raises ValueError: if it breaks a documented rule.
        """
        request = _read(body)
        items, failed, ids = [], [], []
        for kind, url in _files(request):
            if url in self.refusals:
                failed.append(self.refusals[url])
                continue
            asset = self.add(kind, url, self.default_script)
            ids.append(asset.id)
            items.append({"assetType": kind, "originalUrl": url, "assetId": asset.id, "status": asset.word})
        self.uploads.append(Upload(tuple(ids), time, request, billed=response is None or response.bills))
        return _envelope(items, failed)

    def query(self, body: bytes) -> tuple[list[str], Reply, Response | None]:
        """
        Return the ids of a query, the reply, and the response of the script if the query is for one asset.

        :raises ValueError: if the body has no ids.
        """
        ids = _object(body).get("assetIds")
        if not isinstance(ids, list) or not ids:
            raise ValueError("assetIds must be a list of ids")
        ids = [str(one) for one in ids]
        if any(one not in self.assets for one in ids):
            return ids, Reply(200, {"code": -1, "data": None, "msg": "asset not found"}), None
        steps = {one: self.assets[one].poll() for one in ids}
        items = [{"assetId": one, "status": WORDS[step.status]} for one, step in steps.items()]
        return ids, _envelope(items, []), steps[ids[0]].response if len(ids) == 1 else None

    def objection(self, order: Mapping[str, Any]) -> str | None:
        """Return the reason why the references of an order make its task fail; None if there is none."""
        for url in _references_of(order):
            asset_id = url.removeprefix("asset://")
            asset = self.assets.get(asset_id)
            if asset_id != url and (asset is None or asset.status != "completed"):
                state = "unknown" if asset is None else asset.word
                return f"The asset {asset_id} is {state}, not Active."
        return None


def _envelope(items: list[Any], failed: list[Any]) -> Reply:
    return Reply(200, {"code": "0", "msg": None, "data": {"items": items, "failedItems": failed}})


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        raise ValueError("the body is not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("the body is not a JSON object")  # noqa: TRY004 - a client's mistake
    return {name: item for name, item in value.items() if item is not None}


def _read(body: bytes) -> dict[str, Any]:
    """Parse the request body of an upload."""
    request = _object(body)
    for name in _FIELDS:
        urls = request.get(name, [])
        if not isinstance(urls, list) or not all(_is_url(url) for url in urls):
            raise ValueError(f"{name} must be a list of URLs (http or https)")
    if not any(request.get(name) for name in _FIELDS):
        raise ValueError("imageUrls, videoUrls or audioUrls is required")
    return request


def _is_url(url: object) -> bool:
    return isinstance(url, str) and url.startswith(_SCHEMES)


def _files(request: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, kind in _FIELDS.items():
        for url in request.get(name, []):
            yield kind, url


def _references_of(order: Mapping[str, Any]) -> Iterator[str]:
    for name in _FRAMES:
        if name in order:
            yield order[name]
    for name in _REFERENCES:
        yield from order.get(name, [])
