"""
Example: the whole production line of an episode. Faces are reviewed, shots are ordered, saved and approved by a person, rejected ones
are ordered again, and the cut starts by itself.

Two Dags. ``manxue_production_line`` emits one event of the asset ``manxue-line-episode`` when each shot has been approved, or has failed.
``manxue_production_cut`` is scheduled on this asset and joins the approved shots into a film.

Needs Airflow 3.1 and its standard provider 1.5; below that, this file defines no Dag. Needs ffmpeg (``pip install imageio-ffmpeg``) and the
file ``plugins/film_joiner.py`` in Airflow's plugins folder. The page *Production line* describes it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from film_joiner import make_film

from airflow.configuration import conf
from airflow.providers.common.compat.sdk import (
    AirflowOptionalProviderFeatureException,
    AirflowSkipException,
    Asset,
    Param,
    dag,
    task,
    task_group,
)

from airflow_provider_manxue.operators.assets import ManxueReviewAssetsOperator
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator

try:
    from airflow.providers.standard.operators.hitl import HITLOperator
except (ImportError, AirflowOptionalProviderFeatureException):
    HITLOperator = None

EPISODE = Asset("manxue-line-episode")
APPROVE, ORDER_AGAIN = "Approve", "Order again"
PROMPT_FIELD = Param(
    None, type=["null", "string"], title="Another prompt", description="Empty: the same prompt again."
)
ORDER = {"model": "sd2_manxue_720p", "retries": 2}


@dag(
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    params={
        "faces": ["https://example.com/anna.png", "https://example.com/ben.png"],
        # A reference is the address of a face above, or the asset:// URL of an earlier review.
        "shots": [
            {"prompt": "Anna climbs the stairs", "references": ["https://example.com/anna.png"]},
            {"prompt": "Ben lights the lamp", "references": ["https://example.com/ben.png"]},
        ],
        "destination": "file:///tmp/manxue/line/",
    },
    # A template that is a list stays a list.
    render_template_as_native_obj=True,
    tags=["manxue", "example"],
)
def manxue_production_line():
    review_faces = ManxueReviewAssetsOperator(
        task_id="review_faces", image_urls="{{ params.faces }}", retries=2
    )

    @task
    def plan(active, params=None) -> list[dict]:
        asset_of = dict(zip(params["faces"], active, strict=True))
        return [
            {
                "prompt": shot["prompt"],
                "references": [asset_of.get(reference, reference) for reference in shot["references"]],
            }
            for shot in params["shots"]
        ]

    # Each shot goes through its steps alone. A shot that fails stops no other one.
    @task_group
    def shot(prompt, references):
        order = ManxueCreateVideoOperator(
            task_id="order", prompt=prompt, reference_images=references, **ORDER
        )
        save = save_video(order, "save")

        # Airflow stores the question, so it has no signed URL.
        @task
        def describe(clip, ti=None) -> str:
            run = f"{conf.get('api', 'base_url').rstrip('/')}/dags/{ti.dag_id}/runs/{ti.run_id}"
            tab = f"{run}/tasks/shot.order/mapped/{ti.map_index}/plugin/manxue_video"
            return f"[Watch the video]({tab}). The saved copy: `{clip}`."

        approve = HITLOperator(
            task_id="approve",
            subject=prompt,
            body=describe(save.output),
            options=[APPROVE, ORDER_AGAIN],
            params={"prompt": PROMPT_FIELD},
            response_timeout=timedelta(days=3),
        )

        @task
        def new_prompt(response, prompt) -> str:
            if ORDER_AGAIN not in response["chosen_options"]:
                raise AirflowSkipException("The shot was approved.")
            return response["params_input"].get("prompt") or prompt

        order_again = ManxueCreateVideoOperator(
            task_id="order_again",
            prompt=new_prompt(approve.output, prompt),
            reference_images=references,
            **ORDER,
        )
        save_again = save_video(order_again, "save_again")

        # Pulled here, since an argument fails where its task was skipped.
        @task(trigger_rule="none_failed")
        def approved(ti=None) -> dict:
            tasks = ["shot.save", "shot.save_again"]
            clip, new_clip = ti.xcom_pull(task_ids=tasks, key="saved_video", map_indexes=ti.map_index)
            return new_clip or clip

        [save, save_again] >> approved()

    # One event for the whole episode. It has paths and lengths, and no signed URL.
    @task(outlets=[EPISODE], trigger_rule="all_done", retries=2)
    def publish(shots, params=None, ti=None, outlet_events=None) -> int:
        clips = ti.xcom_pull(task_ids="shot.approved", map_indexes=range(len(shots)))
        saved = [clip for clip in clips if clip]
        if not saved:
            raise ValueError("No shot was approved, so there is nothing to cut.")
        outlet_events[EPISODE].extra = {"shots": saved, "film": f"{params['destination']}film.mp4"}
        print(f"{len(saved)} of {len(shots)} shots are in the episode.")
        return len(saved)

    shots = plan(review_faces.output["image_urls"])
    shot.expand_kwargs(shots) >> publish(shots)


def save_video(order, task_id: str) -> ManxueToObjectStorageOperator:
    return ManxueToObjectStorageOperator(
        task_id=task_id,
        video_task_id=order.output["video_task_id"],
        destination="{{ params.destination }}",
        retries=3,
    )


@dag(
    schedule=[EPISODE],
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["manxue", "example"],
)
def manxue_production_cut():
    # One run has several events if several episodes were published before it began.
    @task
    def episodes(triggering_asset_events=None) -> list[dict]:
        return [event.extra for events in triggering_asset_events.values() for event in events]

    @task(retries=1)
    def cut(episode: dict) -> str:
        clips = [shot["uri"] for shot in episode["shots"]]
        make_film(clips, [shot["duration"] for shot in episode["shots"]], episode["film"])
        return episode["film"]

    cut.expand(episode=episodes())


if HITLOperator:
    manxue_production_line()
    manxue_production_cut()
