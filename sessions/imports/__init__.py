"""Import of traces of other programs as session files. Data that a format lacks stays absent."""
