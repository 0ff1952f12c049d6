"""Which model runs: an alias that is moved at once, and only by a report that says so."""
