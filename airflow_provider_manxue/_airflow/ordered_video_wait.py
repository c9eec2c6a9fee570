"""Base of the tasks that wait for a video that they have ordered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._airflow.ordered_wait import OrderedWait
from airflow_provider_manxue._airflow.single_wait import SingleVideoWait
from airflow_provider_manxue._core.ids import names_a_task, parse_video_task_id
from airflow_provider_manxue._core.order_kinds import VIDEO_ORDER

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_manxue._core.orders import VideoRequest


class OrderedVideoWait(OrderedWait, SingleVideoWait):
    """
    Order of a video, and the wait for it. The receipt of the order is the id of the video.

    :ivar wait_for_completion: whether the task waits for the video.
    """

    order_kind = VIDEO_ORDER
    receipt_key = "video_task_id"
    _remedy_for_mode = ", or wait_for_completion=False and a ManxueVideoSensor"

    wait_for_completion: bool
    model: Any

    @property
    def _waits(self) -> bool:
        return self.wait_for_completion

    def _send(self, request: VideoRequest) -> str:
        return self.hook.send_order(request).id

    def _parse_receipt(self, value: Any) -> str | None:
        return parse_video_task_id(value) if names_a_task(value) else None

    def _await_result(self, context: Context, receipt: str) -> dict[str, Any] | str:
        if not self.wait_for_completion:
            self._seen = [{"id": receipt, "model": self.model}]
            return receipt
        return self._begin(context, receipt)

    def execute_complete(
        self,
        context: Context,
        event: Any,
        started_at: float | None = None,
        try_number: int | None = None,
        order_time: float = 0.0,
    ) -> dict[str, Any]:
        """
        Resume when the trigger has fired, and read the video.

        :param order_time: seconds from the first start of the try that deferred to the acceptance of the order.
        """
        self._order_time = order_time
        video_task_id = str(event.get("video_task_id", "")) if isinstance(event, dict) else ""
        with self._track_order_outcome(context, video_task_id):
            return super().execute_complete(context, event, started_at, try_number)

    def _resume_stale(self, context: Context, video_task_id: str) -> dict[str, Any]:
        # The event of the earlier try names the order, so nothing is sent.
        self._order_time = 0.0
        video_task_id = video_task_id or self._awaited_id(context)
        self._push_receipt(context, video_task_id)  # Airflow has deleted the XComs of the earlier try
        return super()._resume_stale(context, video_task_id)

    def _awaited_id(self, context: Context) -> str:
        return str(self._load_receipt(context))
