"""Router scores read from llama.cpp by its evaluation callback, compiled from C where a compiler is found."""
