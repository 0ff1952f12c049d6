"""Facts of GGUFs that are too large for a test, by their published shapes."""

from __future__ import annotations

from ft_pipeline.evaluation.gguf_facts import GgufFacts, Layer

_VOCABULARY, _HIDDEN, _LAYERS = 128_256, 4096, 32
_LAYER_WEIGHTS = 218_112_000
_OUTPUT_WEIGHTS = _VOCABULARY * _HIDDEN


def make_llama_8b(layer_bits: float, output_bits: float) -> GgufFacts:
    """Llama 3.1 8B: 8 heads of keys and values of 128 each, embeddings not tied."""
    weights = round(_LAYER_WEIGHTS * layer_bits / 8)
    output = round(_OUTPUT_WEIGHTS * output_bits / 8)
    layer = Layer(weights, weights // 4, cache_bytes_per_token=8 * (128 + 128) * 2)
    return GgufFacts(
        size_bytes=2 * output + _LAYERS * weights,
        layers=(layer,) * _LAYERS,
        output_bytes=output,
        vocabulary=_VOCABULARY,
        hidden=_HIDDEN,
        heads=32,
        intermediate=14_336,
        context_tokens=131_072,
    )


# 4.9 GB and 16 GB, as they lie on the Hub.
LLAMA_8B_Q4_K_M = make_llama_8b(4.82, 6.5625)
LLAMA_8B_F16 = make_llama_8b(16, 16)
