"""Looking after a machine that the pipeline runs on for months: sizes, health, backups."""
