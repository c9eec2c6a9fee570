"""Base of the tasks that upload assets, and wait until the service has reviewed them."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_manxue._airflow.batch_wait import BatchWait
from airflow_provider_manxue._airflow.ordered_wait import OrderedWait
from airflow_provider_manxue._core.assets import ASSET, parse_receipt, to_receipt
from airflow_provider_manxue._core.batch import BatchProgress
from airflow_provider_manxue._core.order_kinds import ASSET_UPLOAD
from airflow_provider_manxue._core.uploads import URL_LISTS, errors_of, from_receipt, to_results

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.triggers.base import BaseTrigger

    from airflow_provider_manxue._core.uploads import UploadRequest
    from airflow_provider_manxue.exceptions import ManxueError
    from airflow_provider_manxue.models import Asset


class AssetReviewWait(OrderedWait, BatchWait):
    """Upload of files, and the wait for the review of their assets. The receipt has one entry for each distinct file."""

    order_kind = ASSET_UPLOAD
    receipt_key = "manxue_upload"
    subject = ASSET

    _receipt: Any = None
    """Receipt of the upload, from the moment at which it is known."""

    def _send(self, request: UploadRequest) -> Any:
        return to_receipt(self.hook.send_upload(request).assets)

    def _parse_receipt(self, value: Any) -> Any:
        try:
            return parse_receipt(value)
        except ValueError:
            return None

    def _load_receipt(self, context: Context) -> Any:
        self._receipt = super()._load_receipt(context)
        return self._receipt

    def _await_result(self, context: Context, receipt: Any) -> Any:
        self._receipt = receipt
        return self._begin(context)

    def _begin(self, context: Context) -> Any:
        """Wait for all assets. If the service made none, there is nothing to wait for."""
        if self._ids(context):
            return super()._begin(context)
        now = time.time()
        return self._push_results(context, BatchProgress([], now, now, has_worked=False))

    def execute_complete(
        self,
        context: Context,
        event: Any,
        started_at: float | None = None,
        try_number: int | None = None,
        kept: bool = False,
        order_time: float = 0.0,
        assets: Any = None,
    ) -> Any:
        """
        Resume when the trigger has fired, and read the assets that have ended.

        :param event: the trigger's event.
        :param started_at: when the wait began, in seconds since the epoch.
        :param try_number: number of the try that deferred.
        :param kept: whether the task had read some assets before it deferred. They are in its XCom ``manxue_kept``.
        :param order_time: seconds from the first start of the try that deferred to the acceptance of the upload.
        :param assets: the receipt of the upload.
        """
        self._order_time = order_time
        self._receipt = self._parse_receipt(assets) or self._load_receipt(context)
        with self._track_order_outcome(context, self._receipt):
            if not self._is_stale(context, try_number):
                return self._resume(context, event, started_at, kept=kept)
            self._log_stale()
            self._order_time = 0.0
            self._push_receipt(context, self._receipt)  # Airflow has deleted the XComs of the earlier try
            return self._begin(context)

    def _resume_arguments(self, context: Context) -> dict[str, Any]:
        return {**super()._resume_arguments(context), "assets": self._receipt}

    def _trigger(self, ids: list[str], **progress: Any) -> Callable[..., BaseTrigger]:
        from airflow_provider_manxue.triggers.manxue import ManxueAssetTrigger

        return partial(ManxueAssetTrigger, asset_ids=ids, **progress)

    # --- results ------------------------------------------------------------------------------------------

    def _assets(self) -> tuple[UploadRequest, list[Asset]]:
        """Return the request, and the uploaded assets of its files."""
        request: Any = self._request()
        return request, from_receipt(request, self._receipt)

    def _ids(self, context: Context) -> list[str]:
        return [asset.id for asset in self._assets()[1] if asset.id]

    def _results(self, progress: BatchProgress) -> dict[str, Any]:
        results = to_results(*self._assets(), progress.known)
        self._seen = [
            {name: asset[name] for name in ("assetId", "assetType", "status")} for asset in results["assets"]
        ]
        return {**results, "return_value": results}

    def _errors(self, progress: BatchProgress) -> Mapping[str, ManxueError]:
        return errors_of(*self._assets(), progress.known)

    def _is_failure(self, errors: Mapping[str, ManxueError], results: Mapping[str, Any]) -> bool:
        """Return whether the task fails: also without any asset, since an order without its references is another one."""
        return super()._is_failure(errors, results) or not any(results[name] for name in URL_LISTS)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return the assets that this task has reviewed. OpenLineage calls it when the task has ended."""
        from airflow_provider_manxue._airflow.lineage import lineage_of_assets

        return lineage_of_assets(self._seen)
