"""Choices of the user about the experts of a llama.cpp model."""
