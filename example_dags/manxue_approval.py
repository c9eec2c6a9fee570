"""
Example: a person approves each shot of an episode. A rejected shot is ordered again with the prompt that the person enters.

Needs Airflow 3.1 and its standard provider 1.5; below that, this file defines no Dag. The page *Approval by a person* describes it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.configuration import conf
from airflow.providers.common.compat.sdk import (
    AirflowOptionalProviderFeatureException,
    AirflowSkipException,
    Param,
    dag,
    task,
    task_group,
)

from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator
from airflow_provider_manxue.transfers.manxue_to_object_storage import ManxueToObjectStorageOperator

try:
    from airflow.providers.standard.operators.hitl import HITLOperator
except (ImportError, AirflowOptionalProviderFeatureException):
    HITLOperator = None

APPROVE, ORDER_AGAIN = "Approve", "Order again"
PROMPT_FIELD = Param(
    None, type=["null", "string"], title="Another prompt", description="Empty: the same prompt again."
)
MODEL = "sd2_manxue_720p"


@dag(
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    params={
        "shots": ["A lighthouse at dawn", "The keeper climbs the stairs", "The lamp is lit"],
        "destination": "file:///tmp/manxue/approval/",
        # The address at which a browser finds the files of the destination, such as a CDN in front of a bucket.
        "public_base": "",
    },
    tags=["manxue", "example"],
)
def manxue_approval():
    @task
    def shots(params=None) -> list[str]:
        return params["shots"]

    # Each shot goes through its steps alone: its question is asked as soon as it is saved.
    @task_group
    def shot(prompt):
        order = ManxueCreateVideoOperator(task_id="order", prompt=prompt, model=MODEL, retries=2)
        save = save_video(order, "save")

        # Airflow stores the question, so it has no signed URL.
        @task
        def describe(clip, params=None, ti=None) -> str:
            tab = f"{page_of_run(ti)}/tasks/shot.order/mapped/{ti.map_index}/plugin/manxue_video"
            copy = f"`{clip}`"
            if params["public_base"]:
                copy = f"[here]({clip.replace(params['destination'], params['public_base'], 1)})"
            return f"[Watch the video]({tab}). This works for about a day.\n\nThe saved copy: {copy}."

        # No worker slot is held while the person decides. Without a response in three days, the task fails.
        review = HITLOperator(
            task_id="review",
            subject=prompt,
            body=describe(save.output),
            options=[APPROVE, ORDER_AGAIN],
            params={"prompt": PROMPT_FIELD},
            response_timeout=timedelta(days=3),
        )

        # Airflow then skips the tasks that order again as well.
        @task
        def new_prompt(review, prompt) -> str:
            if ORDER_AGAIN not in review["chosen_options"]:
                raise AirflowSkipException("The shot was approved.")
            return review["params_input"].get("prompt") or prompt

        order_again = ManxueCreateVideoOperator(
            task_id="order_again", prompt=new_prompt(review.output, prompt), model=MODEL, retries=2
        )
        save_again = save_video(order_again, "save_again")

        @task(trigger_rule="none_failed")
        def approved(clip, new_clip) -> str:
            return new_clip or clip

        approved(save.output, save_again.output)

    # The clips in the order of the shots. A shot that failed is not in the episode; the others are. The indexes are given, since
    # Airflow 3.3 passes the output of a group as it is, not as a list, if only one of its instances has one.
    @task(trigger_rule="all_done")
    def episode(prompts, ti=None) -> list[str]:
        clips = ti.xcom_pull(task_ids="shot.approved", map_indexes=range(len(prompts)))
        return [clip for clip in clips if clip]

    prompts = shots()
    shot.expand(prompt=prompts) >> episode(prompts)


def save_video(order, task_id: str) -> ManxueToObjectStorageOperator:
    return ManxueToObjectStorageOperator(
        task_id=task_id,
        video_task_id=order.output["video_task_id"],
        destination="{{ params.destination }}",
        retries=3,
    )


def page_of_run(ti) -> str:
    return f"{conf.get('api', 'base_url').rstrip('/')}/dags/{ti.dag_id}/runs/{ti.run_id}"


if HITLOperator:
    manxue_approval()
