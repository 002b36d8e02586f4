"""Scoring of given tokens with llama.cpp: a context with an output for every token, and its tap."""
