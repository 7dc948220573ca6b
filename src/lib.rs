//! Finds out why a fine-tuned MLX language model answers badly, and says how to fix it.
