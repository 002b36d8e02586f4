"""Commands on session files: sessions, verify, export, import, compare."""
