"""The Dagster layer: assets, their checks, resources and jobs. It holds no logic of the pipeline's own."""
