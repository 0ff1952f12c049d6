"""GGUF -> report: every contestant is scored as the file that ships, on the same rows; a gate decides."""
