"""Model files on disk and on the Hugging Face Hub: formats, headers, sizes, checks before loading."""
