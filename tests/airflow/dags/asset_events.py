"""Producers and consumers of asset events."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import DAG, Asset, AssetAlias, task

from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator

START = datetime(2025, 1, 1, tzinfo=UTC)
KEYED, PLAIN = Asset("keyed-episode"), Asset("plain-episode")


@task
def consume():
    return None


with DAG("mapped_saves", schedule=None, start_date=START, catchup=False):

    @task
    def videos(dag_run=None):
        return dag_run.conf["videos"]

    ManxueToObjectStorageOperator.partial(
        task_id="save",
        destination="{{ dag_run.conf['destination'] }}",
        outlets=[Asset("mapped-shot"), AssetAlias("mapped-file")],
    ).expand(video_task_id=videos())

# A Dag that shows when Airflow has handled the events of shots.
with DAG("on_shot", schedule=[Asset("manxue-shot")], start_date=START, catchup=False):
    consume()

try:
    from airflow.sdk import PartitionedAssetTimetable
except ImportError:  # below Airflow 3.2
    pass
else:
    with DAG("partitioned_episode", schedule=None, start_date=START, catchup=False):

        @task(outlets=[KEYED, PLAIN])
        def publish(params=None, dag_run=None, outlet_events=None):
            outlet_events[KEYED].extra = {"shots": []}
            outlet_events[KEYED].add_partitions(dag_run.conf["episode"])

        publish()

    with DAG(
        "partitioned_cut",
        schedule=PartitionedAssetTimetable(assets=KEYED),
        start_date=START,
        catchup=False,
    ):

        @task
        def cut(dag_run=None, triggering_asset_events=None):
            [event] = triggering_asset_events[KEYED]
            return [dag_run.partition_key, event.extra]

        cut()

    with DAG("unpartitioned_cut", schedule=[KEYED], start_date=START, catchup=False):
        consume()

    with DAG("partition_control", schedule=[PLAIN], start_date=START, catchup=False):
        consume()
