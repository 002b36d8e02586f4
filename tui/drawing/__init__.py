"""Drawing primitives: colours, lines of cells, braille charts."""
