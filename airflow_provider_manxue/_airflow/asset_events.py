"""Asset events (Airflow 2: dataset events) of saved videos. Airflow itself emits them when the task has succeeded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import Asset, AssetAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_manxue._core.saved_video import SavedVideo


def describe_events(outlets: Iterable[Any], outlet_events: Any, video: SavedVideo, log: Any) -> None:
    """
    Put a saved video into the ``extra`` of the event of each outlet.

    The event of an asset alias is one of the asset with the file's URI, as Airflow defines it. A failure is logged, since the
    video is saved.

    :param outlets: the outlets of the task.
    :param outlet_events: ``outlet_events`` of the task's context.
    :param video: the saved video.
    :param log: log of the task.
    """
    for outlet in outlets:
        try:
            event = outlet_events[outlet]
            if isinstance(outlet, AssetAlias):
                event.add(Asset(uri=video.asset_uri), extra=video.to_dict())
            else:
                event.extra.update(video.to_dict())
        except Exception as error:  # noqa: BLE001 - an outlet that Airflow does not know, or a URI that is no asset's
            log.warning(
                "The event of the outlet %r has no details of the video (%s).", outlet, type(error).__name__
            )
