"""
Lineage of a task that has ended, for OpenLineage.

This module needs OpenLineage's library, so it is imported only when OpenLineage requests the lineage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import define

from airflow.providers.common.compat.openlineage.facet import (
    OutputDataset,
    OutputStatisticsOutputDatasetFacet,
    RunFacet,
)
from airflow.providers.openlineage.extractors import OperatorLineage

from airflow_provider_manxue._core.destination import without_login
from airflow_provider_manxue.models import without_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FACET = "manxue_videos"
"""Name of the run facet."""

ASSETS_FACET = "manxue_assets"
"""Name of the run facet of a review."""


@define
class ManxueVideosRunFacet(RunFacet):
    """
    Run facet with the videos that a task has ordered, awaited or saved, without their URLs.

    :param videos: the known ones of ``id``, ``model``, ``status`` and ``actualDuration`` (seconds) of each video.
    """

    videos: list[dict[str, Any]]


@define
class ManxueAssetsRunFacet(RunFacet):
    """
    Run facet with the assets that a task has reviewed, without the URLs of their files.

    :param assets: ``assetId`` (None if the service made none), ``assetType`` and ``status`` of each asset.
    """

    assets: list[dict[str, Any]]


def lineage_of_assets(assets: Iterable[Mapping[str, Any]]) -> OperatorLineage[Any, Any]:
    """Return the lineage of a review of assets."""
    described = [dict(asset) for asset in assets]
    return OperatorLineage(
        run_facets={ASSETS_FACET: ManxueAssetsRunFacet(assets=described)} if described else {}
    )


def lineage_of(
    videos: Iterable[Mapping[str, Any]], saved: tuple[str, int] | None = None
) -> OperatorLineage[Any, Any]:
    """
    Return the lineage of a task.

    :param videos: the videos, under the service's field names.
    :param saved: URI and length in bytes of the file that the video was saved to.
    """
    described = [without_url(video) for video in videos]
    return OperatorLineage(
        outputs=[] if saved is None else [_dataset(*saved)],
        run_facets={FACET: ManxueVideosRunFacet(videos=described)} if described else {},
    )


def _dataset(uri: str, size: int) -> OutputDataset:
    """Return the dataset of a file. OpenLineage's naming convention: the store is the namespace, the path the name."""
    scheme, _, rest = without_login(uri).partition("://")
    host, _, path = rest.partition("/")
    is_local = not host
    namespace = scheme if is_local else f"{scheme}://{host}"
    statistics = OutputStatisticsOutputDatasetFacet(size=size, fileCount=1)
    return OutputDataset(
        namespace=namespace,
        name=f"/{path}" if is_local else path,
        outputFacets={"outputStatistics": statistics},
    )
