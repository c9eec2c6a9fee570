"""
The kinds of requests that are sent once and recorded: orders of videos, and uploads of assets. No I/O happens here.

An upload is treated like an order: no price is documented, and no call that undoes it. A kind has what differs, which is the form of
the record, and the words of the errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._core.assets import name_receipt, parse_receipt
from airflow_provider_manxue._core.ids import parse_video_task_id
from airflow_provider_manxue.exceptions import (
    ManxueAssetFailedError,
    ManxueFailedError,
    ManxueVideoFailedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderKind:
    """
    A kind of request.

    In the texts, ``{name}`` is what the service returned for an accepted request.

    :param noun: its name, which is also the verb for sending it.
    :param past: the participle of that verb.
    :param key: key of the record in the task state store.
    :param field: field of the record with the receipt: what the service returned for the accepted request.
    :param parse: parses a receipt; raises ``ValueError`` or ``ManxueInputError``.
    :param name: names a receipt in a text.
    :param failure: error of a request whose result the service could not make.
    :param result: what the service returned.
    :param edit: what a person stores to continue.
    :param remedy: the same, as a remedy of the record.
    :param failed: what an earlier try found.
    :param check: what a person checks after an unknown outcome, in the time ``{when}``.
    :param after_check: what follows from that check, without a record.
    :param recorded: what the task instance has sent already.
    :param delivered: what an earlier try delivered.
    :param another: what a person wants who sends again.
    :param twice: what a retry without a record does.
    :param kept: what is there although the task has failed.
    :param use: the remedy then.
    :param if_logged: what a person does if the log has the result.
    :param lost: what to do if the service no longer knows the result.
    """

    noun: str
    past: str
    key: str
    field: str
    parse: Callable[[Any], Any]
    name: Callable[[Any], str]
    failure: type[ManxueFailedError]
    result: str
    edit: str
    remedy: str
    failed: str
    check: str
    after_check: str
    recorded: str
    delivered: str
    another: str
    twice: str
    kept: str
    use: str
    if_logged: str
    lost: str

    @property
    def a_noun(self) -> str:
        """The noun with its article."""
        return f"an {self.noun}"


VIDEO_ORDER = OrderKind(
    noun="order",
    past="ordered",
    key="manxue_order",
    field="id",
    parse=parse_video_task_id,
    name=repr,
    failure=ManxueVideoFailedError,
    result="the video {name}",
    edit="the id of the video task there, as text, to continue with it",
    remedy='to continue with a video that exists, set the key {key!r} to its id (PUT with the body {{"value": "<id>"}})',
    failed="The service could not generate the video {name}, as an earlier try found",
    check="Check with the service whether there is a video of this prompt from {when} time.",
    after_check="If there is, wait for its id with a ManxueVideoSensor; if not, order again.",
    recorded="This task instance has ordered the video {name}, but would order another one now",
    delivered="The video {name} was ordered and delivered by an earlier try, and is returned again.",
    another="order another video",
    twice="order a second video",
    kept="The video {name} is ordered",
    use="Wait for it with a ManxueVideoSensor; clear this task to order another one.",
    if_logged="If the log of this task names an id, wait for it with a ManxueVideoSensor.",
    lost=(
        "The video is ordered, so it is not ordered again automatically. Look for it in the list of the service."
    ),
)

ASSET_UPLOAD = OrderKind(
    noun="upload",
    past="uploaded",
    key="manxue_upload",
    field="assets",
    parse=parse_receipt,
    name=name_receipt,
    failure=ManxueAssetFailedError,
    result="the assets {name}",
    edit="the list of the asset ids there, in the order of the URLs, to continue with them",
    remedy=(
        "to continue with assets that exist, set the key {key!r} to the list of their ids, in the order of the URLs (PUT with "
        'the body {{"value": ["<id>", ...]}})'
    ),
    failed="The service could not make or review the assets {name}, as an earlier try found",
    check="Check with the service whether there are assets of these URLs from {when} time.",
    after_check="If there are, use their asset:// URLs; if not, upload again.",
    recorded="This task instance has uploaded the assets {name}, but would upload other files now",
    delivered="The assets {name} were uploaded and delivered by an earlier try, and are returned again.",
    another="upload again",
    twice="upload a second time",
    kept="The assets {name} are uploaded",
    use="Query them with ManxueHook.get_assets; clear this task to upload again.",
    if_logged="If the log of this task names assets, use their asset:// URLs once they are active.",
    lost=(
        "The assets are uploaded, so they are not uploaded again automatically. Look for them in the list of the service."
    ),
)
