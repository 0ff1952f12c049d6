"""Jobs, and later the sensor and the schedule that start them."""

import dagster as dg

fine_tune = dg.define_asset_job(
    "fine_tune",
    selection=dg.AssetSelection.all(),
    description="The whole graph: from the files in the recipe's sources to a published model.",
)
