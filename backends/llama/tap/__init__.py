"""Tap on the routers of llama.cpp through its evaluation callback, compiled from C if there is a compiler."""
