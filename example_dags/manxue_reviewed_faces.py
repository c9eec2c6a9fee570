"""
Example: have pictures of faces reviewed, and order a video with them.

The service refuses references with faces, unless they are reviewed assets. The connection ``manxue_default`` leads to the service
or to its emulator. With Airflow 3.3 and later a retry continues with the upload and the order of the first try.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import dag

from airflow_provider_manxue.operators.assets import ManxueReviewAssetsOperator
from airflow_provider_manxue.operators.manxue import ManxueCreateVideoOperator


@dag(
    schedule=None,
    start_date=datetime(2025, 1, 1, tzinfo=UTC),
    catchup=False,
    params={
        "faces": ["https://example.com/anna.png", "https://example.com/ben.png"],
        "prompt": "The two of them meet at a lighthouse at dawn",
        "model": "sd2_manxue_1080p",
    },
    # Only so that a template in a list of parameters stays a list.
    render_template_as_native_obj=True,
    tags=["manxue", "example"],
)
def manxue_reviewed_faces():
    review = ManxueReviewAssetsOperator(task_id="review", image_urls="{{ params.faces }}", retries=2)
    ManxueCreateVideoOperator(
        task_id="order",
        prompt="{{ params.prompt }}",
        model="{{ params.model }}",
        reference_images=review.output["image_urls"],
        retries=2,
    )


manxue_reviewed_faces()
