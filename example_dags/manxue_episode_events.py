"""
Example: save each shot of an episode as soon as it is ready, and start the cut by itself when all shots are saved.

Two Dags. ``manxue_episode_events`` orders and saves the shots, and then emits one event of the asset ``manxue-episode``.
``manxue_cut`` is scheduled on this asset, and reads paths and durations of the shots from the event. The saves emit events of
another asset, ``manxue-shot``. With one asset for both, the cut would start after the first shot.

The connection ``manxue_default`` leads to the service or to its emulator. Airflow 2 has no ``triggering_asset_events``.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import Asset, dag, task, task_group

from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator

SHOT = Asset("manxue-shot")
EPISODE = Asset("manxue-episode")


@dag(
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    params={
        "shots": ["A lighthouse at dawn", "The keeper climbs the stairs", "The lamp is lit"],
        "destination": "file:///tmp/manxue/episode/",
    },
    tags=["manxue", "example"],
)
def manxue_episode_events():
    @task
    def shots(params=None) -> list[str]:
        return params["shots"]

    # In a mapped group a shot is saved when its own video is ready. Mapped tasks without a group would wait for all videos.
    @task_group
    def shot(prompt):
        order = ManxueCreateVideoOperator(task_id="order", prompt=prompt, model="sd2_manxue_720p", retries=2)
        ManxueToObjectStorageOperator(
            task_id="save",
            video_task_id=order.output["video_task_id"],
            destination="{{ params.destination }}",
            outlets=[SHOT],
            retries=3,
        )

    # It runs after all saves, and not at all if one of them has failed.
    @task(outlets=[EPISODE], retries=2)
    def publish(ti=None, outlet_events=None) -> None:
        # A list of task ids, since Airflow returns a single value for a single id if the episode has one shot.
        saved = ti.xcom_pull(task_ids=["shot.save"], key="saved_video")
        outlet_events[EPISODE].extra = {"shots": saved}

    shot.expand(prompt=shots()) >> publish()


@dag(
    schedule=[EPISODE],
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["manxue", "example"],
)
def manxue_cut():
    # One run has several events if several episodes were published before it began.
    @task
    def episodes(triggering_asset_events=None) -> list[dict]:
        return [event.extra for events in triggering_asset_events.values() for event in events]

    # The result is a playlist for ffmpeg: ffmpeg -f concat -i cut.ffconcat -c copy film.mp4
    @task(retries=1)
    def cut(episode: dict) -> str:
        from airflow.providers.common.compat.sdk import ObjectStoragePath

        lines = ["ffconcat version 1.0"]
        for shot in episode["shots"]:
            folder, _, name = shot["uri"].rpartition("/")
            lines.append(f"file '{name}'")
            if shot["duration"] is not None:  # the service may omit it
                lines.append(f"duration {shot['duration']}")
        playlist = ObjectStoragePath(f"{folder}/cut.ffconcat")
        with playlist.open("w") as file:
            file.write("\n".join(lines) + "\n")
        print(f"{len(episode['shots'])} shots make the cut {playlist}.")
        return str(playlist)

    cut.expand(episode=episodes())


manxue_episode_events()
manxue_cut()
