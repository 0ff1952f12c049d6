"""Makes the embedded base model: generated text, a tokenizer, a small Llama. Nothing here knows the demo task."""
