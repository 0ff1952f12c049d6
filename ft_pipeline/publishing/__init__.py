"""Which model runs: aliases that are moved at once and only by a report that says so, and the folder that shows it."""
